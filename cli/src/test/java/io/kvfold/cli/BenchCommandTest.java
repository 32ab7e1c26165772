package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import io.kvfold.ScriptedEngine;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

final class BenchCommandTest {

    private final ScriptedEngine scripted = new ScriptedEngine((route, body) -> {
        int asked = body.path("n_predict").asInt();
        return List.of(ScriptedEngine.chunk(
                "{\"content\":\"a\",\"tokens\":[5],\"tokens_predicted\":" + asked + ",\"stop\":true}"));
    });

    @Test
    void comparesEveryCombinationOfOptions(@TempDir Path directory) throws IOException {
        Path model = directory.resolve("model.gguf");
        TinyFile.header("llama").write(model);

        CommandRun run = CommandRun.of(
                scripted::builder,
                "bench",
                "--model=" + model,
                "--workload=2+3",
                "--rounds=1",
                "--option=cpu-attention=fused,upstream",
                "--option=mlock");

        // the scripted engine serves one subject; with what the next one would have been opened is told all the same
        assertThat(run.err()).doesNotContain("Exception");
        assertThat(scripted.openedWith())
                .extracting(options -> options.path("cpu-attention").asText())
                .containsExactly("fused", "upstream");
        assertThat(scripted.openedWith())
                .extracting(options -> options.path("mlock"))
                .allMatch(JsonNode::asBoolean);
    }
}
