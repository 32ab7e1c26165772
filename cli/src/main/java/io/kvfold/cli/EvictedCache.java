package io.kvfold.cli;

import io.kvfold.Eviction;
import io.kvfold.gguf.MemoryEstimate;
import java.util.function.IntToLongFunction;

/** Bytes of the keys and values of one sequence under a plan that evicts tokens. */
final class EvictedCache {

    private EvictedCache() {}

    /** What so many tokens take at most, whether they are a prompt or, where tokens are evicted from it, an answer. */
    static long most(MemoryEstimate estimate, Eviction eviction, long tokens) {
        int layers = estimate.layers();
        return bytes(estimate, tokens, layer -> {
            long prompt = eviction.peak(layer, layers, tokens);
            return eviction.answerPart().isEmpty()
                    ? prompt
                    : Math.max(prompt, eviction.answerPeak(layer, layers, 1, Math.max(0, tokens - 1)));
        });
    }

    /** As {@link #most}, or where nothing is evicted from answers, if these are half of so many tokens. */
    static long mostOfHalves(MemoryEstimate estimate, Eviction eviction, long tokens) {
        long half = tokens / 2;
        long ofAnswers =
                bytes(estimate, tokens, layer -> eviction.answerPeak(layer, estimate.layers(), half, tokens - half));
        return Math.max(most(estimate, eviction, tokens), eviction.answerPart().isEmpty() ? ofAnswers : 0);
    }

    /** What is left of a prompt of so many tokens. */
    static long left(MemoryEstimate estimate, Eviction eviction, long tokens) {
        return bytes(estimate, tokens, layer -> eviction.budget(layer, estimate.layers(), tokens));
    }

    private static long bytes(MemoryEstimate estimate, long tokens, IntToLongFunction rowsOf) {
        long window = Math.min(tokens, estimate.window());
        return estimate.storage().stream()
                .mapToLong(layer -> (layer.keyBytes() + layer.valueBytes())
                        * (layer.windowed() ? window : rowsOf.applyAsLong(layer.layer())))
                .sum();
    }
}
