package io.kvfold.cli;

import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;

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

    /** Of one token. */
    private record Divergence(double value, boolean sameTop) {

        /** @param base log-probabilities of the vocabulary */
        static Divergence of(Prediction prediction, float[] base) {
            int baseTop = 0;
            double divergence = 0;
            for (int i = 0; i < base.length; i++) {
                baseTop = base[i] > base[baseTop] ? i : baseTop;
                if (base[i] > -16) { // what the file leaves of the less probable ones is not known
                    divergence += Math.exp(base[i]) * (base[i] - prediction.logProbability(i));
                }
            }
            return new Divergence(divergence, prediction.top() == baseTop);
        }
    }

    /**
     * Adds some tokens.
     *
     * @param base log-probabilities of the vocabulary for each of them
     */
    void add(List<Prediction> predictions, List<float[]> base) {
        IntStream.range(0, predictions.size())
                .parallel()
                .mapToObj(i -> Divergence.of(predictions.get(i), base.get(i)))
                .toList()
                .forEach(this::add);
    }

    private void add(Divergence divergence) {
        if (count == values.length) {
            values = Arrays.copyOf(values, 2 * count);
        }
        values[count++] = (float) divergence.value();
        sum += divergence.value();
        sumOfSquares += divergence.value() * divergence.value();
        sameTop += divergence.sameTop() ? 1 : 0;
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
