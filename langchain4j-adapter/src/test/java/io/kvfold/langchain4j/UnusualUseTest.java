package io.kvfold.langchain4j;

import static java.util.concurrent.TimeUnit.SECONDS;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import dev.langchain4j.agent.tool.ToolExecutionRequest;
import dev.langchain4j.agent.tool.ToolSpecification;
import dev.langchain4j.data.message.AiMessage;
import dev.langchain4j.data.message.ChatMessage;
import dev.langchain4j.data.message.ImageContent;
import dev.langchain4j.data.message.ToolExecutionResultMessage;
import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.exception.InvalidRequestException;
import dev.langchain4j.exception.LangChain4jException;
import dev.langchain4j.exception.NonRetriableException;
import dev.langchain4j.exception.UnsupportedFeatureException;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import dev.langchain4j.model.embedding.request.EmbeddingRequest;
import io.kvfold.Engine;
import io.kvfold.NativeLibrary;
import io.kvfold.TinyModel;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.function.Consumer;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** What an application may well do, if seldom on purpose, on the native library. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
@Timeout(60)
class UnusualUseTest {

    private static final ToolSpecification LIGHT =
            ToolSpecification.builder().name("light").build();

    @TempDir
    static Path directory;

    private Path gguf = Path.of("");

    @SuppressWarnings("NullAway.Init") // by openEngine()
    private Engine engine;

    @BeforeAll
    void openEngine() throws Exception {
        assumeTrue(NativeLibrary.isAvailable(), () -> "no native library: " + NativeLibrary.unavailabilityCause());
        gguf = TinyModel.write(directory.resolve("tiny.gguf"), 1);
        engine = builder().open();
    }

    @AfterAll
    void closeEngine() {
        if (engine != null) {
            engine.close();
        }
    }

    private Engine.Builder builder() {
        return Engine.builder().model(gguf).contextSize(4096).slots(2).threads(1);
    }

    private ChatResponse answer(ChatMessage... messages) {
        try (KvfoldChatModel model =
                KvfoldChatModel.builder().engine(engine).maxOutputTokens(4).build()) {
            return model.chat(ChatRequest.builder()
                    .messages(messages)
                    .toolSpecifications(LIGHT)
                    .build());
        }
    }

    private static AiMessage call(String arguments) {
        return AiMessage.from(ToolExecutionRequest.builder()
                .id("1")
                .name("light")
                .arguments(arguments)
                .build());
    }

    /** As of an answer that ended at its limit; llama.cpp refuses such a conversation from then on. */
    @ParameterizedTest
    @ValueSource(strings = {"{\"on\": tr", "on", "[true]", "", "{\"on\": true}"})
    void goesOnAfterACallWithoutProperArguments(String arguments) {
        ChatResponse response = answer(
                UserMessage.from("light!"), call(arguments), ToolExecutionResultMessage.from("1", "light", "failed"));

        assertThat(response.tokenUsage().outputTokenCount()).isEqualTo(4);
    }

    @Test
    void takesAToolResultThatNothingAskedFor() {
        ChatResponse response =
                answer(UserMessage.from("hello"), ToolExecutionResultMessage.from("9", "light", "it is on"));

        assertThat(response.tokenUsage().outputTokenCount()).isEqualTo(4);
    }

    @Test
    void refusesTwoToolsOfOneName() {
        KvfoldChatModel model = KvfoldChatModel.builder().engine(engine).build();

        assertThatThrownBy(() -> model.chat(ChatRequest.builder()
                        .messages(UserMessage.from("light!"))
                        .toolSpecifications(LIGHT, LIGHT)
                        .build()))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("light");
    }

    @Test
    void refusesAnImageWithoutAProjector() {
        assertThatThrownBy(() -> answer(UserMessage.from(ImageContent.from("aGVsbG8=", "image/png"))))
                .isExactlyInstanceOf(UnsupportedFeatureException.class)
                .hasMessageContaining("image")
                .hasMessageContaining("not support");
    }

    @Test
    void namesBothNumbersForAPromptOfMillionsOfCharacters() {
        assertThatThrownBy(() -> answer(UserMessage.from("word ".repeat(400_000))))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("4096")
                .hasMessageMatching("(?s).*\\d{7}.*");
    }

    @ParameterizedTest
    @CsvSource({"ctx-size,-1", "parallel,0", "kv-budget,-1", "kv-budget,1", "ubatch-size,0"})
    void refusesAnImpossibleEngine(String option, long value) {
        assertThatThrownBy(() -> KvfoldChatModel.builder()
                        .modelPath(gguf)
                        .engineOption(option, value)
                        .build()
                        .close())
                .as("%s %s", option, value)
                .isInstanceOf(LangChain4jException.class)
                .hasMessageContaining(option);
    }

    @Test
    void isClosedByItsOwnHandler() throws Exception {
        CompletableFuture<Throwable> failure = new CompletableFuture<>();
        KvfoldStreamingChatModel model = KvfoldStreamingChatModel.builder()
                .modelPath(gguf)
                .contextSize(2048)
                .slots(1)
                .threads(1)
                .maxOutputTokens(1000)
                .build();
        model.chat("hello", handler(text -> model.close(), failure));

        assertThat(failure.get(30, SECONDS)).isInstanceOf(NonRetriableException.class);
        CompletableFuture<Throwable> later = new CompletableFuture<>();
        model.chat("hello", handler(text -> {}, later));
        assertThat(later.get(30, SECONDS)).isInstanceOf(NonRetriableException.class);
    }

    @Test
    void endsWhatStreamsWhenItsEngineIsClosed() throws Exception {
        CompletableFuture<Throwable> failure = new CompletableFuture<>();
        CompletableFuture<Void> begun = new CompletableFuture<>();
        Engine shared = builder().open();
        try (KvfoldStreamingChatModel model = KvfoldStreamingChatModel.builder()
                .engine(shared)
                .maxOutputTokens(1500)
                .build()) {
            model.chat("hello", handler(text -> begun.complete(null), failure));
            begun.get(30, SECONDS);
            shared.close();

            assertThat(failure.get(30, SECONDS)).isInstanceOf(NonRetriableException.class);
        }
    }

    @Test
    void tellsAHandlerOfItsOwnError() throws Exception {
        CompletableFuture<Throwable> failure = new CompletableFuture<>();
        AssertionError error = new AssertionError("thrown by the handler");
        KvfoldStreamingChatModel model = KvfoldStreamingChatModel.builder()
                .engine(engine)
                .maxOutputTokens(4)
                .build();
        model.chat(
                "hello",
                handler(
                        text -> {
                            throw error;
                        },
                        failure));

        assertThat(failure.get(30, SECONDS)).isSameAs(error);
    }

    @Test
    void saysThatAModelOfChatsNeedsAPooling() {
        assertThatThrownBy(() ->
                        KvfoldEmbeddingModel.builder().modelPath(gguf).build().close())
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("set pooling to mean");
        try (Engine engine =
                        Engine.builder().model(gguf).option("embeddings", true).open();
                KvfoldEmbeddingModel model =
                        KvfoldEmbeddingModel.builder().engine(engine).build()) {
            assertThatThrownBy(() -> model.embed("hello"))
                    .isInstanceOf(InvalidRequestException.class)
                    .hasMessageContaining("set pooling to mean");
            EmbeddingRequest request = EmbeddingRequest.builder().input("hello").build();
            assertThatThrownBy(() -> model.embedAsync(request).get(30, SECONDS))
                    .hasCauseInstanceOf(InvalidRequestException.class)
                    .hasMessageContaining("set pooling to mean");
        }
    }

    @Test
    void scoresWithRerankersOnly() {
        assertThatThrownBy(() ->
                        KvfoldScoringModel.builder().modelPath(gguf).build().close())
                .isExactlyInstanceOf(UnsupportedFeatureException.class)
                .hasMessageContaining("no reranker");
    }

    private static StreamingChatResponseHandler handler(Consumer<String> onText, CompletableFuture<Throwable> failure) {
        return new StreamingChatResponseHandler() {
            @Override
            public void onPartialResponse(String text) {
                onText.accept(text);
            }

            @Override
            public void onCompleteResponse(ChatResponse response) {
                failure.completeExceptionally(new AssertionError("an answer: " + response));
            }

            @Override
            public void onError(Throwable error) {
                failure.complete(error);
            }
        };
    }

    @Test
    void refusesMessagesThatAreNull() {
        KvfoldChatModel model = KvfoldChatModel.builder().engine(engine).build();

        assertThatThrownBy(() -> model.chat((String) null)).isInstanceOf(IllegalArgumentException.class);
        assertThatThrownBy(() -> model.chat(List.of())).isInstanceOf(IllegalArgumentException.class);
    }
}
