package io.kvfold.cli;

import static io.kvfold.cli.ChatScript.end;
import static io.kvfold.cli.ChatScript.piece;
import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import io.kvfold.ScriptedEngine;
import io.kvfold.internal.NativeStatus;
import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

final class ChatCommandTest {

    private final ChatScript script = new ChatScript();
    private final ScriptedEngine scripted = new ScriptedEngine(script);
    private final InputStream stdin = System.in;

    @AfterEach
    void restoreStandardInput() {
        System.setIn(stdin);
    }

    private CommandRun chat(String input, String... arguments) {
        System.setIn(new ByteArrayInputStream(input.getBytes(StandardCharsets.UTF_8)));
        List<String> all = new ArrayList<>(List.of("chat", "--model", "model.gguf"));
        all.addAll(List.of(arguments));
        return CommandRun.of(scripted::builder, all.toArray(String[]::new));
    }

    @Test
    void answersEachLineOfAPipeAndReportsOnStandardError() {
        script.then(piece("Blau"), end("stop")).then(piece("Grün"), end("stop"));

        CommandRun run = chat("Himmel?\n\nWiese?\n", "--temperature", "0", "--max-tokens", "5", "--seed", "7");

        assertThat(run.out().lines()).containsExactly("Blau", "Grün");
        assertThat(run.err().lines()).hasSize(2).allMatch(line -> line.contains("KV cache 12 of 512 cells"));
        assertThat(run.exitCode()).isZero();
        JsonNode request = scripted.lastRequest().body();
        assertThat(request.path("temperature").asDouble(-1)).isZero();
        assertThat(request.path("max_tokens").asInt()).isEqualTo(5);
        assertThat(request.path("seed").asInt()).isEqualTo(7);
    }

    @Test
    void leavesOutWhatWasNotAskedFor() {
        script.then(end("stop"));

        chat("Hello\n");

        assertThat(scripted.lastRequest().body().fieldNames())
                .toIterable()
                .containsExactlyInAnyOrder("messages", "stream", "return_progress", "timings_per_token");
    }

    @Test
    void followsCommandsOnAPipe() {
        script.then(piece("a"), end("stop")).then(piece("b"), end("stop"));

        CommandRun run = chat("one\n/kv\n/reset\n/rest\ntwo\n/exit\nnever asked\n");

        assertThat(scripted.requests()).hasSize(2);
        assertThat(scripted.lastRequest().body().path("messages")).hasSize(1);
        assertThat(run.err()).contains("[forgotten]", "There is no command /rest");
    }

    @Test
    void endsWithAnErrorWhenAQuestionOfAPipeFails() {
        script.then(ScriptedEngine.fail(NativeStatus.ERROR_CONTEXT_EXCEEDED, "600 tokens, but 512 fit", 600, 512));

        CommandRun run = chat("long\nnever asked\n");

        assertThat(run.exitCode()).isEqualTo(ExitCode.ERROR);
        assertThat(run.err()).isEqualTo("kvfold: 600 tokens, but 512 fit" + System.lineSeparator());
    }
}
