package io.kvfold;

import org.jspecify.annotations.Nullable;

/** A KV plan that is malformed, or that this model cannot serve. */
public final class InvalidPlanException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public InvalidPlanException(String message) {
        super(message, null, null, null);
    }

    public InvalidPlanException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }

    public InvalidPlanException(String message, @Nullable Throwable cause) {
        super(message, null, null, cause);
    }
}
