package io.kvfold.langchain4j;

import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.SECONDS;
import static org.assertj.core.api.Assertions.assertThat;

import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.PartialResponse;
import dev.langchain4j.model.chat.response.PartialResponseContext;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import dev.langchain4j.model.chat.response.StreamingHandle;
import io.kvfold.Engine;
import java.time.Duration;
import java.util.Queue;
import java.util.Random;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** Forty streaming chats at a time over a real model, a third of them cancelled somewhere on their way. */
class ConcurrentStreamingTest {

    private static final int AT_A_TIME = 40;

    private final AtomicInteger completed = new AtomicInteger();
    private final AtomicInteger cancelled = new AtomicInteger();
    private final Queue<String> violations = new ConcurrentLinkedQueue<>();

    @Test
    void losesNoCallbackForFiveSeconds() throws Exception {
        run(Duration.ofSeconds(5));
    }

    @Test
    @Tag("slow")
    void losesNoCallbackForTwoMinutes() throws Exception {
        run(Duration.ofMinutes(2));
    }

    private void run(Duration duration) throws Exception {
        try (Engine engine = StoriesModel.engine().open()) {
            KvfoldStreamingChatModel model = KvfoldStreamingChatModel.builder()
                    .engine(engine)
                    .maxOutputTokens(40)
                    .build();
            Semaphore places = new Semaphore(AT_A_TIME);
            Random random = new Random(42);
            long end = System.nanoTime() + duration.toNanos();
            int started = 0;
            while (System.nanoTime() < end) {
                assertThat(places.tryAcquire(60, SECONDS))
                        .as("every chat ends, one way or the other")
                        .isTrue();
                int cancelAt = random.nextInt(3) == 0 ? 1 + random.nextInt(20) : Integer.MAX_VALUE;
                model.chat("Tell a story about " + started++ + " cats", new Chat(cancelAt, places));
            }
            assertThat(places.tryAcquire(AT_A_TIME, 60, SECONDS)).isTrue();
            CountDownLatch idle = new CountDownLatch(1);
            while (engine.kvCacheStats().slotsBusy() > 0
                    || engine.kvCacheStats().requestsWaiting() > 0) {
                idle.await(10, MILLISECONDS);
            }

            assertThat(violations).isEmpty();
            assertThat(completed.get() + cancelled.get()).isEqualTo(started);
            assertThat(cancelled).hasPositiveValue();
        }
    }

    private final class Chat implements StreamingChatResponseHandler {

        private final int cancelAt;
        private final Semaphore places;
        private final StringBuilder text = new StringBuilder();
        private @Nullable Thread thread;
        private int partials;
        private boolean ended;

        Chat(int cancelAt, Semaphore places) {
            this.cancelAt = cancelAt;
            this.places = places;
        }

        @Override
        public void onPartialResponse(PartialResponse partial, PartialResponseContext context) {
            check("a partial response");
            text.append(partial.text());
            if (++partials == cancelAt) {
                StreamingHandle handle = context.streamingHandle();
                handle.cancel();
                end(cancelled);
            }
        }

        @Override
        public void onCompleteResponse(ChatResponse response) {
            check("a complete response");
            if (!text.toString()
                    .equals(
                            response.aiMessage().text() == null
                                    ? ""
                                    : response.aiMessage().text())) {
                violations.add("the partials are not the answer");
            }
            end(completed);
        }

        @Override
        public void onError(Throwable error) {
            violations.add(error.toString());
            end(completed);
        }

        private void check(String what) {
            if (ended) {
                violations.add(what + " after the end");
            }
            if (thread != null && thread != Thread.currentThread()) {
                violations.add(what + " on a second thread");
            }
            thread = Thread.currentThread();
        }

        private void end(AtomicInteger how) {
            ended = true;
            how.incrementAndGet();
            places.release();
        }
    }
}
