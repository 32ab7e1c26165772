package io.kvfold;

import org.jspecify.annotations.Nullable;

/** The prompt does not fit a slot; {@link #value()} is its length and {@link #limit()} what a slot holds, both in tokens. */
public final class ContextExceededException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public ContextExceededException(String message) {
        super(message, null, null, null);
    }

    public ContextExceededException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }
}
