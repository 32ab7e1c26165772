package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

final class GenerateCommandTest {

    private static final String[] CHUNKS = {
        "{\"content\":\"\",\"tokens\":[0],\"prompt_progress\":{\"total\":4,\"processed\":4}}",
        "{\"content\":\" there\",\"tokens\":[405],\"stop\":false}",
        "{\"content\":\" was\",\"tokens\":[260],\"stop\":false}",
        "{\"content\":\"\",\"tokens\":[],\"stop\":true,\"stop_type\":\"limit\",\"tokens_predicted\":2,\"tokens_evaluated\":4,"
                + "\"timings\":{\"predicted_n\":2}}"
    };

    private final ScriptedEngine script = new ScriptedEngine();

    @Test
    void printsTheContinuationAlone() {
        script.then((Object[]) CHUNKS);

        CommandRun run =
                script.run("generate", "--model", "m.gguf", "--prompt", "Once", "-n", "2", "--temperature", "0");

        assertThat(run).isEqualTo(new CommandRun(0, " there was" + System.lineSeparator(), ""));
        assertThat(script.requests.get(0).path("prompt").asText()).isEqualTo("Once");
        assertThat(script.requests.get(0).path("max_tokens").asInt()).isEqualTo(2);
    }

    @Test
    void printsOneJsonObject() throws JsonProcessingException {
        script.then((Object[]) CHUNKS);

        JsonNode result = new ObjectMapper()
                .readTree(script.run("generate", "--model", "m.gguf", "--prompt", "Once", "--json")
                        .out());

        assertThat(result)
                .isEqualTo(new ObjectMapper()
                        .readTree("{\"text\":\" there was\",\"tokens\":[405,260],\"prompt_tokens\":4,"
                                + "\"completion_tokens\":2,\"stop\":\"limit\",\"timings\":{\"predicted_n\":2}}"));
    }

    @Test
    void takesThePromptFromAFileAsItIs(@TempDir Path directory) throws IOException {
        script.then((Object[]) CHUNKS);
        Path file = Files.writeString(directory.resolve("prompt"), "Ein Ende: \u00e4\n");

        script.run("generate", "--model", "m.gguf", "--prompt-file", file.toString());

        assertThat(script.requests.get(0).path("prompt").asText()).isEqualTo("Ein Ende: \u00e4\n");
    }

    @Test
    void wantsExactlyOnePrompt() {
        assertThat(script.run("generate", "--model", "m.gguf").exitCode()).isEqualTo(ExitCode.USAGE);
        assertThat(script.run("generate", "--model", "m.gguf", "--prompt", "a", "--prompt-file", "b")
                        .exitCode())
                .isEqualTo(ExitCode.USAGE);
    }
}
