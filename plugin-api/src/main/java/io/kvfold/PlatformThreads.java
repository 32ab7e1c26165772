package io.kvfold;

import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;
import org.jspecify.annotations.Nullable;

/**
 * Runs native calls that block. A virtual thread cannot leave its carrier while it is inside native code: as many
 * waiting generations as there are cores would stop every virtual thread of the process. Such a thread parks here while
 * a platform thread makes the call.
 */
final class PlatformThreads {

    /** A native call. */
    interface Call<T extends @Nullable Object, X extends Exception> {
        T run() throws X;
    }

    private static final @Nullable MethodHandle IS_VIRTUAL = isVirtual();

    private PlatformThreads() {}

    @SuppressWarnings("unchecked") // the call declares no other checked exception than X
    static <T extends @Nullable Object, X extends Exception> T call(Call<T, X> call) throws X {
        if (!onVirtualThread()) {
            return call.run();
        }
        CompletableFuture<T> result = new CompletableFuture<>();
        Pool.THREADS.execute(() -> {
            try {
                result.complete(call.run());
            } catch (Throwable e) {
                result.completeExceptionally(e);
            }
        });
        try {
            return result.join();
        } catch (CompletionException e) {
            if (e.getCause() instanceof Error error) {
                throw error;
            }
            throw (X) e.getCause();
        }
    }

    private static boolean onVirtualThread() {
        if (IS_VIRTUAL == null) {
            return false;
        }
        try {
            return (boolean) IS_VIRTUAL.invokeExact(Thread.currentThread());
        } catch (Throwable e) {
            throw new AssertionError(e);
        }
    }

    private static @Nullable MethodHandle isVirtual() {
        try {
            return MethodHandles.publicLookup()
                    .findVirtual(Thread.class, "isVirtual", MethodType.methodType(boolean.class));
        } catch (ReflectiveOperationException e) {
            return null; // before Java 21
        }
    }

    private static final class Pool {
        static final AtomicLong NUMBER = new AtomicLong();
        static final ExecutorService THREADS = Executors.newCachedThreadPool(task -> {
            Thread thread = new Thread(task, "kvfold-call-" + NUMBER.incrementAndGet());
            thread.setDaemon(true);
            return thread;
        });
    }
}
