package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;

import io.kvfold.ContextExceededException;
import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

final class ChatCommandTest {

    private final ScriptedEngine script = new ScriptedEngine();
    private final InputStream stdin = System.in;

    @AfterEach
    void restoreStandardInput() {
        System.setIn(stdin);
    }

    private CommandRun chat(String input, String... arguments) {
        System.setIn(new ByteArrayInputStream(input.getBytes(StandardCharsets.UTF_8)));
        String[] all = new String[arguments.length + 3];
        all[0] = "chat";
        all[1] = "--model";
        all[2] = "model.gguf";
        System.arraycopy(arguments, 0, all, 3, arguments.length);
        return script.run(all);
    }

    @Test
    void answersEachLineOfAPipeAndReportsOnStandardError() {
        script.then(ScriptedEngine.delta("Blau"), ScriptedEngine.last("stop"))
                .then(ScriptedEngine.delta("Grün"), ScriptedEngine.last("stop"));

        CommandRun run = chat("Himmel?\n\nWiese?\n", "--temperature", "0", "--max-tokens", "5", "--seed", "7");

        assertThat(run.out().lines()).containsExactly("Blau", "Grün");
        assertThat(run.err().lines()).hasSize(2).allMatch(line -> line.contains("KV cache 64 of 512 cells"));
        assertThat(run.exitCode()).isZero();
        assertThat(script.requests.get(0).path("temperature").asDouble(-1)).isZero();
        assertThat(script.requests.get(0).path("max_tokens").asInt()).isEqualTo(5);
        assertThat(script.requests.get(0).path("seed").asInt()).isEqualTo(7);
    }

    @Test
    void leavesOutWhatWasNotAskedFor() {
        script.then(ScriptedEngine.last("stop"));

        chat("Hello\n");

        assertThat(script.requests.get(0).fieldNames())
                .toIterable()
                .containsExactlyInAnyOrder("messages", "stream", "return_progress", "timings_per_token");
    }

    @Test
    void followsCommandsOnAPipe() {
        script.then(ScriptedEngine.delta("a"), ScriptedEngine.last("stop"))
                .then(ScriptedEngine.delta("b"), ScriptedEngine.last("stop"));

        CommandRun run = chat("one\n/reset\n/rest\ntwo\n/exit\nnever asked\n");

        assertThat(script.requests).hasSize(2);
        assertThat(script.requests.get(1).path("messages")).hasSize(1);
        assertThat(run.err()).contains("[forgotten]", "There is no command /rest");
    }

    @Test
    void endsWithAnErrorWhenAQuestionOfAPipeFails() {
        script.then(new ContextExceededException("the prompt has 600 tokens but a slot holds 512", 600L, 512L));

        CommandRun run = chat("long\nnever asked\n");

        assertThat(run.exitCode()).isEqualTo(ExitCode.ERROR);
        assertThat(run.err()).isEqualTo("kvfold: the prompt has 600 tokens but a slot holds 512\n");
    }
}
