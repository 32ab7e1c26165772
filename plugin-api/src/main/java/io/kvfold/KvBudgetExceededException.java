package io.kvfold;

import org.jspecify.annotations.Nullable;

/**
 * A request may need more KV memory than the engine's budget has, even alone; {@link #value()} is what it may need and
 * {@link #limit()} the budget, both in bytes. See {@link Engine.Builder#kvBudget}.
 */
public final class KvBudgetExceededException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public KvBudgetExceededException(String message) {
        super(message, null, null, null);
    }

    public KvBudgetExceededException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }
}
