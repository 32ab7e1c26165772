package io.kvfold;

import org.jspecify.annotations.Nullable;

/** The file is not a GGUF file, is truncated or inconsistent, or holds an architecture that llama.cpp does not know. */
public final class InvalidModelException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public InvalidModelException(String message) {
        super(message, null, null, null);
    }

    public InvalidModelException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }

    public InvalidModelException(String message, @Nullable Throwable cause) {
        super(message, null, null, cause);
    }
}
