package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assumptions.assumeThat;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.kvfold.Engine;
import io.kvfold.NativeLibrary;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What the commands do where no model is named: they run on the ones that come along, without a network. */
final class DemoModelCommandsTest {

    private static final String NOTICE = "kvfold: no --model, so this is demo:folded, a tiny one to try:"
            + " KV cache [0-9.]+ KiB, standard plan [0-9.]+ (KiB|MiB), for \\d+ tokens\\R";

    private static void needsTheLibrary() {
        assumeThat(NativeLibrary.isAvailable())
                .as("the native library is built")
                .isTrue();
    }

    private static CommandRun run(String... arguments) {
        return CommandRun.of(Engine::builder, arguments);
    }

    @Test
    void inspectsTheFoldedModelAndNamesBothSizes() {
        CommandRun run = run("inspect", "--ctx", "1024");

        assertThat(run.exitCode()).isZero();
        assertThat(run.out()).contains("3 of 8 layers", "reads 6 above");
        assertThat(run.err())
                .matches(NOTICE)
                .endsWith("KV cache 768 KiB, standard plan 2.00 MiB, for 1024 tokens" + System.lineSeparator());
    }

    @Test
    void takesTheirNamesForAFile() {
        assertThat(run("inspect", "demo:standard").out()).contains("8 of 8 layers");
        assertThat(run("inspect", "demo:folded"))
                .satisfies(run -> assertThat(run.out()).contains("3 of 8 layers"))
                .satisfies(run -> assertThat(run.err()).isEmpty());
        CommandRun unknown = run("generate", "--model", "demo:large", "--prompt", "a");
        assertThat(unknown.exitCode()).isEqualTo(ExitCode.USAGE);
        assertThat(unknown.err()).contains("demo:large", "demo:standard and demo:folded");
    }

    @Test
    void chatsOnTheFoldedModel() {
        needsTheLibrary();
        InputStream stdin = System.in;
        System.setIn(new ByteArrayInputStream("Hello, how are you?\n".getBytes(StandardCharsets.UTF_8)));
        try {
            CommandRun run = run("chat", "-n", "12", "--temperature", "0");

            assertThat(run.exitCode()).as(run.err()).isZero();
            assertThat(run.err()).containsPattern(NOTICE).containsPattern("KV cache \\d+ of \\d+ cells");
        } finally {
            System.setIn(stdin);
        }
    }

    @Test
    void comparesTheTwo(@TempDir Path directory) throws IOException {
        needsTheLibrary();
        Path text = Files.writeString(
                directory.resolve("text"), "It was a dark and stormy night in the city. ".repeat(200));

        CommandRun run = run("compare", "-p", "Once upon a time", "-n", "8", "--text", text.toString(), "--json");

        assertThat(run.exitCode()).as(run.err()).isZero();
        JsonNode results = new ObjectMapper().readTree(run.out()).path("results");
        assertThat(results)
                .extracting(one -> one.path("model").asText())
                .allMatch(name -> name.startsWith("kvfold-demo-"));
        JsonNode standard = results.path(0);
        JsonNode folded = results.path(1);
        assertThat(folded.path("kv_bytes_per_token").asInt() * 8)
                .isEqualTo(standard.path("kv_bytes_per_token").asInt() * 3);
        assertThat(folded.path("kv_bytes_committed").asInt())
                .isPositive()
                .isLessThan(standard.path("kv_bytes_committed").asInt());
        for (JsonNode one : results) {
            assertThat(one.path("completion_tokens").asInt()).isBetween(1, 8);
            assertThat(one.at("/perplexity/value").asDouble()).isBetween(1.0, 4096.0);
            assertThat(one.at("/perplexity/tokens")).isEqualTo(standard.at("/perplexity/tokens"));
        }
    }

    @Test
    void saysWhatThePlanOfAFileIs() {
        needsTheLibrary();

        assertThat(run("compare", "-p", "Once upon a time", "-n", "1").out())
                .containsPattern("KV plan +file: standard +file: 0_6_6_6_6_6_6_7;passes=9");
    }

    @Test
    void namesTheLayersThatTurnedOutLazy() throws JsonProcessingException {
        needsTheLibrary();
        String prompt = "It was a dark and stormy night in the city. ".repeat(10);

        for (int threshold : new int[] {0, 1}) {
            CommandRun run = run(
                    "generate",
                    "--model=demo:standard",
                    "--kv-plan=simlayerkv:" + threshold + ";window=16;sinks=4",
                    "--prompt=" + prompt,
                    "--max-tokens=1",
                    "--json");

            assertThat(run.exitCode()).as(run.err()).isZero();
            assertThat(new ObjectMapper().readTree(run.out()).at("/kv_cache/lazy_layers"))
                    .as("every attention lies above 0, none above 1")
                    .extracting(JsonNode::asInt)
                    .containsExactlyElementsOf(threshold == 0 ? List.of(0, 1, 2, 3, 4, 5, 6, 7) : List.of());
        }
    }

    @Test
    void benchesWhatTheirContextHolds() throws JsonProcessingException {
        needsTheLibrary();

        CommandRun run = run("bench", "--rounds", "1");

        assertThat(run.exitCode()).as(run.err()).isZero();
        assertThat(run.out()).contains("| kvfold-demo-folded-q8_0 file f16 |");
        assertThat(run.err()).containsPattern(NOTICE);
    }
}
