package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;

import io.kvfold.ScriptedEngine;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

final class LogitsCommandTest {

    private static final int VOCABULARY = 32;
    private static final int HEADER = 128;

    private final ScriptedEngine scripted = ScriptedEngine.answering();

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path directory;

    private CommandRun logits(String tokens, String out) throws IOException {
        Path model = directory.resolve("m.gguf");
        TinyFile.header("llama").write(model);
        return CommandRun.of(
                scripted::builder, "logits", "--model", model.toString(), "--tokens", tokens, "--out", out);
    }

    @Test
    void writesTheLogitsOfTheGivenTokensOnAContextOfTheirLength() throws IOException {
        Path out = directory.resolve("l.npy");

        CommandRun run = logits("1, 2,3", out.toString());

        assertThat(run).isEqualTo(new CommandRun(0, "[3, 32] float32 in " + out + System.lineSeparator(), ""));
        assertThat(Files.size(out)).isEqualTo(HEADER + 3 * VOCABULARY * Float.BYTES);
        assertThat(scripted.openedWith().get(0).path("ctx-size").asInt()).isEqualTo(3);
    }

    @Test
    void readsTokensFromAFile() throws IOException {
        Path ids = Files.writeString(directory.resolve("ids"), "1,2\n3 4\n");

        assertThat(logits("@" + ids, directory.resolve("l").toString()).out()).startsWith("[4, 32]");
    }

    @Test
    void rejectsTokensThatAreNoNumbers() throws IOException {
        CommandRun run = logits("1,x", "l.npy");

        assertThat(run.exitCode()).isEqualTo(ExitCode.USAGE);
        assertThat(run.err()).contains("--tokens takes whole numbers", "\"x\"");
    }

    @Test
    void saysThatAFileOfTokensIsMissing() throws IOException {
        assertThat(logits("@nowhere.txt", "l.npy"))
                .isEqualTo(new CommandRun(1, "", "kvfold: there is no file nowhere.txt" + System.lineSeparator()));
    }
}
