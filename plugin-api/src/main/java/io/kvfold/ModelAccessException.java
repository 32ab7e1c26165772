package io.kvfold;

import org.jspecify.annotations.Nullable;

/** A hub has the model and does not hand it out to this token, or without one; the message says what to do. */
public final class ModelAccessException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public ModelAccessException(String message) {
        this(message, null);
    }

    public ModelAccessException(String message, @Nullable Throwable cause) {
        super(message, null, null, cause);
    }
}
