package io.kvfold;

import org.jspecify.annotations.Nullable;

/** {@link #value()} requests wait for a slot already and no more than {@link #limit()} may; see {@link
 * Engine.Builder#maxQueue}. */
public final class QueueFullException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public QueueFullException(String message) {
        super(message, null, null, null);
    }

    public QueueFullException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }
}
