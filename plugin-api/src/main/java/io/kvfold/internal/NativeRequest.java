package io.kvfold.internal;

import org.jspecify.annotations.Nullable;

/** A {@code kvfold_request}. One thread at a time in {@link #next()}; {@link #cancel()} from any thread. */
public interface NativeRequest {

    /** The next chunk, or null after the last one. */
    byte @Nullable [] next() throws NativeStatusException;

    void cancel();

    /** Called once, and while no other call of this handle runs. */
    void close();
}
