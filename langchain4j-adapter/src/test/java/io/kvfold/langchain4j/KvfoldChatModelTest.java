package io.kvfold.langchain4j;

import static io.kvfold.ScriptedEngine.hang;
import static java.util.concurrent.TimeUnit.SECONDS;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.exception.TimeoutException;
import dev.langchain4j.model.chat.Capability;
import dev.langchain4j.model.chat.listener.ChatModelListener;
import dev.langchain4j.model.chat.listener.ChatModelRequestContext;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.request.ChatRequestParameters;
import dev.langchain4j.model.chat.request.ToolChoice;
import dev.langchain4j.model.chat.response.ChatResponse;
import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.KvType;
import io.kvfold.ScriptedEngine;
import io.kvfold.langchain4j.spi.KvfoldChatModelBuilderFactory;
import java.io.IOException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

@Timeout(30)
class KvfoldChatModelTest {

    private static final String QUESTION = "What is the capital of Germany?";

    @Test
    void reportsWhatAnAnswerCost() {
        try (Engine engine = FakeLlamaServer.engine()) {
            ChatResponse response =
                    KvfoldChatModel.builder().engine(engine).build().chat(UserMessage.from(QUESTION));

            KvfoldChatResponseMetadata metadata = (KvfoldChatResponseMetadata) response.metadata();
            assertThat(metadata.modelName()).isEqualTo("scripted");
            assertThat(metadata.inputTokensPerSecond()).isEqualTo(1000.5);
            assertThat(metadata.outputTokensPerSecond()).isEqualTo(50.25);
            assertThat(metadata.tokenUsage().cachedInputTokenCount()).isEqualTo(1);
            long window = 20; // of the only layer that keeps any
            assertThat(metadata.kvCacheBytes())
                    .isEqualTo(Math.min(metadata.tokenUsage().totalTokenCount(), window)
                            * engine.kvCacheStats().bytesPerToken());
            assertThat(metadata.toBuilder().build()).isEqualTo(metadata);
        }
    }

    @Test
    void tellsListenersTheModelsName() {
        AtomicReference<String> name = new AtomicReference<>();
        try (Engine engine = FakeLlamaServer.engine()) {
            KvfoldChatModel.builder()
                    .engine(engine)
                    .listeners(new ChatModelListener() {
                        @Override
                        public void onRequest(ChatModelRequestContext context) {
                            name.set(context.chatRequest().modelName());
                        }
                    })
                    .build()
                    .chat(QUESTION);
        }
        assertThat(name.get()).isEqualTo("scripted");
    }

    @Test
    void takesAToolChoiceForRequestsThatBringTools() {
        try (Engine engine = FakeLlamaServer.engine()) {
            KvfoldChatModel model = KvfoldChatModel.builder()
                    .engine(engine)
                    .defaultRequestParameters(ChatRequestParameters.builder()
                            .toolChoice(ToolChoice.REQUIRED)
                            .build())
                    .build();

            assertThatThrownBy(() -> model.chat(QUESTION)).hasMessageContaining("ToolChoice.REQUIRED needs");
        }
    }

    @Test
    void hasASetterForEveryOptionOfAnEngine() {
        try (Engine engine = FakeLlamaServer.engine()) {
            assertThatThrownBy(() -> KvfoldChatModel.builder()
                            .engine(engine)
                            .kvCacheTypes(KvType.Q8_0, KvType.Q4_0)
                            .ubatchSize(1)
                            .batchSize(2)
                            .flashAttention(FlashAttention.OFF)
                            .maxQueue(3)
                            .rpcServers("host:1")
                            .describeTools(false)
                            .describeSchema(false)
                            .option("mlock", true)
                            .build())
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining(
                            "[cache-type-k, cache-type-v, ubatch-size, batch-size, flash-attn, max-queue, rpc,"
                                    + " describe-tools, describe-schema, mlock]");
            assertThatThrownBy(() -> KvfoldChatModel.builder()
                            .engine(engine)
                            .loadProgress(fraction -> true)
                            .build())
                    .hasMessageContaining("loadProgress");
        }
    }

    @Test
    void addsUpUsageWithThatOfOtherModels() {
        KvfoldTokenUsage usage = new KvfoldTokenUsage(10, 4, 5);

        assertThat(usage.add(new KvfoldTokenUsage(1, 1, 1))).isEqualTo(new KvfoldTokenUsage(11, 5, 6));
        assertThat(usage.add(new dev.langchain4j.model.output.TokenUsage(1, 2)))
                .isEqualTo(new KvfoldTokenUsage(11, 4, 7));
        assertThat(dev.langchain4j.model.output.TokenUsage.sum(
                        new dev.langchain4j.model.output.TokenUsage(1, 2), usage))
                .isEqualTo(new KvfoldTokenUsage(11, 4, 7));
    }

    @Test
    void prefersARequestsParametersToTheBuildersAndThoseToTheDefaults() {
        ScriptedEngine scripted = new ScriptedEngine(new FakeLlamaServer());
        try (Engine engine = scripted.open()) {
            KvfoldChatModel model = KvfoldChatModel.builder()
                    .engine(engine)
                    .defaultRequestParameters(KvfoldChatRequestParameters.builder()
                            .temperature(0.1)
                            .topK(1)
                            .seed(1)
                            .build())
                    .topK(2)
                    .minP(0.2)
                    .build();
            model.chat(ChatRequest.builder()
                    .messages(UserMessage.from(QUESTION))
                    .parameters(ChatRequestParameters.builder().topP(0.3).build())
                    .build());
            model.chat(ChatRequest.builder()
                    .messages(UserMessage.from(QUESTION))
                    .parameters(KvfoldChatRequestParameters.builder()
                            .seed(4)
                            .topK(5)
                            .build())
                    .build());

            JsonNode first = scripted.requests().get(1).body();
            JsonNode second = scripted.requests().get(2).body();
            assertThat(first.path("temperature").asDouble()).isEqualTo(0.1);
            assertThat(first.path("top_k").asInt()).isEqualTo(2);
            assertThat(first.path("min_p").asDouble()).isEqualTo(0.2);
            assertThat(first.path("top_p").asDouble()).isEqualTo(0.3);
            assertThat(first.path("seed").asInt()).isEqualTo(1);
            assertThat(second.path("seed").asInt()).isEqualTo(4);
            assertThat(second.path("top_k").asInt()).isEqualTo(5);
            assertThat(second.path("temperature").asDouble()).isEqualTo(0.1);
        }
    }

    @Test
    void tellsAiServicesThatItKnowsJsonSchemas() {
        try (Engine engine = FakeLlamaServer.engine()) {
            assertThat(KvfoldChatModel.builder().engine(engine).build().supportedCapabilities())
                    .containsExactly(Capability.RESPONSE_FORMAT_JSON_SCHEMA);
        }
    }

    @Test
    void takesEitherAnEngineOrAPath() {
        try (Engine engine = FakeLlamaServer.engine()) {
            assertThatThrownBy(() -> KvfoldChatModel.builder().build())
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("modelPath");
            assertThatThrownBy(() -> KvfoldChatModel.builder()
                            .engine(engine)
                            .modelPath("model.gguf")
                            .build())
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("model.gguf");
            assertThatThrownBy(() -> KvfoldChatModel.builder()
                            .engine(engine)
                            .contextSize(128)
                            .build())
                    .isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("ctx-size");
        }
    }

    @Test
    void leavesABorrowedEngineOpen() {
        try (Engine engine = FakeLlamaServer.engine()) {
            KvfoldChatModel.builder().engine(engine).build().close();

            assertThat(engine.isOpen()).isTrue();
            assertThat(KvfoldChatModel.builder().engine(engine).build().chat(QUESTION))
                    .contains("Berlin");
        }
    }

    @Test
    void logsTheRenderedPromptOnlyWhenAsked() {
        ScriptedEngine scripted = new ScriptedEngine(new FakeLlamaServer());
        try (Engine engine = scripted.open()) {
            KvfoldChatModel.builder().engine(engine).build().chat(QUESTION);
            assertThat(scripted.requests()).noneMatch(request -> request.route().equals("/apply-template"));

            KvfoldChatModel.builder()
                    .engine(engine)
                    .logRequests(true)
                    .logResponses(true)
                    .build()
                    .chat(QUESTION);
            assertThat(scripted.requests()).anyMatch(request -> request.route().equals("/apply-template"));
        }
    }

    @Test
    void endsARequestThatTakesTooLong() {
        try (Engine engine =
                FakeLlamaServer.scripted((route, body) -> List.of(hang())).open()) {
            KvfoldChatModel model = KvfoldChatModel.builder()
                    .engine(engine)
                    .timeout(Duration.ofMillis(50))
                    .build();

            assertThatThrownBy(() -> model.chat(QUESTION)).isExactlyInstanceOf(TimeoutException.class);
        }
    }

    @Test
    void stopsWhenTheWaitingThreadIsInterrupted() throws Exception {
        ScriptedEngine scripted = FakeLlamaServer.scripted((route, body) -> List.of(hang()));
        try (Engine engine = scripted.open()) {
            KvfoldChatModel model = KvfoldChatModel.builder().engine(engine).build();
            AtomicReference<Throwable> thrown = new AtomicReference<>();
            Thread caller = new Thread(() -> {
                try {
                    model.chat(QUESTION);
                } catch (RuntimeException e) {
                    thrown.set(e);
                }
            });
            caller.start();
            while (scripted.threadsWaiting() == 0) {
                Thread.sleep(1);
            }
            caller.interrupt();
            caller.join();

            assertThat(thrown.get()).isInstanceOf(CancellationException.class);
            assertThat(scripted.lastRequest().isClosed()).isTrue();
        }
    }

    @Test
    void cancelsTheRequestWithItsFuture() throws Exception {
        ScriptedEngine scripted = FakeLlamaServer.scripted((route, body) -> List.of(hang()));
        try (Engine engine = scripted.open()) {
            CompletableFuture<ChatResponse> answer =
                    KvfoldChatModel.builder().engine(engine).build().chatAsync(UserMessage.from(QUESTION));
            while (scripted.threadsWaiting() == 0) {
                Thread.sleep(1);
            }
            answer.cancel(true);
            while (!scripted.lastRequest().isClosed()) {
                Thread.sleep(1);
            }

            assertThat(scripted.lastRequest().isCancelled()).isTrue();
        }
    }

    @Test
    void failsAFutureInsteadOfThrowing() {
        try (Engine engine = FakeLlamaServer.engine()) {
            CompletableFuture<ChatResponse> answer = KvfoldChatModel.builder()
                    .engine(engine)
                    .build()
                    .doChatAsync(ChatRequest.builder()
                            .messages(UserMessage.from(QUESTION))
                            .modelName("another")
                            .build());

            assertThat(answer).failsWithin(5, SECONDS);
        }
    }

    @Test
    void letsAFrameworkReplaceTheBuilder(@TempDir Path folder) throws IOException {
        Path services = Files.createDirectories(folder.resolve("META-INF/services"));
        Files.writeString(
                services.resolve(KvfoldChatModelBuilderFactory.class.getName()), OwnBuilderFactory.class.getName());
        Thread thread = Thread.currentThread();
        ClassLoader before = thread.getContextClassLoader();
        try (URLClassLoader loader = new URLClassLoader(
                new URL[] {folder.toUri().toURL()}, getClass().getClassLoader())) {
            thread.setContextClassLoader(loader);

            assertThat(KvfoldChatModel.builder()).isInstanceOf(OwnBuilder.class);
        } finally {
            thread.setContextClassLoader(before);
        }
    }

    /** A framework's builder. */
    public static final class OwnBuilder extends KvfoldChatModel.Builder {}

    /** Found through {@code META-INF/services}. */
    public static final class OwnBuilderFactory implements KvfoldChatModelBuilderFactory {
        @Override
        public KvfoldChatModel.Builder get() {
            return new OwnBuilder();
        }
    }
}
