package io.kvfold;

import java.util.OptionalLong;
import org.jspecify.annotations.Nullable;

/**
 * What every error of this library extends. A subclass says what kind of error it is; where the error compares two
 * numbers, {@link #value()} and {@link #limit()} are those that the message names.
 */
public abstract class KvfoldException extends RuntimeException {

    private static final long serialVersionUID = 1L;

    private final @Nullable Long value;
    private final @Nullable Long limit;

    KvfoldException(String message, @Nullable Long value, @Nullable Long limit, @Nullable Throwable cause) {
        super(message, cause);
        this.value = value;
        this.limit = limit;
    }

    /** The number at fault, in the unit that the message names; empty where the error compares no numbers. */
    public final OptionalLong value() {
        return value == null ? OptionalLong.empty() : OptionalLong.of(value);
    }

    /** The largest or smallest number that would have been accepted; empty where the error compares no numbers. */
    public final OptionalLong limit() {
        return limit == null ? OptionalLong.empty() : OptionalLong.of(limit);
    }
}
