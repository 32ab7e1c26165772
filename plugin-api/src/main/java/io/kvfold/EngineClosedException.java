package io.kvfold;

import org.jspecify.annotations.Nullable;

/** The engine is closed, or was closed while the call was inside. */
public final class EngineClosedException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public EngineClosedException(String message) {
        super(message, null, null, null);
    }

    public EngineClosedException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }
}
