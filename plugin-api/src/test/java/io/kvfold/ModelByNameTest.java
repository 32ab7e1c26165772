package io.kvfold;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import io.kvfold.hub.LocalHub;
import io.kvfold.hub.Models;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Engines of models that have a name on a hub. */
@Timeout(60)
class ModelByNameTest {

    private static final String NAME = "hf:owner/tiny-GGUF:F32";

    private final LocalHub hub = LocalHub.start();
    private final ScriptedEngine scripted = ScriptedEngine.answering();

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path directory;

    @BeforeEach
    void putAModelOnTheHub() throws IOException {
        hub.put("owner/tiny-GGUF", "tiny-F32.gguf", Files.readAllBytes(TinyModel.write(directory.resolve("tiny"), 1)));
    }

    @AfterEach
    void stopTheHub() {
        hub.close();
    }

    private Models models() {
        return Models.builder()
                .endpoint(hub.endpoint())
                .cacheDirectory(directory.resolve("cache"))
                .build();
    }

    @Test
    void fetchesAModelWhenItIsOpened() {
        List<Long> progress = new ArrayList<>();
        Engine.Builder builder = scripted.builder()
                .modelName(NAME)
                .models(models())
                .describeTools(false)
                .downloadProgress((file, bytes, total) -> progress.add(bytes));
        assertThat(hub.requests()).isEmpty();

        builder.open().close();

        JsonNode options = scripted.openedWith().get(0);
        assertThat(Path.of(options.path("model").asText()))
                .isEqualTo(models().list().get(0).file())
                .isRegularFile();
        assertThat(options.path("alias").asText()).isEqualTo(NAME);
        assertThat(options.has("mmproj")).isFalse();
        assertThat(progress).isNotEmpty();
    }

    @Test
    void addsTheProjectorUnlessToldOtherwise() {
        hub.put("owner/tiny-GGUF", "mmproj-F16.gguf", new byte[10]);
        for (String option : List.of("slots", "mmproj", "no-mmproj")) {
            scripted.builder()
                    .modelName(NAME)
                    .models(models())
                    .option(option, "mine")
                    .open()
                    .close();
        }

        assertThat(scripted.openedWith().get(0).path("mmproj").asText()).endsWith("mmproj-F16.gguf");
        assertThat(scripted.openedWith().get(1).path("mmproj").asText()).isEqualTo("mine");
        assertThat(scripted.openedWith().get(2).has("mmproj")).isFalse();
    }

    @Test
    void takesTheNameOrTheFileThatCameLast() {
        scripted.builder().modelName(NAME).model(Path.of("m.gguf")).open().close();
        scripted.builder()
                .model(Path.of("m.gguf"))
                .modelName(NAME)
                .models(models())
                .option("alias", "mine")
                .open()
                .close();

        assertThat(scripted.openedWith().get(0).path("model").asText()).isEqualTo("m.gguf");
        assertThat(scripted.openedWith().get(0).has("alias")).isFalse();
        assertThat(scripted.openedWith().get(1).path("model").asText()).endsWith("tiny-F32.gguf");
        assertThat(scripted.openedWith().get(1).path("alias").asText()).isEqualTo("mine");
    }

    @Test
    void opensNothingWhenTheDownloadIsAbandoned() {
        assertThatThrownBy(() -> scripted.builder()
                        .modelName(NAME)
                        .models(models())
                        .downloadProgress((file, bytes, total) -> false)
                        .open())
                .isInstanceOf(GenerationCancelledException.class);
        assertThat(scripted.openedWith()).isEmpty();
    }

    @Test
    void refusesAPathForAName() {
        assertThatThrownBy(() -> Engine.builder().modelName("model.gguf"))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("hf:owner/name[:quant|/file][@revision]");
    }

    @Test
    void answersUnderItsName() {
        RealLibrary.require();
        try (Engine engine = Engine.builder()
                .modelName(NAME)
                .models(models())
                .contextSize(256)
                .open()) {
            JsonNode props = engine.call("/props", Json.MAPPER.createObjectNode());
            assertThat(props.path("model_alias").asText()).isEqualTo(NAME);
        }
    }
}
