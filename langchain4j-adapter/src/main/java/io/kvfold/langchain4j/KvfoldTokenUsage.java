package io.kvfold.langchain4j;

import dev.langchain4j.model.output.TokenUsage;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * Token counts of one answer, or of several added together. Immutable.
 *
 * <p>The input count is the whole rendered prompt; {@link #cachedInputTokenCount()} of it were found in the KV cache
 * and cost no prefill.
 */
public final class KvfoldTokenUsage extends TokenUsage {

    private final int cachedInputTokenCount;

    /**
     * @param inputTokenCount tokens of the rendered prompt
     * @param cachedInputTokenCount those of them whose keys and values were already in the KV cache
     * @param outputTokenCount generated tokens
     */
    public KvfoldTokenUsage(int inputTokenCount, int cachedInputTokenCount, int outputTokenCount) {
        super(inputTokenCount, outputTokenCount, inputTokenCount + outputTokenCount);
        this.cachedInputTokenCount = cachedInputTokenCount;
    }

    /** Prompt tokens that were reused from the KV cache instead of being computed. */
    public int cachedInputTokenCount() {
        return cachedInputTokenCount;
    }

    @Override
    public KvfoldTokenUsage add(@Nullable TokenUsage that) {
        if (that == null) {
            return this;
        }
        int cached = that instanceof KvfoldTokenUsage usage ? usage.cachedInputTokenCount : 0;
        return new KvfoldTokenUsage(
                inputTokenCount() + Objects.requireNonNullElse(that.inputTokenCount(), 0),
                cachedInputTokenCount + cached,
                outputTokenCount() + Objects.requireNonNullElse(that.outputTokenCount(), 0));
    }

    @Override
    public boolean equals(@Nullable Object other) {
        return super.equals(other)
                && other instanceof KvfoldTokenUsage that
                && cachedInputTokenCount == that.cachedInputTokenCount;
    }

    @Override
    public int hashCode() {
        return Objects.hash(super.hashCode(), cachedInputTokenCount);
    }

    @Override
    public String toString() {
        return "KvfoldTokenUsage{inputTokenCount=" + inputTokenCount() + ", cachedInputTokenCount="
                + cachedInputTokenCount + ", outputTokenCount=" + outputTokenCount() + ", totalTokenCount="
                + totalTokenCount() + '}';
    }
}
