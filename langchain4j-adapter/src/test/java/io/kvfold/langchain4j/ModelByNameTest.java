package io.kvfold.langchain4j;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.exception.AuthenticationException;
import dev.langchain4j.exception.InternalServerException;
import dev.langchain4j.exception.InvalidRequestException;
import dev.langchain4j.exception.ModelNotFoundException;
import dev.langchain4j.exception.UnsupportedFeatureException;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.response.ChatResponse;
import io.kvfold.RealLibrary;
import io.kvfold.TinyModel;
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

/** Builders that are given a name on a hub. */
@Timeout(60)
class ModelByNameTest {

    private static final String NAME = "hf:owner/tiny-GGUF:F32";

    private final LocalHub hub = LocalHub.start();

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
    void answersUnderTheNameItWasFetchedBy() {
        RealLibrary.require();
        List<String> files = new ArrayList<>();
        try (KvfoldChatModel model = KvfoldChatModel.builder()
                .modelName(NAME)
                .models(models())
                .downloadProgress((file, bytes, total) -> files.add(file))
                .contextSize(512)
                .maxOutputTokens(3)
                .build()) {
            ChatResponse response = model.chat(UserMessage.from("hello"));
            assertThat(response.metadata().modelName()).isEqualTo(NAME);
            assertThat(model.defaultRequestParameters().modelName()).isEqualTo(NAME);
            assertThatThrownBy(() -> model.chat(ChatRequest.builder()
                            .messages(UserMessage.from("hello"))
                            .modelName("hf:owner/other")
                            .build()))
                    .isInstanceOf(UnsupportedFeatureException.class)
                    .hasMessageContaining(NAME);
        }
        assertThat(files).contains("tiny-F32.gguf");
        try (KvfoldEmbeddingModel model = KvfoldEmbeddingModel.builder()
                .modelName(NAME)
                .models(models())
                .contextSize(512)
                .pooling("mean")
                .build()) {
            assertThat(model.embed("hello").content().dimension()).isPositive();
        }
    }

    @Test
    void refusesWhatItCannotFetchWithLangChain4jsExceptions() {
        hub.restrict("owner/tiny-GGUF", "hf_right", true);
        assertThatThrownBy(() -> builder(NAME).build()).isInstanceOf(AuthenticationException.class);
        assertThatThrownBy(() -> builder("hf:no/body").build()).isInstanceOf(ModelNotFoundException.class);
        assertThatThrownBy(() -> builder("hf:nobody").build()).isInstanceOf(InvalidRequestException.class);
        hub.fail(1, request -> true, 429, java.util.Map.of("Retry-After", "1000"));
        assertThatThrownBy(() -> builder(NAME).build()).isInstanceOf(InternalServerException.class);
    }

    private KvfoldChatModel.Builder builder(String name) {
        return KvfoldChatModel.builder().modelName(name).models(models());
    }

    @Test
    void takesOneModel() {
        assertThatThrownBy(() -> builder(NAME).modelPath("m.gguf").build())
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("m.gguf")
                .hasMessageContaining(NAME);
        assertThatThrownBy(() -> KvfoldScoringModel.builder().modelName("m.gguf"))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining("modelPath");
        assertThat(hub.requests()).isEmpty();
    }
}
