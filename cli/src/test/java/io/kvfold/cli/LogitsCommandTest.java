package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.mockito.ArgumentMatchers.any;
import static org.mockito.Mockito.mock;
import static org.mockito.Mockito.verify;
import static org.mockito.Mockito.when;

import io.kvfold.Logits;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

final class LogitsCommandTest {

    private final ScriptedEngine script = new ScriptedEngine();

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path directory;

    @BeforeEach
    void giveLogits() {
        Logits logits = mock(Logits.class);
        when(logits.tokens()).thenReturn(3);
        when(logits.vocabularySize()).thenReturn(2);
        when(logits.row(any(Integer.class))).thenAnswer(call -> {
            int row = call.getArgument(0);
            return FloatBuffer.wrap(new float[] {row, row + 0.5f});
        });
        when(script.engine.evaluate(any(int[].class))).thenReturn(logits);
    }

    @Test
    void writesTheLogitsOfTheGivenTokens() throws IOException {
        Path out = directory.resolve("l.npy");

        CommandRun run = script.run("logits", "--model", "m.gguf", "--tokens", "1, 2,3", "--out", out.toString());

        verify(script.engine).evaluate(1, 2, 3);
        assertThat(run.out()).isEqualTo("[3, 2] float32 in " + out + System.lineSeparator());
        assertThat(Files.size(out)).isEqualTo(128 + 3 * 2 * 4);
    }

    @Test
    void readsTokensFromAFile() throws IOException {
        Path ids = Files.writeString(directory.resolve("ids"), "1,2\n3\n");

        script.run(
                "logits",
                "--model",
                "m.gguf",
                "--tokens",
                "@" + ids,
                "--out",
                directory.resolve("l").toString());

        verify(script.engine).evaluate(1, 2, 3);
    }

    @Test
    void rejectsTokensThatAreNoNumbers() {
        CommandRun run = script.run("logits", "--model", "m.gguf", "--tokens", "1,x", "--out", "l.npy");

        assertThat(run.exitCode()).isEqualTo(ExitCode.USAGE);
        assertThat(run.err()).contains("--tokens takes whole numbers", "\"x\"");
    }

    @Test
    void saysThatAFileOfTokensIsMissing() {
        CommandRun run = script.run("logits", "--model", "m.gguf", "--tokens", "@nowhere.txt", "--out", "l.npy");

        assertThat(run)
                .isEqualTo(new CommandRun(1, "", "kvfold: there is no file nowhere.txt" + System.lineSeparator()));
    }
}
