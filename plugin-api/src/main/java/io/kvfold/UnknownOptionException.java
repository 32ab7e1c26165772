package io.kvfold;

import org.jspecify.annotations.Nullable;

/** An engine option that does not exist; the message names near matches. */
public final class UnknownOptionException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public UnknownOptionException(String message) {
        super(message, null, null, null);
    }

    public UnknownOptionException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }
}
