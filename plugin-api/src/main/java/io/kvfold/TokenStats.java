package io.kvfold;

/**
 * The work of an engine since it was opened, all requests together. What a request generates is counted when it ends.
 *
 * @param promptTokens prompt tokens that were computed
 * @param promptTokensCached prompt tokens that were not, because the KV cache held them
 * @param promptSeconds wall time of computing prompts
 * @param generatedTokens tokens of answers
 * @param generationSeconds wall time of generating them, summed over requests that ran side by side
 */
public record TokenStats(
        long promptTokens,
        long promptTokensCached,
        double promptSeconds,
        long generatedTokens,
        double generationSeconds) {}
