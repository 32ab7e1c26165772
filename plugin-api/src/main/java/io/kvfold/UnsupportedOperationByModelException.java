package io.kvfold;

import org.jspecify.annotations.Nullable;

/**
 * Something valid that this model, or the options it was opened with, cannot serve: embeddings of an engine opened without
 * them, or an option that has no meaning inside a process, such as those for HTTP.
 */
public final class UnsupportedOperationByModelException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public UnsupportedOperationByModelException(String message) {
        super(message, null, null, null);
    }

    public UnsupportedOperationByModelException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }
}
