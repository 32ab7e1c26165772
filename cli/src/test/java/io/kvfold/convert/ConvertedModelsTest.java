package io.kvfold.convert;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;
import static org.assertj.core.api.Assumptions.assumeThat;

import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.KvType;
import io.kvfold.Logits;
import io.kvfold.NativeLibrary;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufType;
import io.kvfold.gguf.MemoryEstimate;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Objects;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** From a folder through the converter and the engine to logits. */
class ConvertedModelsTest {

    private static final Path GOLDEN = Path.of("../../shared/golden");

    @TempDir
    Path folder;

    /** Ubatches of 16 and 32 tokens: 9 passes as the models' metadata says, whose last 8 tokens follow one by one. */
    @ParameterizedTest
    @CsvSource({
        "llama, 1, logits_exact_sequential",
        "cla2, 1, logits_exact_sequential",
        "lckv_w2, 1, logits_exact_sequential",
        "lckv_w2_nodiag, 1, logits_exact_sequential",
        "yoco_sw8, 1, logits_exact_sequential",
        "llama, 32, logits_prefill32_iter9_then_decode8",
        "cla2, 16, logits_prefill16x2_iter9_then_decode8",
        "lckv_w2, 32, logits_prefill32_iter9_then_decode8",
        "lckv_w2, 16, logits_prefill16x2_iter9_then_decode8",
        "lckv_w2_nodiag, 32, logits_prefill32_iter9_then_decode8",
        "lckv_w2_nodiag, 16, logits_prefill16x2_iter9_then_decode8",
        "yoco_sw8, 16, logits_prefill16x2_iter9_then_decode8",
    })
    void givesTheLogitsOfTheGoldenModels(String name, int ubatch, String expected) throws IOException {
        assumeThat(GOLDEN).as("the golden models are not at hand").exists();
        Path model = convert(GOLDEN.resolve(name));
        Path vectors = Files.createDirectory(folder.resolve("expected"));
        Files.copy(GOLDEN.resolve(name).resolve("expected.safetensors"), vectors.resolve(Safetensors.SINGLE_FILE));
        Safetensors golden = Safetensors.open(vectors);
        int[] tokens = ids(Objects.requireNonNull(golden.find("input_ids")));

        // The last 8 tokens of a chunk of 40 would be iterated with the others, where the vectors decode them one by
        // one;
        // 8 tokens are exact within 9 passes, so that the result is the same.
        assertThat(distance(logits(model, ubatch, tokens), Objects.requireNonNull(golden.find(expected))))
                .isLessThan(1e-3);
    }

    @Test
    void computesTheSameFromEveryTypeOfOutput() throws IOException {
        Path source = ModelFolder.of(folder.resolve("model"), "llama").write();
        int[] tokens = {1, 5, 9, 13, 2, 39};
        Logits full = logits(convert(source), 32, tokens);
        for (OutputType type : new OutputType[] {OutputType.F16, OutputType.BF16, OutputType.Q8_0}) {
            Path target = folder.resolve(type + ".gguf");
            Converter.convert(source, target, type, ConversionListener.NONE);
            Logits rounded = logits(target, 32, tokens);
            for (int token = 0; token < tokens.length; token++) {
                for (int id = 0; id < full.vocabularySize(); id++) {
                    assertThat(Math.abs(rounded.get(token, id) - full.get(token, id)))
                            .as("%s, token %s, id %s", type, token, id)
                            .isLessThan(0.03f);
                }
            }
        }
    }

    @Test
    void letsEveryLayerOfMistralSlide() throws IOException {
        Path full = convert(ModelFolder.of(folder.resolve("full"), "mistral").write());
        int[] tokens = IntStream.range(0, 40).toArray();
        Logits expected = logits(full, 32, tokens);
        Path sliding = convert(ModelFolder.of(folder.resolve("sliding"), "mistral")
                .set("sliding_window", 12)
                .write());
        Logits actual = logits(sliding, 32, tokens);

        for (int id = 0; id < expected.vocabularySize(); id++) {
            assertThat(actual.get(11, id))
                    .as("token 11, all within the window")
                    .isEqualTo(expected.get(11, id), within(1e-4f));
        }
        float difference = 0;
        for (int id = 0; id < expected.vocabularySize(); id++) {
            difference = Math.max(difference, Math.abs(actual.get(12, id) - expected.get(12, id)));
        }
        assertThat(difference).as("token 12 no longer sees token 0").isGreaterThan(1e-4f);
    }

    /** What {@code inspect} says of a file is what the engine then allocates, to the byte. */
    @ParameterizedTest
    @ValueSource(strings = {"llama", "cla2", "lckv_w2", "lckv_w2_nodiag", "yoco_sw8"})
    void takesTheMemoryThatItsHeaderPredicts(String name) throws IOException {
        assumeThat(GOLDEN).as("the golden models are not at hand").exists();
        Path model = convert(GOLDEN.resolve(name));
        MemoryEstimate estimate = MemoryEstimate.of(GgufFile.open(model), null, GgufType.F16, GgufType.Q8_0);
        assumeNativeLibrary();

        try (Engine engine = Engine.builder()
                .model(model)
                .contextSize(2048)
                .slots(2)
                .threads(1)
                .ubatchSize(64)
                .kvCacheTypes(KvType.F16, KvType.Q8_0)
                .flashAttention(FlashAttention.ON)
                .option("kv-unified", false)
                .open()) {
            assertThat(engine.kvCacheStats().bytesAllocated()).isEqualTo(estimate.kvBytes(2 * 2048, 2, false, 64));
            assertThat(engine.kvCacheStats().bytesPerToken()).isEqualTo(estimate.kvBytesPerToken());
        }
    }

    private Path convert(Path source) throws IOException {
        Path target = folder.resolve("model.gguf");
        Converter.convert(source, target, OutputType.F32, ConversionListener.NONE);
        return target;
    }

    private static Logits logits(Path model, int ubatch, int[] tokens) {
        assumeNativeLibrary();
        try (Engine engine = Engine.builder()
                .model(model)
                .contextSize(256)
                .slots(1)
                .threads(1)
                .ubatchSize(ubatch)
                .kvCacheTypes(KvType.F32, KvType.F32)
                .flashAttention(FlashAttention.OFF)
                .open()) {
            return engine.evaluate(tokens);
        }
    }

    private static void assumeNativeLibrary() {
        assumeThat(NativeLibrary.isAvailable())
                .as("the native library: %s", NativeLibrary.unavailabilityCause())
                .isTrue();
    }

    private static double distance(Logits actual, Safetensors.Tensor expected) throws IOException {
        Safetensors.Rows rows = new Safetensors.Rows(expected);
        float[] row = new float[actual.vocabularySize()];
        double distance = 0;
        for (int token = 0; token < actual.tokens(); token++) {
            rows.read(token, row);
            for (int id = 0; id < row.length; id++) {
                distance = Math.max(distance, Math.abs((double) row[id] - actual.get(token, id)));
            }
        }
        return distance;
    }

    private static int[] ids(Safetensors.Tensor tensor) throws IOException {
        byte[] file = Files.readAllBytes(tensor.file());
        ByteBuffer bytes = ByteBuffer.wrap(
                        Arrays.copyOfRange(file, (int) tensor.offset(), (int) (tensor.offset() + tensor.bytes())))
                .order(ByteOrder.LITTLE_ENDIAN);
        int size = tensor.typeName().equals("I64") ? 8 : 4;
        int[] ids = new int[bytes.remaining() / size];
        for (int i = 0; i < ids.length; i++) {
            ids[i] = bytes.getInt(i * size);
        }
        return ids;
    }
}
