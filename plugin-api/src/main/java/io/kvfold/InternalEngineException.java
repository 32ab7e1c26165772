package io.kvfold;

import org.jspecify.annotations.Nullable;

/** A failed decode or a bug in the native library. */
public final class InternalEngineException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public InternalEngineException(String message) {
        super(message, null, null, null);
    }

    public InternalEngineException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }

    public InternalEngineException(String message, @Nullable Throwable cause) {
        super(message, null, null, cause);
    }
}
