package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;
import static org.assertj.core.api.Assumptions.assumeThat;

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
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The commands on a trained model. Expected figures are those of an unpatched llama.cpp v0.5.0. */
final class RealModelTest {

    private static final Path STORIES = Path.of("../../shared/models/stories260K.gguf");

    @BeforeEach
    void needsTheLibraryAndTheModel() {
        assumeThat(NativeLibrary.isAvailable())
                .as("the native library is built")
                .isTrue();
        assumeThat(STORIES).as("the story model is not at hand").exists();
    }

    private static CommandRun run(String command, String... arguments) {
        List<String> all = new ArrayList<>(List.of(command, "--model", STORIES.toString()));
        all.addAll(List.of(arguments));
        return CommandRun.of(Engine::builder, all.toArray(String[]::new));
    }

    @Test
    void generatesTheSameTwentyTokens() throws IOException {
        CommandRun run = run("generate", "-p", "Once upon a time", "-n", "20", "--temperature", "0", "--json");

        JsonNode result = new ObjectMapper().readTree(run.out());
        assertThat(result.path("tokens"))
                .extracting(JsonNode::asInt)
                .containsExactly(
                        432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337, 410, 408, 419,
                        292);
        assertThat(result.path("prompt_tokens").asInt()).isEqualTo(5);
        assertThat(result.path("stop").asText()).isEqualTo("limit");
    }

    @Test
    void benchesAsManySequencesAsABudgetHolds(@TempDir Path directory) throws IOException {
        Path json = directory.resolve("bench.json");
        CommandRun run = run(
                "bench",
                "--plan",
                "standard,lckv:2",
                "--kv-budget",
                "1MiB",
                "--workload",
                "40+8,3+8",
                "--rounds",
                "2",
                "--threads",
                "1",
                "--json",
                json.toString(),
                "--plots",
                directory.resolve("plots").toString());

        assertThat(run.exitCode()).as(run.err()).isZero();
        assertThat(run.out())
                .contains("| stories260K standard f16 | 40+8 |")
                .contains("| stories260K lckv:2 f16 | 3+8 |");
        JsonNode results = new ObjectMapper().readTree(json.toFile()).path("results");
        assertThat(results).hasSize(4);
        for (JsonNode result : results) {
            int layers = result.path("plan").asText().equals("standard") ? 5 : 3;
            int bytesPerSequence = 256 * layers * 2 * 32 * 2; // cells, layers, K and V, width of four heads of 8, f16
            assertThat(result.path("sequences").asInt()).isEqualTo((1 << 20) / bytesPerSequence);
            assertThat(result.path("kv_bytes").asInt()).isEqualTo((1 << 20) / bytesPerSequence * bytesPerSequence);
            assertThat(result.at("/throughput_tokens_per_second/lowest").asDouble())
                    .isPositive();
            assertThat(result.path("first_token_seconds_p99").asDouble())
                    .isGreaterThanOrEqualTo(
                            result.path("first_token_seconds_p50").asDouble());
        }
        for (String plot : List.of("throughput", "first-token", "kv-cache")) {
            assertThat(directory.resolve("plots").resolve(plot + ".png")).isNotEmptyFile();
        }
    }

    @Test
    void refusesABudgetThatHoldsNoSequence() {
        CommandRun run = run("bench", "--kv-budget", "1KiB");

        assertThat(run.exitCode()).isEqualTo(ExitCode.ERROR);
        assertThat(run.err()).contains("512+128").contains("1.00 KiB");
        assertThat(run("bench", "--kv-budget", "1XB").exitCode()).isEqualTo(ExitCode.USAGE);
    }

    @Test
    void measuresTheSamePerplexity(@TempDir Path directory) throws IOException {
        StringBuilder story = new StringBuilder();
        for (String number : "two three four five six seven eight nine ten many".split(" ")) {
            story.append("One day, Lily found ")
                    .append(number)
                    .append(" red balls in the park. She gave them to Tom, and they played until the sun went down.\n");
        }
        Path text = Files.writeString(directory.resolve("story"), story);

        CommandRun run = run("perplexity", "--text", text.toString(), "--ctx", "128");

        Matcher figures = Pattern.compile("PPL = ([0-9.]+) \\+/- ([0-9.]+)").matcher(run.out());
        assertThat(figures.find()).as(run.out() + run.err()).isTrue();
        assertThat(Double.parseDouble(figures.group(1))).isCloseTo(4.2324, within(0.01));
        assertThat(Double.parseDouble(figures.group(2))).isCloseTo(0.5795, within(0.01));
    }

    @Test
    void chatsThroughAPipe() {
        InputStream stdin = System.in;
        System.setIn(new ByteArrayInputStream("Tell me a story.\nGo on.\n".getBytes(StandardCharsets.UTF_8)));
        try {
            CommandRun run = run("chat", "-n", "8", "--temperature", "0", "--ctx", "512");

            assertThat(run.exitCode()).isZero();
            assertThat(run.out()).isNotBlank();
            assertThat(run.err().lines())
                    .hasSize(2)
                    .allMatch(line ->
                            line.matches("\\[cut off; 8 tokens at .*; KV cache \\d+ of 512 cells, .* of 320 KiB]"));
        } finally {
            System.setIn(stdin);
        }
    }

    @Test
    void namesBothNumbersOfAPromptThatDoesNotFit() {
        CommandRun run = run("generate", "-p", "a ".repeat(400), "--ctx", "256");

        assertThat(run.exitCode()).isEqualTo(ExitCode.ERROR);
        assertThat(run.err()).contains("402 tokens", "256").hasLineCount(1);
    }
}
