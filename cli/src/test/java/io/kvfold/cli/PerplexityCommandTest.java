package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.mockito.ArgumentMatchers.any;
import static org.mockito.ArgumentMatchers.anyBoolean;
import static org.mockito.ArgumentMatchers.anyString;
import static org.mockito.ArgumentMatchers.eq;
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.times;
import static org.mockito.Mockito.verify;
import static org.mockito.Mockito.when;

import io.kvfold.Logits;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

final class PerplexityCommandTest {

    private final ScriptedEngine script = new ScriptedEngine();

    @SuppressWarnings("NullAway.Init")
    private Path text;

    @BeforeEach
    void giveATextOfNineTokensAndAModelThatKnowsNothing(@TempDir Path directory) throws IOException {
        text = Files.writeString(directory.resolve("text"), "whatever\n\n");
        when(script.engine.tokenize(anyString(), anyBoolean(), anyBoolean()))
                .thenReturn(new int[] {1, 3, 3, 3, 3, 3, 3, 3, 3});
        when(script.engine.tokenize(eq(""), anyBoolean(), anyBoolean())).thenReturn(new int[] {1});
        when(script.engine.evaluate(any(int[].class))).thenReturn(mock(Logits.class));
    }

    @Test
    void scoresTheSecondHalfOfEachChunkAndStartsItWithTheBeginOfText() {
        CommandRun run = script.run("perplexity", "--model", "m.gguf", "--text", text.toString(), "--ctx", "4");

        assertThat(run.out())
                .isEqualTo("PPL = 4.0000 +/- 0.00000 (2 tokens scored in 2 chunks of 4)" + System.lineSeparator());
        verify(script.engine, times(2)).evaluate(1, 3, 3, 3);
    }

    @Test
    void dropsOneNewlineAtTheEndOfTheText() {
        script.run("perplexity", "--model", "m.gguf", "--text", text.toString(), "--ctx", "4");

        verify(script.engine).tokenize("whatever\n", true, false);
    }

    @Test
    void namesBothNumbersWhenTheTextIsTooShort() {
        CommandRun run = script.run("perplexity", "--model", "m.gguf", "--text", text.toString(), "--ctx", "8");

        assertThat(run.exitCode()).isEqualTo(ExitCode.ERROR);
        assertThat(run.err()).contains("has 9 tokens, but two chunks of 8 take 16");
    }
}
