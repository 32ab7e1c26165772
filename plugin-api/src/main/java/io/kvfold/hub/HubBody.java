package io.kvfold.hub;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Flow;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.jspecify.annotations.Nullable;

/** The body of an answer, pulled piece by piece: the HTTP client itself would wait for ever for one that stops coming. */
final class HubBody implements Flow.Subscriber<List<ByteBuffer>>, AutoCloseable {

    private record Event(
            @Nullable List<ByteBuffer> bytes, @Nullable Throwable failure) {}

    private static final Event END = new Event(null, null);
    private static final long POLL_MILLIS = 200;

    private final BlockingQueue<Event> events = new LinkedBlockingQueue<>();
    private final Duration patience;
    private Flow.@Nullable Subscription subscription;
    private volatile boolean closed;

    HubBody(Flow.Publisher<List<ByteBuffer>> publisher, Duration patience) {
        this.patience = patience;
        publisher.subscribe(this);
    }

    /**
     * What came next; empty at the end.
     *
     * @param whileWaiting called several times a second; throws to give up
     * @throws IOException if the connection breaks, or nothing comes for too long
     */
    List<ByteBuffer> next(Runnable whileWaiting) throws IOException, InterruptedException {
        long deadline = System.nanoTime() + patience.toNanos();
        while (true) {
            Event event = events.poll(POLL_MILLIS, TimeUnit.MILLISECONDS);
            whileWaiting.run();
            if (event != null) {
                if (event.failure() != null) {
                    throw new IOException("the connection broke: " + event.failure(), event.failure());
                }
                if (event.bytes() == null) {
                    return List.of();
                }
                request();
                return event.bytes();
            }
            if (System.nanoTime() > deadline) {
                throw new IOException("nothing came for " + patience.toSeconds() + " s");
            }
        }
    }

    private synchronized void request() {
        if (subscription != null) {
            subscription.request(1);
        }
    }

    @Override
    public synchronized void onSubscribe(Flow.Subscription subscription) {
        if (closed) {
            subscription.cancel();
            return;
        }
        this.subscription = subscription;
        subscription.request(1);
    }

    @Override
    public void onNext(List<ByteBuffer> bytes) {
        events.add(new Event(bytes, null));
    }

    @Override
    public void onError(Throwable failure) {
        events.add(new Event(null, failure));
    }

    @Override
    public void onComplete() {
        events.add(END);
    }

    /** Gives the connection up unless the body has ended. */
    @Override
    public synchronized void close() {
        closed = true;
        if (subscription != null) {
            subscription.cancel();
        }
    }
}
