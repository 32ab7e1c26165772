package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;

import io.kvfold.ScriptedEngine;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

final class PerplexityCommandTest {

    private final ScriptedEngine scripted = new ScriptedEngine((route, body) -> List.of(ScriptedEngine.chunk(
            body.path("content").asText().isEmpty()
                    ? "{\"tokens\":[1]}"
                    : "{\"tokens\":[1,31,31,31,31,31,31,31,31]}")));

    @SuppressWarnings("NullAway.Init")
    private Path text;

    @BeforeEach
    void writeText(@TempDir Path directory) throws IOException {
        text = Files.writeString(directory.resolve("text"), "whatever\n\n");
    }

    private CommandRun perplexity(String... arguments) {
        String[] all = new String[arguments.length + 5];
        System.arraycopy(new String[] {"perplexity", "--model", "m.gguf", "--text", text.toString()}, 0, all, 0, 5);
        System.arraycopy(arguments, 0, all, 5, arguments.length);
        return CommandRun.of(scripted::builder, all);
    }

    /** The scripted logit of token i is i more than that of token 0: p(31) = 1 - 1/e, up to e^-32. */
    @Test
    void scoresTheSecondHalfOfEachChunk() {
        assertThat(perplexity("--ctx", "4").out())
                .isEqualTo("PPL = 1.5820 +/- 0.00000 (2 tokens scored in 2 chunks of 4)" + System.lineSeparator());
        assertThat(scripted.openedWith().get(0).path("ctx-size").asInt()).isEqualTo(4);
    }

    @Test
    void stopsAfterTheGivenNumberOfChunks() {
        assertThat(perplexity("--ctx", "4", "--chunks", "1").out()).contains("1 tokens scored in 1 chunks of 4");
    }

    @Test
    void dropsOneNewlineAtTheEndOfTheText() {
        perplexity("--ctx", "4");

        assertThat(scripted.requests().get(0).body().path("content").asText()).isEqualTo("whatever\n");
    }

    @Test
    void namesBothNumbersWhenTheTextIsTooShort() {
        CommandRun run = perplexity("--ctx", "8");

        assertThat(run.exitCode()).isEqualTo(ExitCode.ERROR);
        assertThat(run.err()).contains("has 9 tokens, but two chunks of 8 take 16");
    }
}
