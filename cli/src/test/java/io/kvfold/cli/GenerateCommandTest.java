package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.kvfold.ScriptedEngine;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

final class GenerateCommandTest {

    private final ScriptedEngine scripted = ScriptedEngine.answering(
            "{\"content\":\"\",\"tokens\":[0],\"prompt_progress\":{\"total\":4,\"processed\":4}}",
            "{\"content\":\" there\",\"tokens\":[405],\"stop\":false}",
            "{\"content\":\" was\",\"tokens\":[260],\"stop\":false}",
            "{\"content\":\"\",\"tokens\":[],\"stop\":true,\"stop_type\":\"limit\",\"tokens_predicted\":2,"
                    + "\"tokens_evaluated\":4,\"timings\":{\"predicted_n\":2}}");

    private CommandRun generate(String... arguments) {
        String[] all = new String[arguments.length + 3];
        System.arraycopy(new String[] {"generate", "--model", "m.gguf"}, 0, all, 0, 3);
        System.arraycopy(arguments, 0, all, 3, arguments.length);
        return CommandRun.of(scripted::builder, all);
    }

    @Test
    void printsTheContinuationAlone() {
        CommandRun run = generate("--prompt", "Once", "-n", "2", "--temperature", "0");

        assertThat(run).isEqualTo(new CommandRun(0, " there was" + System.lineSeparator(), ""));
        assertThat(scripted.lastRequest().route()).isEqualTo("/completion");
        assertThat(scripted.lastRequest().body().path("prompt").asText()).isEqualTo("Once");
        assertThat(scripted.lastRequest().body().path("max_tokens").asInt()).isEqualTo(2);
    }

    @Test
    void printsOneJsonObject() throws JsonProcessingException {
        JsonNode result = new ObjectMapper()
                .readTree(generate("--prompt", "Once", "--json").out());

        assertThat(result)
                .isEqualTo(new ObjectMapper()
                        .readTree("{\"text\":\" there was\",\"tokens\":[405,260],\"prompt_tokens\":4,"
                                + "\"completion_tokens\":2,\"stop\":\"limit\",\"timings\":{\"predicted_n\":2},"
                                + "\"kv_cache\":{\"tokens\":12,\"bytes_allocated\":131072,"
                                + "\"bytes_committed\":8192,\"bytes_in_use\":3072}}"));
        assertThat(scripted.lastRequest().body().path("stream").asBoolean())
                .as("a stream leaves tokens out")
                .isFalse();
    }

    @Test
    void takesThePromptFromAFileAsItIs(@TempDir Path directory) throws IOException {
        Path file = Files.writeString(directory.resolve("prompt"), "Ein Ende: ä\n");

        generate("--prompt-file", file.toString());

        assertThat(scripted.lastRequest().body().path("prompt").asText()).isEqualTo("Ein Ende: ä\n");
    }

    @Test
    void saysWhereAFileIsNotUtf8(@TempDir Path directory) throws IOException {
        Path file = Files.write(directory.resolve("latin"), "caf\u00e9!".getBytes(StandardCharsets.ISO_8859_1));

        assertThat(generate("--prompt-file", file.toString()).err())
                .contains(file + " is not UTF-8: byte 0xE9 at offset 3");
    }

    @Test
    void wantsExactlyOnePrompt() {
        assertThat(generate().exitCode()).isEqualTo(ExitCode.USAGE);
        assertThat(generate("--prompt", "a", "--prompt-file", "b").exitCode()).isEqualTo(ExitCode.USAGE);
    }
}
