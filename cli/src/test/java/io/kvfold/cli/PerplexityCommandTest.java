package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;

import io.kvfold.Engine;
import io.kvfold.ScriptedEngine;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

final class PerplexityCommandTest {

    private final List<ScriptedEngine> engines = new ArrayList<>();

    private Engine.Builder builder() {
        ScriptedEngine scripted = new ScriptedEngine((route, body) -> List.of(ScriptedEngine.chunk(
                body.path("content").asText().isEmpty()
                        ? "{\"tokens\":[1]}"
                        : "{\"tokens\":[1,31,31,31,31,31,31,31,31]}")));
        engines.add(scripted);
        return scripted.builder();
    }

    @SuppressWarnings("NullAway.Init")
    private Path text;

    @SuppressWarnings("NullAway.Init")
    private String model;

    @BeforeEach
    void writeFiles(@TempDir Path directory) throws IOException {
        text = Files.writeString(directory.resolve("text"), "whatever\n\n");
        Path file = directory.resolve("m.gguf");
        TinyFile.header("llama").write(file);
        model = file.toString();
    }

    private CommandRun perplexity(String... arguments) {
        String[] all = new String[arguments.length + 5];
        System.arraycopy(new String[] {"perplexity", "--model", model, "--text", text.toString()}, 0, all, 0, 5);
        System.arraycopy(arguments, 0, all, 5, arguments.length);
        return CommandRun.of(this::builder, all);
    }

    /** The scripted logit of token i is i more than that of token 0: p(31) = 1 - 1/e, up to e^-32. */
    @Test
    void scoresTheSecondHalfOfEachChunk() {
        assertThat(perplexity("--ctx", "4").out())
                .isEqualTo("PPL = 1.5820 +/- 0.00000 (2 tokens scored in 2 chunks of 4)" + System.lineSeparator());
        assertThat(engines.get(0).openedWith().get(0).path("ctx-size").asInt()).isEqualTo(4);
    }

    @Test
    void stopsAfterTheGivenNumberOfChunks() {
        assertThat(perplexity("--ctx", "4", "--chunks", "1").out()).contains("1 tokens scored in 1 chunks of 4");
    }

    @Test
    void dropsOneNewlineAtTheEndOfTheText() {
        perplexity("--ctx", "4");

        assertThat(engines.get(0).requests().get(0).body().path("content").asText())
                .isEqualTo("whatever\n");
    }

    @Test
    void namesBothNumbersWhenTheTextIsTooShort() {
        CommandRun run = perplexity("--ctx", "8");

        assertThat(run.exitCode()).isEqualTo(ExitCode.ERROR);
        assertThat(run.err()).contains("has 9 tokens, but two chunks of 8 take 16");
    }

    @Test
    void comparesWithTheWholeCacheInF16() {
        CommandRun run = perplexity("--ctx", "4", "--kl-divergence", "--kv-type", "q8_0");
        assertThat(run.out())
                .contains("PPL = 1.5820")
                .containsPattern("KL divergence = -?0\\.0000\\d\\d \\+/- 0\\.0000")
                .contains("Same top token = 100.000 %");
        assertThat(engines.get(0).openedWith().get(0).has("cache-type-k")).isFalse();
        assertThat(engines.get(1).openedWith().get(0).path("cache-type-k").asText())
                .isEqualTo("q8_0");
    }

    @Test
    void comparesWithAFileThatItWrote(@TempDir Path directory) throws IOException {
        Path base = directory.resolve("base.kld");
        assertThat(perplexity("--ctx", "4", "--kl-divergence-base", base.toString())
                        .out())
                .contains("PPL = 1.5820");
        int vocabulary = 32;
        assertThat(base).hasSize(8 + 12 + 8 * 4 + 2 * (8 + 2 * vocabulary)); // two chunks with one scored token each

        CommandRun run = CommandRun.of(
                this::builder,
                "perplexity",
                "--model",
                model,
                "--kl-divergence",
                "--kl-divergence-base",
                base.toString());
        assertThat(run.out())
                .contains("PPL = 1.5820", "2 tokens scored in 2 chunks of 4", "Same top token = 100.000 %");
    }

    @Test
    void asksForATextUnlessAFileHoldsIt() {
        CommandRun run = CommandRun.of(this::builder, "perplexity", "--model", model, "--kl-divergence");

        assertThat(run.exitCode()).isEqualTo(ExitCode.USAGE);
        assertThat(run.err()).contains("--text is missing");
    }

    @Test
    void refusesAFileOfAnotherVocabulary(@TempDir Path directory) throws IOException {
        Path base = directory.resolve("base.kld");
        new LogProbabilities.Writer(base, new int[8], 4, 2, 33).close();

        CommandRun run = CommandRun.of(
                this::builder,
                "perplexity",
                "--model",
                model,
                "--kl-divergence",
                "--kl-divergence-base",
                base.toString());
        assertThat(run.exitCode()).isEqualTo(ExitCode.ERROR);
        assertThat(run.err()).contains("33 tokens", "32");
    }
}
