package io.kvfold.langchain4j;

import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Supplier;

/**
 * The threads that wait for the engine. Platform threads, because a call into native code would pin the carrier of a
 * virtual one; daemons, so that an application that forgets to close anything still exits.
 */
final class Threads {

    private static final int IDLE_SECONDS = 30;

    /** One thread per running request; the engine's own queue limits how many there are for long. */
    static final Executor REQUESTS = new ThreadPoolExecutor(
            0, Integer.MAX_VALUE, IDLE_SECONDS, TimeUnit.SECONDS, new SynchronousQueue<>(), daemons("kvfold-request-"));

    static final ScheduledThreadPoolExecutor DEADLINES = deadlines();

    private Threads() {}

    /**
     * Runs {@code work} on one of {@link #REQUESTS}.
     *
     * @param cancel what else cancelling the future does
     */
    static <T> CompletableFuture<T> supply(Supplier<T> work, Runnable cancel) {
        CompletableFuture<T> future = new CompletableFuture<>() {
            @Override
            public boolean cancel(boolean mayInterruptIfRunning) {
                boolean cancelled = super.cancel(mayInterruptIfRunning);
                cancel.run();
                return cancelled;
            }
        };
        REQUESTS.execute(() -> {
            try {
                future.complete(work.get());
            } catch (Throwable e) {
                future.completeExceptionally(e);
            }
        });
        return future;
    }

    private static ScheduledThreadPoolExecutor deadlines() {
        ScheduledThreadPoolExecutor executor = new ScheduledThreadPoolExecutor(1, daemons("kvfold-deadline-"));
        executor.setRemoveOnCancelPolicy(true);
        executor.setKeepAliveTime(IDLE_SECONDS, TimeUnit.SECONDS);
        executor.allowCoreThreadTimeOut(true);
        return executor;
    }

    private static ThreadFactory daemons(String prefix) {
        AtomicInteger number = new AtomicInteger();
        return task -> {
            Thread thread = new Thread(task, prefix + number.incrementAndGet());
            thread.setDaemon(true);
            return thread;
        };
    }
}
