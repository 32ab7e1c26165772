package io.kvfold.convert;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;
import static org.assertj.core.api.Assumptions.assumeThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.InvalidModelException;
import io.kvfold.KvType;
import io.kvfold.Logits;
import io.kvfold.NativeLibrary;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKeys;
import io.kvfold.gguf.GgufKvPlan;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Folders of which the configuration does not say all, held to what transformers computes. {@code src/test/python/toy_logits.py}
 * made the vectors and says how.
 */
class ConvertedFoldersTest {

    private static final int[] TOKENS =
            IntStream.range(0, 24).map(i -> (7 * i + 3) % 40).toArray();
    private static final Map<String, Object> LAST = Map.of(
            "word_embedding_dimension",
            ModelFolder.WIDTH,
            "pooling_mode_mean_tokens",
            false,
            "pooling_mode_lasttoken",
            true);
    private static final Map<String, Object> MEAN = Map.of("pooling_mode_mean_tokens", true, "include_prompt", true);

    /** What is embedded, in bytes and five pairs of them, and then the token that ends a text to embed. */
    private static final String TEXT = "No keys and no values, it said";

    private static final ToyTokenizer TOKENIZER =
            ToyTokenizer.byteLevel(List.of(TokenizersTest.PRE_GPT2), false, TEXT, 5);
    private static final int VOCABULARY = TOKENIZER.ids.size() + 2;

    @TempDir
    private static Path temporary;

    /** A folder and the plan that it is converted with. */
    private record Toy(ModelFolder folder, @Nullable String plan) {

        /** With weights so large that attention looks somewhere, which the small ones of others let it hardly do. */
        private Toy {
            folder.tensors.values().forEach(tensor -> {
                boolean norm = tensor.shape().length == 1;
                for (int i = 0; i < tensor.values().length; i++) {
                    tensor.values()[i] = norm ? 1 + tensor.values()[i] : 3 * tensor.values()[i];
                }
            });
        }

        Toy(ModelFolder folder) {
            this(folder, null);
        }

        @Override
        public String toString() {
            return folder.path.getFileName().toString();
        }
    }

    private static ModelFolder folder(String name, String modelType, int vocabulary) {
        Path parent = Path.of(System.getProperty("kvfold.toy-folders", temporary.toString()));
        return ModelFolder.of(parent.resolve(name), modelType, vocabulary).set("head_dim", ModelFolder.HEAD_SIZE);
    }

    private static ModelFolder folder(String name, String modelType) {
        return folder(name, modelType, 40);
    }

    private static ModelFolder withNorms(ModelFolder folder) {
        for (int layer = 0; layer < ModelFolder.LAYERS; layer++) {
            String attention = "model.layers." + layer + ".self_attn.";
            folder.add(attention + "q_norm.weight", ModelFolder.HEAD_SIZE)
                    .add(attention + "k_norm.weight", ModelFolder.HEAD_SIZE);
        }
        return folder;
    }

    private static ModelFolder withBiases(ModelFolder folder) {
        for (int layer = 0; layer < ModelFolder.LAYERS; layer++) {
            String attention = "model.layers." + layer + ".self_attn.";
            folder.add(attention + "q_proj.bias", ModelFolder.WIDTH)
                    .add(attention + "k_proj.bias", ModelFolder.HEADS_KV * ModelFolder.HEAD_SIZE)
                    .add(attention + "v_proj.bias", ModelFolder.HEADS_KV * ModelFolder.HEAD_SIZE);
        }
        return folder;
    }

    /** A folder that ends answers with another token than texts to embed, as Qwen3's do. */
    private static Toy embedder(ModelFolder folder, boolean tied, Map<String, Object> pooling) {
        Map<String, Object> plain = Map.of("single_word", false, "lstrip", false, "rstrip", false, "normalized", false);
        List<Map<String, Object>> added = new ArrayList<>();
        for (String text : List.of("<|end|>", "<|answered|>")) {
            Map<String, Object> token = new LinkedHashMap<>(plain);
            token.put("id", TOKENIZER.ids.size() + added.size());
            token.put("content", text);
            token.put("special", true);
            added.add(token);
        }
        Map<String, Object> byteLevel =
                Map.of("type", "ByteLevel", "add_prefix_space", false, "trim_offsets", true, "use_regex", true);
        Map<String, Object> sequence = Map.of("Sequence", Map.of("id", "A", "type_id", 0));
        Map<String, Object> end = Map.of("SpecialToken", Map.of("id", "<|end|>", "type_id", 0));
        Map<String, Object> json = new LinkedHashMap<>();
        json.put("version", "1.0");
        json.put("added_tokens", added);
        json.put("pre_tokenizer", byteLevel);
        json.put("decoder", byteLevel);
        json.put(
                "post_processor",
                Map.of(
                        "type", "TemplateProcessing",
                        "single", List.of(sequence, end),
                        "pair", List.of(sequence, end),
                        "special_tokens",
                                Map.of(
                                        "<|end|>",
                                        Map.of(
                                                "id", "<|end|>",
                                                "ids", List.of(TOKENIZER.ids.size()),
                                                "tokens", List.of("<|end|>")))));
        json.put("model", Map.of("type", "BPE", "vocab", TOKENIZER.ids, "merges", TOKENIZER.merges));
        folder.json("tokenizer.json", json);
        folder.json(
                "tokenizer_config.json",
                Map.of("eos_token", "<|answered|>", "tokenizer_class", "PreTrainedTokenizerFast"));
        folder.file("text", TEXT);
        return new Toy(folder.withoutHead().pooling(pooling).set("tie_word_embeddings", tied));
    }

    private static ModelFolder scaled(String name, String key) {
        return folder(name, "llama")
                .set(
                        "rope_scaling",
                        Map.of(
                                "type",
                                "yarn",
                                "rope_type",
                                "yarn",
                                "factor",
                                4.0,
                                "original_max_position_embeddings",
                                64,
                                key,
                                0.75));
    }

    private static Stream<Toy> generators() {
        return Stream.of(
                new Toy(folder("llama", "llama")),
                new Toy(folder("cla2", "llama"), "0_0_2"),
                new Toy(folder("cla3", "llama").consumers(1, 2), "cla:3"),
                new Toy(withNorms(folder("qwen3-cla2", "qwen3")), "0_1_1"),
                new Toy(scaled("attention-factor", "attention_factor")),
                new Toy(scaled("attn-factor", "attn_factor")),
                new Toy(folder("max-sequence-length", "llama")
                        .unset("max_position_embeddings")
                        .set("max_sequence_length", 200)));
    }

    private static Stream<Toy> embedders() {
        return Stream.of(
                embedder(withNorms(folder("qwen3-embedding", "qwen3", VOCABULARY)), true, LAST),
                embedder(folder("e5", "mistral", VOCABULARY), false, LAST),
                embedder(withBiases(folder("mean", "qwen2", VOCABULARY)), true, MEAN));
    }

    private static GgufFile convert(Toy toy) throws IOException {
        Path target = temporary.resolve(toy + ".gguf");
        Converter.convert(toy.folder().write(), target, OutputType.F32, toy.plan(), ConversionListener.NONE);
        if (toy.plan() != null) {
            toy.folder()
                    .file(
                            "kv_plan",
                            GgufKvPlan.read(GgufFile.open(target)).orElseThrow().toString());
        }
        assumeThat(NativeLibrary.isAvailable())
                .as("the native library: %s", NativeLibrary.unavailabilityCause())
                .isTrue();
        return GgufFile.open(target);
    }

    private static Engine.Builder engine(GgufFile model) {
        return Engine.builder()
                .model(model.path())
                .contextSize(64)
                .slots(1)
                .threads(1)
                .kvCacheTypes(KvType.F32, KvType.F32)
                .flashAttention(FlashAttention.OFF);
    }

    private static float[] expected(Toy toy) throws IOException {
        String resource = "/pytorch/" + toy + ".f32";
        try (InputStream in =
                Objects.requireNonNull(ConvertedFoldersTest.class.getResourceAsStream(resource), resource)) {
            ByteBuffer bytes = ByteBuffer.wrap(in.readAllBytes()).order(ByteOrder.LITTLE_ENDIAN);
            float[] values = new float[bytes.remaining() / Float.BYTES];
            bytes.asFloatBuffer().get(values);
            return values;
        }
    }

    @ParameterizedTest
    @MethodSource("generators")
    void giveTheLogitsOfPyTorch(Toy toy) throws IOException {
        try (Engine engine = engine(convert(toy)).open()) {
            Logits logits = engine.evaluate(TOKENS);
            float[] expected = expected(toy);

            assertThat(expected).hasSize(TOKENS.length * logits.vocabularySize());
            for (int i = 0; i < expected.length; i++) {
                assertThat(logits.get(i / logits.vocabularySize(), i % logits.vocabularySize()))
                        .as("token %s, id %s", i / logits.vocabularySize(), i % logits.vocabularySize())
                        .isCloseTo(expected[i], within(1e-4f));
            }
        }
    }

    @ParameterizedTest
    @MethodSource("embedders")
    void giveTheEmbeddingsOfPyTorch(Toy toy) throws IOException {
        try (Engine engine = engine(convert(toy)).option("embeddings", true).open()) {
            ObjectNode body = new ObjectMapper().createObjectNode();
            body.put("input", TEXT);
            JsonNode embedding =
                    engine.call("/v1/embeddings", body).path("data").path(0).path("embedding");
            float[] expected = expected(toy);

            assertThat(embedding).hasSize(expected.length);
            for (int i = 0; i < expected.length; i++) {
                assertThat((float) embedding.path(i).asDouble())
                        .as("element %s", i)
                        .isCloseTo(expected[i], within(1e-4f));
            }
        }
    }

    @Test
    void readTheirContextLengthUnderItsOldName() throws IOException {
        Toy toy = generators()
                .filter(one -> one.toString().equals("max-sequence-length"))
                .findFirst()
                .orElseThrow();

        assertThat(convert(toy).integer(GgufKeys.contextLength("llama"))).hasValue(200);
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "{\"pooling_mode_max_tokens\":true}                                     | pools by [pooling_mode_max_tokens]",
                "{\"pooling_mode_cls_token\":true,\"pooling_mode_mean_tokens\":true}    | pools by [pooling_mode_",
                "{\"pooling_mode\":\"max\"}                                             | pools by [max], supported is one of [cls, lasttoken, mean]"
            })
    void nameThePoolingThatLlamaCppHasNot(String pooling, String message, @TempDir Path folder) throws IOException {
        Path source = ModelFolder.of(folder, "llama").write();
        ModelFolder.of(source.resolve("1_Pooling"), "").file("config.json", pooling);

        assertThatThrownBy(() ->
                        Converter.convert(source, folder.resolve("x.gguf"), OutputType.F32, ConversionListener.NONE))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining(message);
    }
}
