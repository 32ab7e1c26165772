package io.kvfold.langchain4j;

import dev.langchain4j.exception.RateLimitException;
import dev.langchain4j.model.chat.response.ChatModelStreamingEvent;
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.CompleteResponse;
import java.util.Objects;
import java.util.concurrent.Executor;
import java.util.concurrent.Flow.Publisher;
import java.util.concurrent.Flow.Subscriber;
import java.util.concurrent.Flow.Subscription;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** A cold publisher: each subscription is a request of its own, which starts with the first demand. */
final class ChatPublisher implements Publisher<ChatModelStreamingEvent> {

    private static final Logger LOG = LoggerFactory.getLogger(ChatPublisher.class);

    private final Supplier<ChatCall> calls;
    private final Executor executor;

    ChatPublisher(Supplier<ChatCall> calls, Executor executor) {
        this.calls = calls;
        this.executor = executor;
    }

    @Override
    public void subscribe(Subscriber<? super ChatModelStreamingEvent> subscriber) {
        Objects.requireNonNull(subscriber, "subscriber");
        ChatSubscription subscription = new ChatSubscription(subscriber, calls.get(), executor);
        subscriber.onSubscribe(subscription);
        subscription.start();
    }

    /**
     * Emits on the executor while there is demand and gives the thread back when there is none. {@code signals} counts
     * what happened since the emitting thread last looked; who raises it from zero becomes that thread.
     */
    private static final class ChatSubscription implements Subscription {

        private final ChatCall call;
        private final Executor executor;
        private final AtomicLong demand = new AtomicLong();
        private final AtomicInteger signals = new AtomicInteger(1); // the subscribing thread's, until start()
        private volatile @Nullable Subscriber<? super ChatModelStreamingEvent> subscriber;
        private volatile boolean invalidDemand;

        ChatSubscription(Subscriber<? super ChatModelStreamingEvent> subscriber, ChatCall call, Executor executor) {
            this.subscriber = subscriber;
            this.call = call;
            this.executor = executor;
        }

        @Override
        public void request(long n) {
            if (subscriber == null) {
                return;
            }
            if (n <= 0) {
                invalidDemand = true;
            } else {
                demand.getAndUpdate(current -> current + n < 0 ? Long.MAX_VALUE : current + n);
            }
            if (!call.isCancelled() && signals.getAndIncrement() == 0) {
                execute();
            }
        }

        /** Called after {@code onSubscribe}, which no other signal may overlap (Reactive Streams 1.3). */
        void start() {
            if (signals.decrementAndGet() > 0) {
                execute();
            }
        }

        private void execute() {
            try {
                executor.execute(this::emit);
            } catch (RejectedExecutionException e) {
                fail(new RateLimitException("the executor is full", e));
            }
        }

        @Override
        public void cancel() {
            call.cancel();
            if (signals.getAndIncrement() == 0) {
                end();
            }
        }

        private void emit() {
            int seen = signals.get();
            do {
                Subscriber<? super ChatModelStreamingEvent> target = subscriber;
                while (target != null && !call.isCancelled() && (invalidDemand || demand.get() > 0)) {
                    if (!emitOne(target)) {
                        end();
                        target = null;
                    }
                }
                if (call.isCancelled()) {
                    end();
                }
                seen = signals.addAndGet(-seen);
            } while (seen != 0);
        }

        /** Whether more may follow. */
        private boolean emitOne(Subscriber<? super ChatModelStreamingEvent> target) {
            if (invalidDemand) {
                fail(new IllegalArgumentException(
                        "the demand of a subscriber must be positive (Reactive Streams 3.9)"));
                return false;
            }
            ChatModelStreamingEvent event;
            try {
                Object next = Objects.requireNonNull(call.nextEvent());
                event = next instanceof ChatResponse response
                        ? new CompleteResponse(response)
                        : (ChatModelStreamingEvent) next;
            } catch (Throwable e) {
                if (!call.isCancelled()) {
                    fail(e);
                }
                return false;
            }
            try {
                demand.getAndUpdate(current -> current == Long.MAX_VALUE ? current : current - 1);
                target.onNext(event);
                if (event instanceof CompleteResponse && !call.isCancelled()) {
                    target.onComplete();
                    return false;
                }
                return true;
            } catch (Throwable e) {
                LOG.warn("A subscriber threw, so its subscription was cancelled (Reactive Streams 2.13)", e);
                call.cancel();
                return false;
            }
        }

        private void fail(Throwable error) {
            Subscriber<? super ChatModelStreamingEvent> target = subscriber;
            end();
            if (target != null) {
                try {
                    target.onError(error);
                } catch (Throwable e) {
                    LOG.warn("A subscriber's onError threw", e);
                }
            }
        }

        /** Frees the slot and forgets the subscriber; only the emitting thread comes here. */
        private void end() {
            subscriber = null;
            call.close();
        }
    }
}
