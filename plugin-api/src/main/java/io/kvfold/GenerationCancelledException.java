package io.kvfold;

import org.jspecify.annotations.Nullable;

/**
 * The generation was cancelled or closed, its thread was interrupted, or a listener abandoned the load or the download of a
 * model.
 */
public final class GenerationCancelledException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public GenerationCancelledException(String message) {
        super(message, null, null, null);
    }

    public GenerationCancelledException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }
}
