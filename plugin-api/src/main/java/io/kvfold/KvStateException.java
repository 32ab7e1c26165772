package io.kvfold;

import org.jspecify.annotations.Nullable;

/** The KV state of a {@link Session} cannot be read, written, or used with this engine; the message says why. */
public final class KvStateException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public KvStateException(String message, @Nullable Throwable cause) {
        super(message, null, null, cause);
    }

    public KvStateException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }
}
