package io.kvfold;

import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * A conversation whose KV state outlives its requests: in other slots' traffic, and in a restart of the process.
 *
 * <p>A request with a session begins with the saved state if that holds more of its prompt than the slot does, computes
 * the rest of the prompt, and saves the state when its last chunk has been pulled. The answer's usage says how many
 * tokens were found ({@code cached_tokens}). A state takes the bytes per token of {@link KvCacheStats} for each token, and
 * is written anew after each request.
 *
 * <p>By default a state that is damaged, or was saved with another model or KV plan, is logged as a warning and replaced
 * by this request's; see {@link #strict()}.
 *
 * <p>Immutable.
 */
public final class Session {

    private final SessionStore store;
    private final String key;
    private final boolean readOnly;
    private final boolean strict;

    private Session(SessionStore store, String key, boolean readOnly, boolean strict) {
        this.store = Objects.requireNonNull(store, "store");
        this.key = Objects.requireNonNull(key, "key");
        this.readOnly = readOnly;
        this.strict = strict;
    }

    /** The conversation that {@code store} keeps under {@code key}, which may be a new one. */
    public static Session of(SessionStore store, String key) {
        return new Session(store, key, false, false);
    }

    /** The same, but nothing is saved: for many questions on one document. */
    public Session readOnly() {
        return new Session(store, key, true, strict);
    }

    /**
     * The same, but a saved state that is damaged or belongs to another model or KV plan, or a new one that cannot be
     * saved, fails the request with {@link KvStateException}, and an engine that has no state to keep with
     * {@link UnsupportedOperationByModelException}. A key that nothing was saved under still begins a conversation.
     * Requests that run give way to the copy that is saved; one that does not fit {@code kvBudget} beside the conversation
     * itself fails with both numbers.
     */
    public Session strict() {
        return new Session(store, key, readOnly, true);
    }

    SessionStore store() {
        return store;
    }

    String key() {
        return key;
    }

    boolean isReadOnly() {
        return readOnly;
    }

    boolean isStrict() {
        return strict;
    }

    @Override
    public boolean equals(@Nullable Object other) {
        return other instanceof Session that
                && store.equals(that.store)
                && key.equals(that.key)
                && readOnly == that.readOnly
                && strict == that.strict;
    }

    @Override
    public int hashCode() {
        return Objects.hash(store, key, readOnly, strict);
    }

    @Override
    public String toString() {
        return "Session[" + key + " in " + store + "]";
    }
}
