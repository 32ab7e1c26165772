package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.kvfold.Engine;
import io.kvfold.RealLibrary;
import io.kvfold.TinyModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import javax.imageio.ImageIO;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** {@code kvfold eval} on a model with random weights. */
final class EvalCommandTest {

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path folder;

    @SuppressWarnings("NullAway.Init")
    private Path model;

    @BeforeEach
    void needsTheLibrary() throws IOException {
        RealLibrary.require();
        model = TinyModel.write(folder.resolve("tiny.gguf"), 1);
    }

    private CommandRun eval(String... arguments) {
        List<String> all = new ArrayList<>(List.of("eval", "--model", model.toString(), "--threads", "1"));
        all.addAll(List.of(arguments));
        return CommandRun.of(Engine::builder, all.toArray(String[]::new));
    }

    @Test
    void asksEveryPlanTheSameQuestions() throws IOException {
        Path json = folder.resolve("scores.json");
        Path plot = folder.resolve("needles.png");

        CommandRun run = eval(
                "--kv-plan",
                "standard,streaming:64",
                "--lengths",
                "1200,2000",
                "--samples",
                "2",
                "--depths",
                "2",
                "--json",
                json.toString(),
                "--plot",
                plot.toString());

        assertThat(run.exitCode()).as(run.err()).isZero();
        assertThat(run.out().lines())
                .hasSize(2 + 4)
                .first()
                .asString()
                .contains("single | multi-key | multi-value | multi-query | variables | common-words | mean |");
        assertThat(run.out())
                .contains("| tiny standard f16 | 1200 | 384 | 0% |")
                // 4 sinks, 64 tokens and the one before them, of 384 bytes each
                .contains("| tiny streaming:64 f16 | 2000 | 13 | 0% |");
        JsonNode root = new ObjectMapper().readTree(json.toFile());
        assertThat(root.path("seed").asInt()).isEqualTo(42);
        assertThat(root.path("results")).hasSize(2 * 2 * (2 + 5)); // the single needle at two depths
        assertThat(root.at("/results/1/depth").asDouble()).isEqualTo(1);
        assertThat(root.at("/results/2/task").asText()).isEqualTo("multi-key");
        assertThat(root.at("/results/2/questions").asInt()).isEqualTo(2);
        assertThat(ImageIO.read(plot.toFile()).getWidth()).isGreaterThan(2 * 300); // two grids
    }

    @Test
    void takesSentencesOfAText() throws IOException {
        Path text = Files.writeString(folder.resolve("text"), "A quick brown fox. ".repeat(3));

        CommandRun run =
                eval("--tasks", "multi-key", "--lengths", "900", "--samples", "1", "--raw", "--text", "" + text);

        assertThat(run.exitCode()).as(run.err()).isZero();
        assertThat(run.out()).contains("| tiny file f16 | 900 | 384 | 0% | 0% |");
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "--lengths 30 | the least length of single is",
                "--samples 0 | --samples is 1 or more",
                "--depths 1 | --depths 2 or more",
                "--tasks variables --plot x.png | which --tasks leaves out",
                "--tasks qa | 'qa' is not one of [single, multi-key",
            })
    void namesWhatIsOutOfRange(String arguments, String message) {
        CommandRun run = eval(arguments.split(" "));

        assertThat(run.exitCode()).isNotZero();
        assertThat(run.err()).contains(message);
    }
}
