package io.kvfold.langchain4j;

import static org.assertj.core.api.Assertions.assertThat;

import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.response.ChatModelStreamingEvent;
import dev.langchain4j.model.chat.response.CompleteResponse;
import io.kvfold.Engine;
import io.kvfold.RealLibrary;
import io.kvfold.ScriptedEngine;
import io.kvfold.ScriptedEngine.Step;
import io.kvfold.TinyModel;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Flow.Publisher;
import java.util.concurrent.Flow.Subscriber;
import java.util.concurrent.Flow.Subscription;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.reactivestreams.tck.TestEnvironment;
import org.reactivestreams.tck.flow.FlowPublisherVerification;
import org.testng.ITestResult;
import org.testng.TestListenerAdapter;
import org.testng.TestNG;

@Timeout(120)
class ChatPublisherTest {

    @Test
    void emitsAsMuchAsIsDemandedAndNoMore() throws Exception {
        try (Engine engine = scripted(10).open()) {
            Demanding subscriber = new Demanding();
            publisher(engine).subscribe(subscriber);

            subscriber.request(3);
            subscriber.awaitEvents(3);
            Thread.sleep(50);
            assertThat(subscriber.events).hasSize(3);

            subscriber.request(1);
            subscriber.awaitEvents(4);
            Thread.sleep(50);
            assertThat(subscriber.events).hasSize(4);

            subscriber.request(Long.MAX_VALUE);
            subscriber.awaitEvents(11);
            assertThat(subscriber.events.get(10)).isInstanceOf(CompleteResponse.class);
        }
    }

    @Test
    void makesARequestPerSubscriptionAndNoneBeforeDemand() throws Exception {
        ScriptedEngine scripted = scripted(1);
        try (Engine engine = scripted.open()) {
            Publisher<ChatModelStreamingEvent> publisher = publisher(engine);
            int before = scripted.requests().size();
            Demanding first = new Demanding();
            Demanding second = new Demanding();
            publisher.subscribe(first);
            publisher.subscribe(second);
            assertThat(scripted.requests()).hasSize(before);

            first.request(9);
            second.request(9);
            first.awaitEvents(2);
            second.awaitEvents(2);
            assertThat(scripted.requests()).hasSize(before + 2);
        }
    }

    /** The rules of Reactive Streams, by its own test kit. */
    @Test
    void followsTheRulesOfReactiveStreams() {
        TestListenerAdapter results = new TestListenerAdapter();
        TestNG testNg = new TestNG(false);
        testNg.setVerbose(0);
        testNg.setTestClasses(new Class<?>[] {Verification.class});
        testNg.addListener(results);
        testNg.run();

        assertThat(results.getFailedTests())
                .extracting(ITestResult::getName, ITestResult::getThrowable)
                .isEmpty();
        assertThat(results.getPassedTests()).hasSizeGreaterThan(20);
    }

    /** Run by TestNG. */
    public static final class Verification extends FlowPublisherVerification<ChatModelStreamingEvent> {

        public Verification() {
            super(new TestEnvironment(500, 100));
        }

        @Override
        public Publisher<ChatModelStreamingEvent> createFlowPublisher(long elements) {
            return publisher(scripted((int) elements - 1).open());
        }

        @Override
        public Publisher<ChatModelStreamingEvent> createFailedFlowPublisher() {
            Engine engine = scripted(1).open();
            return KvfoldStreamingChatModel.builder()
                    .engine(engine)
                    .build()
                    .chat(ChatRequest.builder()
                            .messages(UserMessage.from("hi"))
                            .modelName("another")
                            .build());
        }

        @Override
        public long maxElementsFromPublisher() {
            return 10_000;
        }
    }

    @Test
    void pausesTheSlotOfASubscriberThatWantsNothing(@TempDir Path folder) throws Exception {
        RealLibrary.require();
        try (KvfoldStreamingChatModel model = KvfoldStreamingChatModel.builder()
                .modelPath(TinyModel.write(folder.resolve("tiny.gguf"), 1))
                .contextSize(2048)
                .slots(2)
                .threads(1)
                .temperature(0.0)
                .maxOutputTokens(700)
                .build()) {
            Demanding subscriber = new Demanding();
            model.chat(ChatRequest.builder().messages(UserMessage.from("hi")).build())
                    .subscribe(subscriber);
            subscriber.request(1);
            subscriber.awaitEvents(1);
            long cells = -1;
            for (long now = 0; now != cells; now = model.engine().kvCacheStats().cellsUsed()) {
                cells = now;
                Thread.sleep(300);
            }
            assertThat(cells).isBetween(1L, 200L);
            assertThat(model.engine().kvCacheStats().slotsBusy()).isEqualTo(1);

            subscriber.request(Long.MAX_VALUE);
            subscriber.awaitEvents(701);
            assertThat(subscriber.events.get(700)).isInstanceOf(CompleteResponse.class);
        }
    }

    private static Publisher<ChatModelStreamingEvent> publisher(Engine engine) {
        return KvfoldStreamingChatModel.builder()
                .engine(engine)
                .build()
                .chat(ChatRequest.builder().messages(UserMessage.from("hi")).build());
    }

    /** An answer of so many partial responses. */
    private static ScriptedEngine scripted(int partials) {
        List<Step> steps = new ArrayList<>();
        for (int i = 0; i < partials; i++) {
            steps.add(ScriptedEngine.chunk(
                    "{\"id\": \"c\", \"choices\": [{\"finish_reason\": null, \"delta\": {\"content\": \"x\"}}]}"));
        }
        steps.add(ScriptedEngine.chunk("{\"id\": \"c\", \"choices\": [{\"finish_reason\": \"stop\", \"delta\": {}}]}"));
        steps.add(ScriptedEngine.chunk("{\"id\": \"c\", \"choices\": [], \"usage\": {\"prompt_tokens\": 1}}"));
        return FakeLlamaServer.scripted((route, body) -> steps);
    }

    private static final class Demanding implements Subscriber<ChatModelStreamingEvent> {

        final List<ChatModelStreamingEvent> events = new ArrayList<>();

        @SuppressWarnings("NullAway.Init")
        private Subscription subscription;

        void request(long n) {
            subscription.request(n);
        }

        synchronized void awaitEvents(int count) throws InterruptedException {
            while (events.size() < count) {
                wait();
            }
        }

        @Override
        public void onSubscribe(Subscription subscription) {
            this.subscription = subscription;
        }

        @Override
        public synchronized void onNext(ChatModelStreamingEvent event) {
            events.add(event);
            notifyAll();
        }

        @Override
        public void onError(Throwable error) {
            throw new AssertionError(error);
        }

        @Override
        public void onComplete() {}
    }
}
