package io.kvfold.langchain4j;

import static java.util.concurrent.TimeUnit.SECONDS;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.langchain4j.agent.tool.ToolExecutionRequest;
import dev.langchain4j.agent.tool.ToolSpecification;
import dev.langchain4j.data.message.ChatMessage;
import dev.langchain4j.data.message.SystemMessage;
import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.exception.InvalidRequestException;
import dev.langchain4j.exception.ModelNotFoundException;
import dev.langchain4j.exception.NonRetriableException;
import dev.langchain4j.exception.UnsupportedFeatureException;
import dev.langchain4j.model.chat.TestStreamingChatResponseHandler;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.request.ChatRequestParameters;
import dev.langchain4j.model.chat.request.ResponseFormat;
import dev.langchain4j.model.chat.request.ResponseFormatType;
import dev.langchain4j.model.chat.request.ToolChoice;
import dev.langchain4j.model.chat.request.json.JsonObjectSchema;
import dev.langchain4j.model.chat.request.json.JsonSchema;
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.PartialResponse;
import dev.langchain4j.model.chat.response.PartialResponseContext;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import dev.langchain4j.model.output.FinishReason;
import io.kvfold.Engine;
import io.kvfold.Generation;
import io.kvfold.KvPlan;
import io.kvfold.TinyModel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import org.assertj.core.data.Offset;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** The models over the native library and a real, if tiny, model. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
@Timeout(60)
class RealModelTest {

    private static final String QUESTION = "Once upon a time";

    @SuppressWarnings("NullAway.Init") // by openEngine()
    private Engine engine;

    @SuppressWarnings("NullAway.Init")
    private KvfoldChatModel model;

    @SuppressWarnings("NullAway.Init")
    private KvfoldStreamingChatModel streamingModel;

    @BeforeAll
    void openEngine() {
        engine = StoriesModel.engine().open();
        model = KvfoldChatModel.builder()
                .engine(engine)
                .temperature(0.0)
                .maxOutputTokens(60)
                .build();
        streamingModel = KvfoldStreamingChatModel.builder()
                .engine(engine)
                .temperature(0.0)
                .maxOutputTokens(60)
                .build();
    }

    @AfterAll
    void closeEngine() {
        if (engine != null) {
            engine.close();
        }
    }

    @Test
    void answersWithUsageAndMetadata() {
        ChatResponse response = model.chat(UserMessage.from(QUESTION));

        KvfoldChatResponseMetadata metadata = (KvfoldChatResponseMetadata) response.metadata();
        assertThat(response.aiMessage().text()).isNotBlank();
        assertThat(metadata.id()).isNotBlank();
        assertThat(metadata.modelName()).isNotBlank();
        assertThat(metadata.tokenUsage().inputTokenCount()).isPositive();
        assertThat(metadata.tokenUsage().totalTokenCount())
                .isEqualTo(metadata.tokenUsage().inputTokenCount()
                        + metadata.tokenUsage().outputTokenCount());
        assertThat(metadata.outputTokensPerSecond()).isPositive();
        assertThat(metadata.inputTokensPerSecond()).isPositive();
        assertThat(metadata.kvCacheBytes())
                .isEqualTo(metadata.tokenUsage().totalTokenCount()
                        * engine.kvCacheStats().bytesPerToken());
    }

    @Test
    void endsWithReasonLengthAtTheLimit() {
        ChatResponse response = model.chat(ChatRequest.builder()
                .messages(UserMessage.from(QUESTION))
                .maxOutputTokens(5)
                .build());

        assertThat(response.finishReason()).isEqualTo(FinishReason.LENGTH);
        assertThat(response.tokenUsage().outputTokenCount()).isEqualTo(5);
    }

    @Test
    void streamsTheSameAnswer() {
        TestStreamingChatResponseHandler handler = new TestStreamingChatResponseHandler();
        streamingModel.chat(QUESTION, handler);

        assertThat(handler.get().aiMessage())
                .isEqualTo(model.chat(UserMessage.from(QUESTION)).aiMessage());
    }

    /** Else every token would be parsed as a whole, which nobody would notice. */
    @Test
    void knowsTheChunksThatLlamaServerWrites() {
        ObjectNode body = new ObjectMapper()
                .createObjectNode()
                .put("stream", true)
                .put("max_tokens", 20)
                .put("temperature", 0);
        body.putArray("messages").addObject().put("role", "user").put("content", QUESTION);
        int plain = 0;
        try (Generation generation = engine.chat(body)) {
            for (byte[] chunk = generation.nextJson(); chunk != null; chunk = generation.nextJson()) {
                plain += Answer.plainText(chunk) == null ? 0 : 1;
            }
        }
        assertThat(plain).isGreaterThan(10);
    }

    @Test
    void stopsBeforeAStopSequence() {
        String whole = model.chat(QUESTION);
        String stop = whole.substring(whole.length() / 2, whole.length() / 2 + 4);

        ChatResponse response = model.chat(ChatRequest.builder()
                .messages(UserMessage.from(QUESTION))
                .stopSequences(List.of(stop))
                .build());

        assertThat(response.finishReason()).isEqualTo(FinishReason.STOP);
        assertThat(response.aiMessage().text()).isEqualTo(whole.substring(0, whole.indexOf(stop)));
    }

    @Test
    void reusesThePrefixOfAPromptItHasSeen() {
        String story = "Tell me about the cat and the dog. ".repeat(20);
        model.chat(story);
        KvfoldTokenUsage again =
                (KvfoldTokenUsage) model.chat(UserMessage.from(story)).tokenUsage();

        assertThat(again.cachedInputTokenCount()).isGreaterThan(again.inputTokenCount() / 2);
    }

    @Test
    void deliversNothingAfterCancel() throws Exception {
        AtomicInteger partials = new AtomicInteger();
        CompletableFuture<String> ended = new CompletableFuture<>();
        CountDownLatch cancelled = new CountDownLatch(1);
        streamingModel.chat(
                ChatRequest.builder()
                        .messages(UserMessage.from(QUESTION))
                        .maxOutputTokens(400)
                        .build(),
                new StreamingChatResponseHandler() {
                    @Override
                    public void onPartialResponse(PartialResponse partial, PartialResponseContext context) {
                        if (partials.incrementAndGet() == 3) {
                            context.streamingHandle().cancel();
                            cancelled.countDown();
                        }
                    }

                    @Override
                    public void onCompleteResponse(ChatResponse response) {
                        ended.complete("completed");
                    }

                    @Override
                    public void onError(Throwable error) {
                        ended.complete("failed: " + error);
                    }
                });

        assertThat(cancelled.await(10, SECONDS)).isTrue();
        while (engine.kvCacheStats().slotsBusy() > 0) {
            Thread.sleep(5);
        }
        assertThat(partials).hasValue(3);
        assertThat(ended).isNotDone();
    }

    @Test
    void answersSixteenAtOnceAsItDoesOneByOne() throws Exception {
        List<String> questions = new ArrayList<>();
        List<String> alone = new ArrayList<>();
        for (int i = 0; i < 16; i++) {
            questions.add("Tell a story about " + i + " cats");
            alone.add(model.chat(questions.get(i)));
        }

        ExecutorService callers = Executors.newFixedThreadPool(16);
        try {
            List<Future<String>> answers = new ArrayList<>();
            for (String question : questions) {
                answers.add(callers.submit(() -> model.chat(question)));
            }
            for (int i = 0; i < answers.size(); i++) {
                assertThat(answers.get(i).get(60, SECONDS)).isEqualTo(alone.get(i));
            }
        } finally {
            callers.shutdownNow();
        }
    }

    @Test
    void namesBothNumbersWhenAPromptIsTooLong() {
        assertThatThrownBy(() -> model.chat("cat and dog ".repeat(1000)))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining(String.valueOf(engine.info().context().sizePerSlot()))
                .hasMessageMatching("(?s).*\\d{4}.*");
    }

    @Test
    void answersInTheShapeOfASchema() throws Exception {
        JsonObjectSchema root = JsonObjectSchema.builder()
                .addEnumProperty("animal", List.of("cat", "dog"))
                .addIntegerProperty("legs")
                .addBooleanProperty("small")
                .required("animal", "small")
                .build();

        ChatResponse response = model.chat(ChatRequest.builder()
                .messages(UserMessage.from("Describe a cat"))
                .responseFormat(ResponseFormat.builder()
                        .type(ResponseFormatType.JSON)
                        .jsonSchema(JsonSchema.builder()
                                .name("Animal")
                                .rootElement(root)
                                .build())
                        .build())
                .maxOutputTokens(200)
                .build());

        assertThat(response.finishReason()).isEqualTo(FinishReason.STOP);
        JsonNode json = new ObjectMapper().readTree(response.aiMessage().text());
        assertThat(json.path("animal").asText()).isIn("cat", "dog");
        assertThat(json.path("small").isBoolean()).isTrue();
        assertThat(json.fieldNames()).toIterable().isSubsetOf("animal", "legs", "small");
    }

    /** Random weights: that they call is the grammar's, when they stop is chance. */
    @Test
    void callsAToolThatTheTemplateDoesNotMention(@TempDir Path directory) throws Exception {
        ToolSpecification tool = ToolSpecification.builder()
                .name("light")
                .parameters(JsonObjectSchema.builder()
                        .addBooleanProperty("on")
                        .required("on")
                        .build())
                .build();
        ChatRequestParameters parameters = ChatRequestParameters.builder()
                .toolSpecifications(tool)
                .toolChoice(ToolChoice.REQUIRED)
                .maxOutputTokens(300)
                .build();
        try (KvfoldChatModel tiny = KvfoldChatModel.builder()
                .modelPath(TinyModel.write(directory.resolve("tiny.gguf"), 1))
                .contextSize(4096)
                .slots(1)
                .threads(1)
                .temperature(0.0)
                .build()) {
            ChatResponse response = tiny.chat(ChatRequest.builder()
                    .messages(UserMessage.from("Switch it on"))
                    .parameters(parameters)
                    .build());

            assertThat(response.aiMessage().text()).isNull();
            assertThat(response.aiMessage().toolExecutionRequests()).hasSizeGreaterThanOrEqualTo(1);
            ToolExecutionRequest call =
                    response.aiMessage().toolExecutionRequests().get(0);
            assertThat(call.name()).isEqualTo("light");
            assertThat(new ObjectMapper().readTree(call.arguments()).path("on").isBoolean())
                    .as(call.arguments())
                    .isTrue();
        }
    }

    /** llama.cpp alone would let no tool be called here, and constrain nothing once the schema is left out. */
    @Test
    void answersInJsonWhereItCallsNoTool(@TempDir Path directory) throws Exception {
        ChatRequestParameters parameters = ChatRequestParameters.builder()
                .toolSpecifications(ToolSpecification.builder().name("light").build())
                .responseFormat(ResponseFormat.builder()
                        .type(ResponseFormatType.JSON)
                        .jsonSchema(JsonSchema.builder()
                                .name("lit")
                                .rootElement(JsonObjectSchema.builder()
                                        .addBooleanProperty("lit")
                                        .required("lit")
                                        .build())
                                .build())
                        .build())
                .maxOutputTokens(200)
                .build();
        try (KvfoldChatModel tiny = KvfoldChatModel.builder()
                .modelPath(TinyModel.write(directory.resolve("tiny.gguf"), 1))
                .contextSize(4096)
                .slots(1)
                .threads(1)
                .temperature(0.0)
                .build()) {
            ChatResponse response = tiny.chat(ChatRequest.builder()
                    .messages(UserMessage.from("Is it lit?"))
                    .parameters(parameters)
                    .build());

            assertThat(new ObjectMapper()
                            .readTree(response.aiMessage().text())
                            .path("lit")
                            .isBoolean())
                    .isTrue();
            assertThat(response.finishReason()).isEqualTo(FinishReason.STOP);
            KvfoldTokenUsage usage = (KvfoldTokenUsage) response.tokenUsage();
            assertThat(usage.cachedInputTokenCount()).isGreaterThan(usage.inputTokenCount() - 8);
        }
    }

    @Test
    void refusesToolsThatTheTemplateWouldDrop() {
        ChatRequest request = ChatRequest.builder()
                .messages(UserMessage.from("What is the weather in Munich?"))
                .toolSpecifications(
                        ToolSpecification.builder().name("getWeather").build())
                .build();

        assertThatThrownBy(() -> model.chat(request))
                .isExactlyInstanceOf(UnsupportedFeatureException.class)
                .hasMessageContaining("tool")
                .hasMessageContaining("not support");
    }

    @Test
    void refusesAGrammarThatIsNone() {
        assertThatThrownBy(() -> model.chat(ChatRequest.builder()
                        .messages(UserMessage.from(QUESTION))
                        .parameters(KvfoldChatRequestParameters.builder()
                                .grammar("root ::= (")
                                .build())
                        .build()))
                .isInstanceOf(InvalidRequestException.class);
    }

    @Test
    void obeysAGrammar() {
        ChatResponse response = model.chat(ChatRequest.builder()
                .messages(UserMessage.from(QUESTION))
                .parameters(KvfoldChatRequestParameters.builder()
                        .grammar("root ::= \"yes\" | \"no\"")
                        .build())
                .build());

        assertThat(response.aiMessage().text()).isIn("yes", "no");
    }

    @Test
    void rendersMessagesWithTheDefaultTemplateWhereAModelHasNone() {
        KvfoldTokenCountEstimator estimator = new KvfoldTokenCountEstimator(engine);
        List<ChatMessage> messages = List.of(SystemMessage.from("You tell stories"), UserMessage.from(QUESTION));

        int counted = estimator.estimateTokenCountInMessages(messages);

        assertThat(engine.info().model().chatTemplate()).isFalse();
        assertThat(model.chat(messages).tokenUsage().inputTokenCount()).isEqualTo(counted);
        assertThat(estimator.estimateTokenCountInText(QUESTION)).isBetween(1, counted - 1);
    }

    @Test
    void refusesEmbeddingsFromAnEngineThatIsNotForThem() {
        KvfoldEmbeddingModel embeddings =
                KvfoldEmbeddingModel.builder().engine(engine).build();

        assertThatThrownBy(() -> embeddings.embed(QUESTION)).isInstanceOf(UnsupportedFeatureException.class);
    }

    @Test
    void embedsTexts() {
        try (KvfoldEmbeddingModel embeddings = KvfoldEmbeddingModel.builder()
                .modelPath(StoriesModel.path())
                .contextSize(512)
                .slots(1)
                .threads(1)
                .pooling("mean")
                .build()) {
            var cat = embeddings.embed("the cat sat").content();
            var same = embeddings.embed("the cat sat").content();
            var other = embeddings.embed("a big red car").content();

            assertThat(embeddings.dimension()).isEqualTo(64);
            assertThat(cat.vector()).containsExactly(same.vector());
            assertThat(cat.vector()).isNotEqualTo(other.vector());
            double length = 0;
            for (float x : cat.vector()) {
                length += x * x;
            }
            assertThat(length).isCloseTo(1, Offset.offset(1e-4));
        }
    }

    @Test
    void foldsTheKvCacheAsThePlanSays() {
        int layers = engine.info().model().layers();
        try (KvfoldChatModel folded = KvfoldChatModel.builder()
                .modelPath(StoriesModel.path())
                .contextSize(512)
                .slots(1)
                .threads(1)
                .kvPlan(KvPlan.crossLayerAttention(layers, 2))
                .engineOption("cache-type-k", "f32")
                .engineOption("cache-type-v", "f32")
                .maxOutputTokens(10)
                .build()) {
            ChatResponse response = folded.chat(UserMessage.from(QUESTION));

            long bytesPerToken = engine.kvCacheStats().bytesPerToken() / layers * ((layers + 1) / 2);
            assertThat(((KvfoldChatResponseMetadata) response.metadata()).kvCacheBytes())
                    .isEqualTo(response.tokenUsage().totalTokenCount() * bytesPerToken);
        }
    }

    @Test
    void saysWhichFileIsMissingOrNoModel(@TempDir Path folder) throws Exception {
        Path missing = folder.resolve("missing.gguf");
        Path text = Files.writeString(folder.resolve("text.gguf"), "no model");

        assertThatThrownBy(() -> KvfoldChatModel.builder().modelPath(missing).build())
                .isExactlyInstanceOf(ModelNotFoundException.class)
                .hasMessageContaining("missing.gguf");
        assertThatThrownBy(() -> KvfoldChatModel.builder().modelPath(text).build())
                .isExactlyInstanceOf(ModelNotFoundException.class);
    }

    @Test
    void cancelsAPromptThatIsBeingRead() throws Exception {
        KvfoldChatModel slow = KvfoldChatModel.builder()
                .modelPath(StoriesModel.path())
                .contextSize(2048)
                .slots(1)
                .threads(1)
                .engineOption("ubatch-size", 4)
                .build();
        try (slow) {
            CompletableFuture<ChatResponse> answer = slow.chatAsync(UserMessage.from("cat and dog ".repeat(350)));
            while (slow.engine().kvCacheStats().slotsBusy() == 0) {
                Thread.sleep(1);
            }
            answer.cancel(true);

            long started = System.nanoTime();
            while (slow.engine().kvCacheStats().slotsBusy() > 0) {
                Thread.sleep(1);
            }
            assertThat(System.nanoTime() - started).isLessThan(SECONDS.toNanos(2));
            assertThat(slow.chat("hi")).isNotNull();
        }
    }

    @Test
    void failsClearlyOnceItsEngineIsClosed() {
        KvfoldChatModel owner = KvfoldChatModel.builder()
                .modelPath(StoriesModel.path())
                .contextSize(256)
                .slots(1)
                .build();
        owner.close();
        owner.close();

        assertThatThrownBy(() -> owner.chat(QUESTION))
                .isExactlyInstanceOf(NonRetriableException.class)
                .hasMessageContaining("closed");
    }
}
