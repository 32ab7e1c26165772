package io.kvfold.langchain4j;

import static io.kvfold.ScriptedEngine.hang;
import static io.kvfold.ScriptedEngine.refuse;
import static java.util.concurrent.TimeUnit.SECONDS;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.exception.RateLimitException;
import dev.langchain4j.exception.TimeoutException;
import dev.langchain4j.exception.UnsupportedFeatureException;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.response.ChatModelStreamingEvent;
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.PartialThinking;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import io.kvfold.Engine;
import io.kvfold.ScriptedEngine;
import io.kvfold.internal.NativeStatus;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Flow.Subscriber;
import java.util.concurrent.Flow.Subscription;
import java.util.concurrent.RejectedExecutionException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

@Timeout(30)
class KvfoldStreamingChatModelTest {

    private static final String QUESTION = "What is the capital of Germany?";

    @Test
    void handsOutThinkingOnlyWhenAsked() {
        try (Engine engine = FakeLlamaServer.engine()) {
            Recorder silent = new Recorder();
            KvfoldStreamingChatModel.builder().engine(engine).build().chat(QUESTION, silent);
            Recorder thinking = new Recorder();
            KvfoldStreamingChatModel.builder()
                    .engine(engine)
                    .returnThinking(true)
                    .build()
                    .chat(QUESTION, thinking);

            assertThat(silent.response().aiMessage().thinking()).isNull();
            assertThat(silent.thinking).isEmpty();
            assertThat(thinking.response().aiMessage().thinking()).isEqualTo("The user asks for a capital.");
            assertThat(String.join("", thinking.thinking)).isEqualTo("The user asks for a capital.");
            assertThat(thinking.response().aiMessage().text()).isEqualTo("The capital of Germany is Berlin.");
        }
    }

    @Test
    void refusesAWrongRequestInTheCallersThread() {
        try (Engine engine = FakeLlamaServer.engine()) {
            KvfoldStreamingChatModel model =
                    KvfoldStreamingChatModel.builder().engine(engine).build();
            Recorder handler = new Recorder();

            assertThatThrownBy(() -> model.chat(
                            ChatRequest.builder()
                                    .messages(UserMessage.from(QUESTION))
                                    .modelName("another")
                                    .build(),
                            handler))
                    .isExactlyInstanceOf(UnsupportedFeatureException.class);
            assertThat(handler.outcome).isNotDone();
        }
    }

    @Test
    void tellsTheHandlerOfAFullQueue() {
        try (Engine engine = FakeLlamaServer.scripted(
                        (route, body) -> List.of(refuse(NativeStatus.ERROR_QUEUE_FULL, "256 wait, 256 may", 256, 256)))
                .open()) {
            Recorder handler = new Recorder();
            KvfoldStreamingChatModel.builder().engine(engine).build().chat(QUESTION, handler);

            assertThat(handler.outcome)
                    .failsWithin(Duration.ofSeconds(5))
                    .withThrowableThat()
                    .withCauseExactlyInstanceOf(RateLimitException.class);
        }
    }

    @Test
    void tellsTheHandlerOfAnExecutorThatIsFull() {
        try (Engine engine = FakeLlamaServer.engine()) {
            Recorder handler = new Recorder();
            KvfoldStreamingChatModel.builder()
                    .engine(engine)
                    .executor(task -> {
                        throw new RejectedExecutionException();
                    })
                    .build()
                    .chat(QUESTION, handler);

            assertThat(handler.outcome)
                    .failsWithin(Duration.ofSeconds(5))
                    .withThrowableThat()
                    .withCauseExactlyInstanceOf(RateLimitException.class);
        }
    }

    @Test
    void endsARequestThatTakesTooLong() {
        ScriptedEngine scripted = FakeLlamaServer.scripted((route, body) -> List.of(hang()));
        try (Engine engine = scripted.open()) {
            Recorder handler = new Recorder();
            KvfoldStreamingChatModel.builder()
                    .engine(engine)
                    .timeout(Duration.ofMillis(50))
                    .build()
                    .chat(QUESTION, handler);

            assertThat(handler.outcome)
                    .failsWithin(Duration.ofSeconds(5))
                    .withThrowableThat()
                    .withCauseExactlyInstanceOf(TimeoutException.class)
                    .withMessageContaining("PT0.05S");
            assertThat(scripted.lastRequest().isCancelled()).isTrue();
        }
    }

    @Test
    void freesTheSlotOfASubscriptionThatIsCancelledDuringPrefill() throws Exception {
        ScriptedEngine scripted = FakeLlamaServer.scripted((route, body) -> List.of(hang()));
        try (Engine engine = scripted.open()) {
            CompletableFuture<Subscription> subscribed = new CompletableFuture<>();
            List<Object> signals = new ArrayList<>();
            KvfoldStreamingChatModel.builder()
                    .engine(engine)
                    .build()
                    .chat(ChatRequest.builder()
                            .messages(UserMessage.from(QUESTION))
                            .build())
                    .subscribe(new Subscriber<ChatModelStreamingEvent>() {
                        @Override
                        public void onSubscribe(Subscription subscription) {
                            subscribed.complete(subscription);
                        }

                        @Override
                        public void onNext(ChatModelStreamingEvent event) {
                            signals.add(event);
                        }

                        @Override
                        public void onError(Throwable error) {
                            signals.add(error);
                        }

                        @Override
                        public void onComplete() {
                            signals.add("complete");
                        }
                    });
            assertThat(scripted.requests()).noneMatch(request -> request.route().equals("/v1/chat/completions"));

            subscribed.get(5, SECONDS).request(1);
            while (scripted.threadsWaiting() == 0) {
                Thread.sleep(1);
            }
            subscribed.get().cancel();
            while (!scripted.lastRequest().isClosed()) {
                Thread.sleep(1);
            }

            assertThat(scripted.lastRequest().isCancelled()).isTrue();
            assertThat(signals).isEmpty();
        }
    }

    /** Remembers what a handler is told. */
    private static final class Recorder implements StreamingChatResponseHandler {

        final List<String> thinking = new ArrayList<>();
        final CompletableFuture<ChatResponse> outcome = new CompletableFuture<>();

        ChatResponse response() {
            return outcome.orTimeout(10, SECONDS).join();
        }

        @Override
        public void onPartialThinking(PartialThinking partial) {
            thinking.add(partial.text());
        }

        @Override
        public void onCompleteResponse(ChatResponse response) {
            outcome.complete(response);
        }

        @Override
        public void onError(Throwable error) {
            outcome.completeExceptionally(error);
        }
    }
}
