package io.kvfold;

import org.jspecify.annotations.Nullable;

/** Weights, KV cache, compute buffers or logits could not be allocated. */
public final class NativeOutOfMemoryException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public NativeOutOfMemoryException(String message) {
        super(message, null, null, null);
    }

    public NativeOutOfMemoryException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }

    public NativeOutOfMemoryException(String message, @Nullable Throwable cause) {
        super(message, null, null, cause);
    }
}
