package io.kvfold.cli;

import java.util.Arrays;

/**
 * How far the predictions of a model are from those of a base, by the definitions of {@code llama-perplexity --kl-divergence}:
 * for each scored token the Kullback-Leibler divergence of its distribution from the base's, and whether both find the same
 * token most probable.
 */
final class DivergenceScore {

    private float[] values = new float[1024];
    private int count;
    private int sameTop;
    private double sum;
    private double sumOfSquares;

    /**
     * Adds one token.
     *
     * @param logits of the vocabulary before it
     * @param base log-probabilities of the vocabulary before it
     */
    void add(float[] logits, float[] base) {
        int top = 0;
        int baseTop = 0;
        for (int i = 1; i < logits.length; i++) {
            top = logits[i] > logits[top] ? i : top;
            baseTop = base[i] > base[baseTop] ? i : baseTop;
        }
        float normal = logits[top] + LogProbabilities.logSum(logits, logits[top]);
        double divergence = 0;
        for (int i = 0; i < logits.length; i++) {
            if (base[i] > -16) { // what the file leaves of the less probable ones is not known
                divergence += Math.exp(base[i]) * (base[i] - logits[i] + normal);
            }
        }
        if (count == values.length) {
            values = Arrays.copyOf(values, 2 * count);
        }
        values[count++] = (float) divergence;
        sum += divergence;
        sumOfSquares += divergence * divergence;
        sameTop += top == baseTop ? 1 : 0;
    }

    double mean() {
        return sum / count;
    }

    /** Of the mean. */
    double standardError() {
        double variance = sumOfSquares / count - mean() * mean();
        return count < 2 ? 0 : Math.sqrt(Math.max(variance, 0) / (count - 1));
    }

    /** @param fraction from 0 to 1; between two values the line */
    double quantile(double fraction) {
        float[] sorted = Arrays.copyOf(values, count);
        Arrays.sort(sorted);
        double place = fraction * (count - 1);
        int below = (int) place;
        double rest = place - below;
        return (1 - rest) * sorted[below] + rest * sorted[Math.min(below + 1, count - 1)];
    }

    /** From 0 to 1. */
    double sameTop() {
        return (double) sameTop / count;
    }
}
