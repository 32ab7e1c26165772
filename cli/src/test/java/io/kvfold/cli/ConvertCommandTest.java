package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assumptions.assumeThat;

import io.kvfold.Engine;
import io.kvfold.NativeLibrary;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKvPlan;
import io.kvfold.gguf.GgufTensor;
import io.kvfold.gguf.GgufType;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** {@code convert} and {@code quantize}, on the golden models. */
final class ConvertCommandTest {

    private static final Path GOLDEN = Path.of("../../shared/golden");

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path directory;

    @Test
    void convertsAFolderAndSaysWhatCameOut() {
        assumeGoldenModels();
        Path target = directory.resolve("w2.gguf");

        CommandRun run = run("convert", GOLDEN.resolve("lckv_w2"), target, "--type", "f32");

        assertThat(run.exitCode()).as(run.err()).isZero();
        assertThat(run.out())
                .contains("w2.gguf: llama, 65 tensors, 3.7")
                .contains("KV plan 0_6_6_6_6_6_6_7;passes=9: 3 of 8 layers keep keys and values");
        assertThat(run.err()).contains("no tokenizer: the model takes token ids only");
        assertThat(GgufFile.open(target).tensor("output.weight").orElseThrow().type())
                .isEqualTo(GgufType.F32);
    }

    @Test
    void namesAWrongTypeAndAMissingFolder() {
        CommandRun type = run("convert", directory, directory.resolve("out.gguf"), "--type", "q9");
        assertThat(type.exitCode()).isEqualTo(ExitCode.USAGE);
        assertThat(type.err()).contains("q9", "F32, F16, BF16, Q8_0");

        CommandRun folder = run("convert", directory.resolve("none"), directory.resolve("out.gguf"));
        assertThat(folder.exitCode()).isEqualTo(ExitCode.MODEL);
        assertThat(folder.err()).contains("not a model folder");
        assertThat(directory.resolve("out.gguf")).doesNotExist();
    }

    @Test
    void quantisesLikeTheConverterBitForBitAndKeepsThePlan() throws IOException {
        assumeGoldenModels();
        assumeThat(NativeLibrary.isAvailable())
                .as("the native library: %s", NativeLibrary.unavailabilityCause())
                .isTrue();
        Path full = directory.resolve("full.gguf");
        Path converted = directory.resolve("converted.gguf");
        Path quantised = directory.resolve("quantised.gguf");
        Path model = GOLDEN.resolve("lckv_w2_nodiag");
        assertThat(run("convert", model, full, "--type", "f32").exitCode()).isZero();
        assertThat(run("convert", model, converted, "--type", "q8_0").exitCode())
                .isZero();

        CommandRun run = run("quantize", full, quantised, "--type", "q8_0");

        assertThat(run.exitCode()).as(run.err()).isZero();
        assertThat(run.out()).contains("quantised.gguf: 1016 KiB, was 3.70 MiB");
        GgufFile expected = GgufFile.open(quantised);
        GgufFile actual = GgufFile.open(converted);
        assertThat(GgufKvPlan.read(expected)).isEqualTo(GgufKvPlan.read(actual)).isPresent();
        assertThat(actual.tensors()).hasSameSizeAs(expected.tensors());
        for (GgufTensor tensor : expected.tensors()) {
            GgufTensor same = actual.tensor(tensor.name()).orElseThrow();
            assertThat(same.type()).as(tensor.name()).isEqualTo(tensor.type());
            assertThat(actual.data(same)).as(tensor.name()).isEqualTo(expected.data(tensor));
        }
        assertThat(Files.size(quantised)).isLessThan(Files.size(full) / 3);
    }

    @Test
    void namesAnUnknownTypeOfTheQuantiser() throws IOException {
        assumeGoldenModels();
        assumeThat(NativeLibrary.isAvailable())
                .as("the native library: %s", NativeLibrary.unavailabilityCause())
                .isTrue();
        Path full = directory.resolve("full.gguf");
        assertThat(run("convert", GOLDEN.resolve("llama"), full).exitCode()).isZero();

        CommandRun run = run("quantize", full, directory.resolve("out.gguf"), "--type", "q9");

        assertThat(run.exitCode()).isNotZero();
        assertThat(run.err()).contains("unknown type \"q9\"", "q4_k_m");
        assertThat(directory.resolve("out.gguf")).doesNotExist();
    }

    private static void assumeGoldenModels() {
        assumeThat(GOLDEN).as("the golden models are not at hand").exists();
    }

    private static CommandRun run(Object... arguments) {
        String[] texts = new String[arguments.length];
        for (int i = 0; i < texts.length; i++) {
            texts[i] = arguments[i].toString();
        }
        return CommandRun.of(Engine::builder, texts);
    }
}
