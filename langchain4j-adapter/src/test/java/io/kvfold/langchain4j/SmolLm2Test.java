package io.kvfold.langchain4j;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.annotation.JsonProperty;
import dev.langchain4j.agent.tool.P;
import dev.langchain4j.agent.tool.ReturnBehavior;
import dev.langchain4j.agent.tool.Tool;
import dev.langchain4j.data.message.ChatMessage;
import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.data.segment.TextSegment;
import dev.langchain4j.model.chat.TestStreamingChatResponseHandler;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.request.ToolChoice;
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.output.FinishReason;
import dev.langchain4j.rag.content.retriever.EmbeddingStoreContentRetriever;
import dev.langchain4j.service.AiServices;
import dev.langchain4j.service.Result;
import dev.langchain4j.store.embedding.inmemory.InMemoryEmbeddingStore;
import io.kvfold.DownloadedModels;
import io.kvfold.Engine;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.RealLibrary;
import io.kvfold.Session;
import io.kvfold.SessionStore;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * The models over a trained instruct model of 135 million weights. It is small: what is asserted of an answer's content is what
 * it gives without sampling, with room for another processor's rounding; what a grammar, a cache or a plan guarantees is
 * asserted exactly.
 */
@Tag("real-models")
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class SmolLm2Test {

    private static final int LAYERS = 30;
    private static final int BYTES_PER_TOKEN = LAYERS * 2 * 3 * 64 * Short.BYTES;

    /** Asked more briefly, rounding decides whether this model answers in English or in French. */
    private static final String FRANCE = "Please tell me: what is the capital city of France?";

    private static final String GERMANY = "And what is the capital city of Germany?";

    @SuppressWarnings("NullAway.Init") // by openEngine()
    private Engine engine;

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path directory;

    @BeforeAll
    void openEngine() {
        RealLibrary.require();
        engine = builder().slots(2).contextSize(4096).open();
    }

    @AfterAll
    void closeEngine() {
        if (engine != null) {
            engine.close();
        }
    }

    private static Engine.Builder builder() {
        return Engine.builder().model(DownloadedModels.smolLm2()).slots(1).contextSize(2048);
    }

    private static KvfoldChatModel model(Engine engine) {
        return KvfoldChatModel.builder()
                .engine(engine)
                .temperature(0.0)
                .maxOutputTokens(48)
                .build();
    }

    private static KvfoldTokenUsage usage(ChatResponse response) {
        return (KvfoldTokenUsage) response.tokenUsage();
    }

    @Test
    void answersAQuestionAndRefersBackToIt() {
        List<ChatMessage> messages = new ArrayList<>(List.of(UserMessage.from(FRANCE)));
        ChatResponse first = model(engine).chat(messages);
        assertThat(first.aiMessage().text()).contains("Paris");
        assertThat(first.finishReason()).isEqualTo(FinishReason.STOP);
        messages.add(first.aiMessage());
        messages.add(UserMessage.from(GERMANY));
        ChatResponse second = model(engine).chat(messages);

        assertThat(second.aiMessage().text()).contains("Berlin");
        // all but the end of the first answer and the new question is in the cache
        assertThat(usage(second).cachedInputTokenCount())
                .isGreaterThanOrEqualTo(usage(first).inputTokenCount());
    }

    @Tag("quick")
    @Test
    void streamsTheSameAnswer() {
        TestStreamingChatResponseHandler handler = new TestStreamingChatResponseHandler();
        KvfoldStreamingChatModel.builder()
                .engine(engine)
                .temperature(0.0)
                .maxOutputTokens(48)
                .build()
                .chat(FRANCE, handler);

        assertThat(handler.get().aiMessage().text()).isEqualTo(model(engine).chat(FRANCE));
    }

    static final class Calculator {
        final List<String> calls = new ArrayList<>();

        @Tool(value = "adds two numbers", returnBehavior = ReturnBehavior.IMMEDIATE)
        int add(@P("the first number") int a, @P("the second number") int b) {
            calls.add(a + "+" + b);
            return a + b;
        }
    }

    interface Assistant {
        Result<String> chat(String question);
    }

    /** A required call is the grammar's doing; that the numbers are those of the question is the model's. */
    @Tag("quick")
    @Test
    void callsAToolOfAnAiService() {
        Calculator calculator = new Calculator();
        KvfoldChatModel model = KvfoldChatModel.builder()
                .engine(engine)
                .temperature(0.0)
                .maxOutputTokens(128)
                .parallelToolCalls(false)
                .build();
        Result<String> result = AiServices.builder(Assistant.class)
                .chatModel(model)
                .tools(calculator)
                .chatRequestTransformer(request ->
                        request.toBuilder().toolChoice(ToolChoice.REQUIRED).build())
                .build()
                .chat("What is 12 plus 30?");

        assertThat(calculator.calls).isNotEmpty();
        assertThat(result.toolExecutions()).hasSameSizeAs(calculator.calls);
        assertThat(result.toolExecutions().get(0).request().name()).isEqualTo("add");
        assertThat(result.toolExecutions().get(0).hasFailed()).isFalse();
    }

    record Person(
            @JsonProperty(required = true) String firstName,
            @JsonProperty(required = true) String lastName,
            @JsonProperty(required = true) Integer age) {}

    interface Extractor {
        Person extract(String text);
    }

    /** That nothing is missing is the grammar's doing; what is in it is the model's. */
    @Tag("quick")
    @Test
    void extractsAPojo() {
        KvfoldChatModel model = KvfoldChatModel.builder()
                .engine(engine)
                .temperature(0.0)
                .maxOutputTokens(200)
                .build();
        Person person = AiServices.create(Extractor.class, model)
                .extract("Extract the person: John Smith is 42 years old and lives in London.");

        assertThat(person).hasNoNullFieldsOrProperties();
    }

    @Test
    void answersFromWhatWasRetrieved() {
        try (KvfoldEmbeddingModel embeddings = KvfoldEmbeddingModel.builder()
                .modelPath(DownloadedModels.smolLm2())
                .contextSize(1024)
                .pooling("mean")
                .build()) {
            InMemoryEmbeddingStore<TextSegment> store = new InMemoryEmbeddingStore<>();
            for (String text : List.of(
                    "The server listens on port 8471.",
                    "Cats sleep for sixteen hours a day.",
                    "Bread is made of flour.")) {
                store.add(embeddings.embed(text).content(), TextSegment.from(text));
            }
            Result<String> answer = AiServices.builder(Assistant.class)
                    .chatModel(model(engine))
                    .contentRetriever(EmbeddingStoreContentRetriever.builder()
                            .embeddingModel(embeddings)
                            .embeddingStore(store)
                            .maxResults(1)
                            .build())
                    .build()
                    .chat("On which port does the server listen?");

            assertThat(answer.sources()).hasSize(1);
            assertThat(answer.sources().get(0).textSegment().text()).contains("8471");
            assertThat(answer.content()).contains("8471");
        }
    }

    /** On a text that fits all windows such a plan forgets nothing, so every answer is the one without a plan. */
    @ParameterizedTest
    @CsvSource({
        "streaming:1024",
        "simlayerkv:0.9",
        "lighttransfer:8",
        "0_1s_2_3s_4_5_6_7_8_9_10_11_12_13_14_15_16_17_18_19_20_21_22_23_24_25_26_27_28_29;window=1024;sinks=4"
    })
    void forgetsNothingOfAShortText(String plan) {
        try (Engine planned = builder().kvPlan(KvPlan.parse(plan, LAYERS)).open()) {
            assertThat(model(planned).chat(FRANCE)).isEqualTo(model(engine).chat(FRANCE));
        }
    }

    /** The model was trained for none of these: it writes nonsense, in exactly the memory that the plan says. */
    @Tag("quick")
    @ParameterizedTest
    @CsvSource({"cla:2, 15", "mlkv:10, 10", "lckv:2, 3", "pizza-bottom:10, 10", "sandwich-middle:10, 10", "yoco:512, 16"
    })
    void takesTheMemoryOfAPlanThatShares(String plan, int layers) {
        try (Engine planned = builder().kvPlan(KvPlan.parse(plan, LAYERS)).open()) {
            assertThat(planned.kvCacheStats().layersWithStorage()).isEqualTo(layers);
            assertThat(planned.kvCacheStats().bytesPerToken()).isEqualTo((long) BYTES_PER_TOKEN / LAYERS * layers);
            ChatResponse response = model(planned).chat(UserMessage.from(FRANCE));
            assertThat(response.tokenUsage().outputTokenCount()).isPositive();
        }
    }

    @ParameterizedTest
    @CsvSource({"q8_0, 34", "q4_0, 18"})
    void answersFromAQuantisedCache(String type, int bytesPerBlockOf32) {
        KvType kvType = KvType.valueOf(type.toUpperCase(java.util.Locale.ROOT));
        try (Engine small = builder().kvCacheTypes(kvType, kvType).open()) {
            assertThat(small.kvCacheStats().bytesPerToken()).isEqualTo((long) BYTES_PER_TOKEN / 64 * bytesPerBlockOf32);
            assertThat(model(small).chat(FRANCE)).contains("Paris");
        }
    }

    @Test
    void goesOnWithASessionInAnotherEngine() {
        SessionStore store = SessionStore.directory(directory);
        List<ChatMessage> messages = new ArrayList<>(List.of(UserMessage.from(FRANCE)));
        try (Engine first = builder().open()) {
            messages.add(ask(first, store, messages).aiMessage());
        }
        messages.add(UserMessage.from(GERMANY));
        try (Engine second = builder().open()) {
            ChatResponse response = ask(second, store, messages);
            assertThat(response.aiMessage().text()).contains("Berlin");
            assertThat(usage(response).cachedInputTokenCount()).isGreaterThan(35);
        }
    }

    private static ChatResponse ask(Engine engine, SessionStore store, List<ChatMessage> messages) {
        return model(engine)
                .chat(ChatRequest.builder()
                        .messages(messages)
                        .parameters(KvfoldChatRequestParameters.builder()
                                .session(Session.of(store, "capitals"))
                                .build())
                        .build());
    }
}
