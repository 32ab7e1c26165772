package io.kvfold;

import org.jspecify.annotations.Nullable;

/** The model file is missing, unreadable or a directory. */
public final class ModelNotFoundException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public ModelNotFoundException(String message) {
        super(message, null, null, null);
    }

    public ModelNotFoundException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }

    public ModelNotFoundException(String message, @Nullable Throwable cause) {
        super(message, null, null, cause);
    }
}
