package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.kvfold.ScriptedEngine;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

final class EngineOptionsTest {

    private final ScriptedEngine scripted = ScriptedEngine.answering("{\"content\":\"\",\"stop\":true}");

    private JsonNode opened(String model, String... arguments) {
        List<String> all = new ArrayList<>(List.of("generate", "--prompt", "a", "--model", model));
        all.addAll(List.of(arguments));
        CommandRun run = CommandRun.of(scripted::builder, all.toArray(String[]::new));
        assertThat(run.err()).isEmpty();
        return scripted.openedWith().get(0);
    }

    private static JsonNode json(String text) throws JsonProcessingException {
        return new ObjectMapper().readTree(text);
    }

    @Test
    void asksForOneSlotAndOtherwiseForNothing() throws JsonProcessingException {
        assertThat(opened("m.gguf")).isEqualTo(json("{\"model\":\"m.gguf\",\"parallel\":1}"));
    }

    @Test
    void handsOverEveryOption() throws JsonProcessingException {
        assertThat(opened(
                        "m.gguf",
                        "--ctx-size=1024",
                        "--threads=3",
                        "--gpu-layers=0",
                        "--ubatch=64",
                        "--flash-attn=on",
                        "--kv-type=q8_0",
                        "--kv-type-v=F16",
                        "--option=top-p=0.9",
                        "--option=mlock",
                        "--option=jinja=false"))
                .isEqualTo(json("{\"model\":\"m.gguf\",\"parallel\":1,\"ctx-size\":1024,\"threads\":3,"
                        + "\"n-gpu-layers\":0,\"ubatch-size\":64,\"flash-attn\":\"on\",\"cache-type-k\":\"q8_0\","
                        + "\"cache-type-v\":\"f16\",\"top-p\":\"0.9\",\"mlock\":true,\"jinja\":false}"));
    }

    @Test
    void resolvesTheNameOfAPlanForTheModelsLayers(@TempDir Path directory) throws IOException {
        Path model = directory.resolve("model.gguf");
        TinyFile.header("llama").write(model);

        assertThat(opened(model.toString(), "--kv-plan", "cla:2")
                        .path("kv-plan")
                        .asText())
                .isEqualTo("0_0_2_2");
    }
}
