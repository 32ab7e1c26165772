package io.kvfold;

import com.fasterxml.jackson.databind.JsonNode;
import io.kvfold.internal.NativeRequest;
import io.kvfold.internal.NativeStatusException;
import java.lang.ref.Cleaner;
import java.lang.ref.Reference;
import java.nio.channels.AsynchronousCloseException;
import java.nio.channels.spi.AbstractInterruptibleChannel;
import java.util.concurrent.locks.ReentrantLock;
import java.util.concurrent.locks.ReentrantReadWriteLock;
import org.jspecify.annotations.Nullable;

/**
 * One running request. Chunks are pulled with {@link #next()}, by one thread at a time (a second one waits);
 * {@link #cancel()} and {@link #close()} may be called from any thread at any time.
 *
 * <p>The engine stays open while a generation is reachable, unless {@link Engine#close()} is called. A generation that
 * is never closed is cancelled and closed when it is collected.
 */
public final class Generation implements AutoCloseable {

    @SuppressWarnings("unused") // keeps the engine reachable, and so open, while the generation is
    private final Engine engine;

    private final Request request;
    private final Cleaner.Cleanable cleanable;
    private final ReentrantLock pulling = new ReentrantLock();
    private final Waiting waiting;

    Generation(Engine engine, NativeRequest handle, @Nullable SessionFiles session) {
        this.engine = engine;
        this.request = new Request(handle, session);
        this.waiting = new Waiting(request);
        this.cleanable = Engine.CLEANER.register(this, request);
    }

    /**
     * Waits for the next chunk. A request that does not stream has exactly one. Interrupting the waiting thread cancels
     * the generation; the thread stays interrupted.
     *
     * @return null after the last chunk, and always after a failure
     * @throws GenerationCancelledException if the generation is cancelled or closed, or the thread is interrupted
     * @throws EngineClosedException if the engine is closed meanwhile
     * @throws ContextExceededException if the prompt does not fit a slot
     * @throws KvfoldException of another kind if the request is invalid or fails
     */
    public @Nullable JsonNode next() {
        byte[] chunk = nextJson();
        return chunk == null ? null : Json.read(chunk);
    }

    /**
     * As {@link #next()}, with the chunk as JSON in UTF-8: for a reader that needs little of it, and not a tree of objects
     * for each token.
     *
     * @return null after the last chunk, and always after a failure
     */
    public byte @Nullable [] nextJson() {
        pulling.lock();
        try {
            return pull();
        } catch (NativeStatusException e) {
            throw Failures.from(e);
        } finally {
            pulling.unlock();
            Reference.reachabilityFence(this);
        }
    }

    /** Stops the generation: a waiting {@link #next()} throws at once, the slot is free after the current ubatch. */
    public void cancel() {
        try {
            request.cancel();
        } finally {
            Reference.reachabilityFence(this);
        }
    }

    /** Cancels the generation if it still runs, and releases it. Further calls do nothing. */
    @Override
    public void close() {
        cleanable.clean();
    }

    private byte @Nullable [] pull() throws NativeStatusException {
        boolean completed = false;
        waiting.enter();
        try {
            byte[] chunk = request.next();
            completed = true;
            return chunk;
        } finally {
            waiting.leave(completed);
        }
    }

    /** The native request and who may use it; does not refer to the generation, so that the cleaner can own it. */
    private static final class Request implements Runnable {
        private final NativeRequest handle;
        // Calls of the handle hold the read lock, its close the write lock.
        private final ReentrantReadWriteLock inUse = new ReentrantReadWriteLock();
        private final @Nullable SessionFiles session;
        private volatile boolean closed;

        Request(NativeRequest handle, @Nullable SessionFiles session) {
            this.handle = handle;
            this.session = session;
        }

        @SuppressWarnings("NullAway") // it takes no type argument to be nullable
        byte @Nullable [] next() throws NativeStatusException {
            inUse.readLock().lock();
            try {
                if (closed) {
                    throw new GenerationCancelledException("the generation is closed");
                }
                return PlatformThreads.call(() -> {
                    byte[] chunk = handle.next();
                    if (chunk == null && session != null) {
                        session.complete();
                    }
                    return chunk;
                });
            } finally {
                inUse.readLock().unlock();
            }
        }

        void cancel() {
            if (closed) {
                return;
            }
            inUse.readLock().lock();
            try {
                if (!closed) {
                    handle.cancel();
                }
            } finally {
                inUse.readLock().unlock();
            }
        }

        /** Closes the handle; run at most once. */
        @Override
        public void run() {
            closed = true;
            handle.cancel();
            inUse.writeLock().lock();
            try {
                PlatformThreads.call(() -> {
                    handle.close();
                    if (session != null) {
                        session.run();
                    }
                    return this;
                });
            } finally {
                inUse.writeLock().unlock();
            }
        }
    }

    /** The JDK's way to run code when a thread that waits outside Java is interrupted. */
    private static final class Waiting extends AbstractInterruptibleChannel {
        private final Request request;

        Waiting(Request request) {
            this.request = request;
        }

        void enter() {
            begin();
        }

        void leave(boolean completed) {
            try {
                end(completed);
            } catch (AsynchronousCloseException e) {
                throw new GenerationCancelledException("the thread that waited for the generation was interrupted");
            }
        }

        @Override
        protected void implCloseChannel() {
            request.cancel();
        }
    }
}
