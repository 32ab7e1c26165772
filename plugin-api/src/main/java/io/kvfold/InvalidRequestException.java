package io.kvfold;

import org.jspecify.annotations.Nullable;

/** A call the engine rejects before or while it runs: a malformed body, a parameter out of range, an unknown route, an
 * argument that is missing. */
public final class InvalidRequestException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public InvalidRequestException(String message) {
        super(message, null, null, null);
    }

    public InvalidRequestException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }

    public InvalidRequestException(String message, @Nullable Throwable cause) {
        super(message, null, null, cause);
    }
}
