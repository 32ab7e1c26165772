package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;
import static org.assertj.core.api.Assumptions.assumeThat;

import io.kvfold.DownloadedModels;
import io.kvfold.Engine;
import io.kvfold.EngineServer;
import io.kvfold.RealLibrary;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;

/** The commands on trained models that people have heard of. */
@Tag("real-models")
@Timeout(300)
final class SmolLm2CommandsTest {

    /** English, and the same for ever. */
    private static final Path TEXT = Path.of("../LICENSE");

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path directory;

    @BeforeEach
    void needsTheLibrary() {
        RealLibrary.require();
    }

    private static CommandRun kvfold(Path model, String command, String... arguments) {
        List<String> all = new ArrayList<>(List.of(command, "--model", model.toString()));
        all.addAll(List.of(arguments));
        return CommandRun.of(Engine::builder, all.toArray(String[]::new));
    }

    private static double perplexity(Path model, String... options) {
        List<String> all = new ArrayList<>(List.of("--text", TEXT.toString(), "--ctx", "512", "--chunks", "2"));
        all.addAll(List.of(options));
        CommandRun run = kvfold(model, "perplexity", all.toArray(String[]::new));
        return figure("PPL", run.out() + run.err());
    }

    /**
     * llama-perplexity of the unpatched release itself, which takes a second build of llama.cpp: {@code bash
     * benchmarks/unpatched.sh} makes it, and {@code -Dkvfold.unpatched=FOLDER} says where.
     */
    private String llamaPerplexity(Path model, String... options) throws IOException, InterruptedException {
        String folder = System.getProperty("kvfold.unpatched");
        assumeThat(folder)
                .as("not run: -Dkvfold.unpatched=FOLDER names no llama-perplexity of the unpatched release")
                .isNotNull();
        List<String> command = new ArrayList<>(
                List.of(Path.of(folder, "llama-perplexity").toString(), "-m", model.toString(), "-fa", "on"));
        command.addAll(List.of("-f", TEXT.toString(), "-c", "512", "--chunks", "2"));
        command.addAll(List.of(options));
        return run(command.toArray(String[]::new));
    }

    private static double figure(String name, String output) {
        Matcher figure = Pattern.compile(name + " *[=:]? +(-?[0-9.]+)").matcher(output);
        assertThat(figure.find()).as(name + " in " + output).isTrue();
        return Double.parseDouble(figure.group(1));
    }

    private static List<Arguments> modelsAndTypes() {
        return Stream.of(DownloadedModels.smolLm2(), DownloadedModels.gemma3())
                .flatMap(model -> Stream.of("f16", "q8_0", "q4_0").map(type -> Arguments.of(model, type)))
                .toList();
    }

    @ParameterizedTest
    @MethodSource("modelsAndTypes")
    void measuresThePerplexityOfTheUnpatchedRelease(Path model, String type) throws IOException, InterruptedException {
        double expected = figure("PPL", llamaPerplexity(model, "-ctk", type, "-ctv", type));

        double measured = perplexity(model, "--kv-type", type, "-fa", "on", "-o", "cpu-attention=upstream");

        assertThat(measured / expected).isCloseTo(1, within(1e-4));
    }

    /**
     * Two orders of the same sums take the predictions of this model as far apart as 8-bit keys and values do, since
     * llama.cpp quantises activations, too. So what rounds better is told by single precision.
     */
    @Test
    void isAsCloseToSinglePrecisionAsWithTheAttentionOfTheUnpatchedRelease() {
        String base = directory.resolve("base").toString();
        perplexity(DownloadedModels.smolLm2(), "--kv-type", "f32", "-fa", "off", "--kl-divergence-base", base);
        String ours = compared(DownloadedModels.smolLm2(), base);
        String upstream = compared(DownloadedModels.smolLm2(), base, "-o", "cpu-attention=upstream");

        assertThat(figure("KL divergence", ours)).isLessThan(1.1 * figure("KL divergence", upstream));
    }

    private static String compared(Path model, String base, String... options) {
        List<String> all = new ArrayList<>(List.of("--kl-divergence", "--kl-divergence-base", base, "-fa", "on"));
        all.addAll(List.of(options));
        return kvfold(model, "perplexity", all.toArray(String[]::new)).out();
    }

    /** Of one base, which llama-perplexity wrote or this did. */
    @ParameterizedTest
    @CsvSource({"true, q8_0", "true, q4_0", "false, q4_0"})
    void measuresTheDivergenceThatLlamaPerplexityMeasures(boolean baseIsTheirs, String type)
            throws IOException, InterruptedException {
        for (Path model : List.of(DownloadedModels.smolLm2(), DownloadedModels.gemma3())) {
            String base = directory.resolve("base").toString();
            if (baseIsTheirs) {
                llamaPerplexity(model, "--kl-divergence-base", base);
            } else {
                perplexity(model, "--kl-divergence-base", base, "--flash-attn", "on");
            }
            String theirs =
                    llamaPerplexity(model, "--kl-divergence-base", base, "--kl-divergence", "-ctk", type, "-ctv", type);

            String ours = compared(model, base, "--kv-type", type, "-o", "cpu-attention=upstream");

            assertThat(figure("KL divergence", ours)).isCloseTo(figure("Mean +KLD", theirs), within(2e-6));
            assertThat(figure("quantile", ours)).isCloseTo(figure("99.9% +KLD", theirs), within(2e-5));
            assertThat(figure("Same top token", ours)).isEqualTo(figure("Same top p", theirs));
        }
    }

    /** Nothing is forgotten within a window that holds the whole chunk. */
    @Tag("quick")
    @ParameterizedTest
    @CsvSource({
        "streaming:512",
        "0_1s_2s_3s_4s_5s_6s_7s_8s_9s_10s_11s_12s_13s_14s_15s_16s_17s_18s_19s_20s_21s_22s_23s_24s_25s_26s_27s_28s_29;window=512;sinks=4"
    })
    void losesNothingInWindowsThatHoldAll(String plan) {
        double standard = perplexity(DownloadedModels.smolLm2());

        assertThat(perplexity(DownloadedModels.smolLm2(), "--kv-plan", plan) / standard)
                .isCloseTo(1, within(1e-3));
    }

    @Tag("quick")
    @Test
    void runsGemmaWithItsOwnWindowsAndRefusesPlansForIt() {
        CommandRun run = kvfold(
                DownloadedModels.gemma3(),
                "generate",
                "-p",
                "Paris is the capital of",
                "-n",
                "4",
                "--temperature",
                "0",
                "--ctx",
                "512");
        assertThat(run.exitCode()).as(run.err()).isZero();
        assertThat(run.out()).contains("France");

        CommandRun planned =
                kvfold(DownloadedModels.gemma3(), "generate", "-p", "x", "--ctx", "512", "--kv-plan", "cla:2");
        assertThat(planned.exitCode()).isNotZero();
        assertThat(planned.err()).contains("gemma3").hasLineCount(1);
    }

    private static CommandRun tune(Path model, String memory, String... more) {
        List<String> all = new ArrayList<>(List.of(
                "plan",
                "tune",
                "--model",
                model.toString(),
                "--text",
                TEXT.toString(),
                "--memory",
                memory,
                "--context",
                "8192",
                "--users",
                "4"));
        all.addAll(List.of("--tokens", "128", "--chunks", "2", "--recent", "32", "--minutes", "2", "--questions", "0"));
        all.addAll(List.of(more));
        CommandRun run = CommandRun.of(Engine::builder, all.toArray(String[]::new));
        assertThat(run.exitCode()).as(run.err()).isZero();
        return run;
    }

    @Test
    void recommendsATypeBeforeAPlanWhereItFits() {
        CommandRun run = tune(DownloadedModels.smolLm2(), "400MiB"); // f16 takes 720 MiB, q8_0 383

        assertThat(run.out())
                .contains("\n--kv-type q8_0 --ctx-size 8192 --slots 4 --kv-budget 419430400\n")
                .contains("standard;evict=tova:0.5;at=chunk;answer=64 q4_0: ")
                .doesNotContain("It is not worth it");
    }

    @Test
    void triesOnlyTypesOnAModelWithWindowsOfItsOwn() {
        CommandRun run = tune(DownloadedModels.gemma3(), "48MiB");

        assertThat(run.out())
                .contains(
                        "eviction: not possible, ", "lazy layers: not possible, ", "layers that share: not possible, ")
                .containsPattern("--kv-type q[48]_0 --ctx-size 8192");
    }

    /** Each script says "ok" of a feature that it has used, and ends with an error at the first that does not hold. */
    @ParameterizedTest
    @CsvSource({"openai, 22", "anthropic, 13"})
    void answersTheOfficialClientsOf(String company, int features) throws IOException, InterruptedException {
        Engine.Builder chat = Engine.builder()
                .model(DownloadedModels.smolLm2())
                .slots(2)
                .contextSize(4096)
                .option("alias", "smollm2");
        Engine.Builder embedding = Engine.builder()
                .model(DownloadedModels.smolLm2())
                .slots(1)
                .contextSize(512)
                .option("embeddings", true)
                .option("pooling", "mean");
        try (Engine chatting = chat.open();
                Engine embeddings = embedding.open();
                EngineServer server = chatting.server().port(0).apiKey("secret").start();
                EngineServer other =
                        embeddings.server().port(0).apiKey("secret").start()) {
            List<String> command = new ArrayList<>(List.of(
                    DownloadedModels.python().toString(),
                    "src/test/python/" + company + "_client.py",
                    server.addresses().get(0).toString(),
                    "smollm2"));
            if (company.equals("openai")) { // Anthropic has no embeddings
                command.add(other.addresses().get(0).toString());
            }

            assertThat(run(command.toArray(String[]::new)).lines())
                    .hasSize(features)
                    .allMatch(line -> line.startsWith("ok "));
        }
    }

    private String run(String... command) throws IOException, InterruptedException {
        Path output = directory.resolve("output");
        Process process = new ProcessBuilder(command)
                .redirectErrorStream(true)
                .redirectOutput(output.toFile())
                .start();
        assertThat(process.waitFor(4, TimeUnit.MINUTES)).isTrue();
        String text = Files.readString(output);
        assertThat(process.exitValue()).as(text).isZero();
        return text;
    }
}
