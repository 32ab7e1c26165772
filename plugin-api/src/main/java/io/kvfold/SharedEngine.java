package io.kvfold;

import io.kvfold.internal.NativeEngine;
import io.kvfold.internal.NativeStatusException;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.locks.ReentrantReadWriteLock;
import org.jspecify.annotations.Nullable;

/** The native engine behind all {@link Engine}s that share it: counts its owners, and closes it once and only when safe. */
final class SharedEngine {

    /** A call of the native engine. */
    interface Call<T extends @Nullable Object> {
        T on(NativeEngine engine) throws NativeStatusException;
    }

    private final NativeEngine handle;
    private final AtomicInteger owners = new AtomicInteger(1);
    // Calls of the handle hold the read lock, its close the write lock: libkvfold ends the requests that run when an
    // engine closes, but a thread that has read the handle and not yet entered libkvfold is for this side to wait for.
    private final ReentrantReadWriteLock inUse = new ReentrantReadWriteLock();
    private volatile boolean closed;

    SharedEngine(NativeEngine handle) {
        this.handle = handle;
    }

    boolean isOpen() {
        return !closed;
    }

    void retain() {
        if (owners.getAndUpdate(n -> n == 0 ? 0 : n + 1) == 0) {
            throw closedException();
        }
    }

    /** The last owner closes the native engine, and returns when its memory is released. */
    void release() {
        if (owners.decrementAndGet() > 0) {
            return;
        }
        closed = true;
        inUse.writeLock().lock();
        try {
            PlatformThreads.call(() -> {
                handle.close();
                return this;
            });
        } finally {
            inUse.writeLock().unlock();
        }
    }

    <T extends @Nullable Object> T use(Call<T> call) {
        if (closed) { // before the lock, which a close that waits for other calls would make this thread wait for
            throw closedException();
        }
        inUse.readLock().lock();
        try {
            if (closed) {
                throw closedException();
            }
            return PlatformThreads.call(() -> call.on(handle));
        } catch (NativeStatusException e) {
            throw Failures.from(e);
        } finally {
            inUse.readLock().unlock();
        }
    }

    static EngineClosedException closedException() {
        return new EngineClosedException("the engine is closed");
    }
}
