package io.kvfold.reference;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.Arrays;

/** Comparison of logits [tokens, vocabulary]. */
final class LogitDifference {
    private LogitDifference() {}

    /** The greatest absolute difference; infinite if a value is not a number or the shapes differ. */
    static double greatest(double[][] expected, double[][] actual) {
        double greatest = expected.length == actual.length ? 0 : Double.POSITIVE_INFINITY;
        for (int t = 0; t < expected.length && greatest < Double.POSITIVE_INFINITY; t++) {
            for (int v = 0; v < expected[t].length; v++) {
                double difference =
                        v < actual[t].length ? Math.abs(expected[t][v] - actual[t][v]) : Double.POSITIVE_INFINITY;
                greatest = Double.isNaN(difference) ? Double.POSITIVE_INFINITY : Math.max(greatest, difference);
            }
        }
        return greatest;
    }

    /** The root of the mean squared difference; not a number if a value is not. */
    static double rootMeanSquare(double[][] expected, double[][] actual) {
        double squares = 0;
        int count = 0;
        for (int t = 0; t < expected.length; t++) {
            for (int v = 0; v < expected[t].length; v++) {
                squares += Math.pow(expected[t][v] - actual[t][v], 2);
                count++;
            }
        }
        return Math.sqrt(squares / count);
    }

    /**
     * The greatest difference between log-probabilities: those of logits, and those listed by token id as llama.cpp's
     * server does; infinite if some are missing.
     */
    static double ofLogProbabilities(double[] logits, JsonNode listed) {
        double max = Arrays.stream(logits).max().orElseThrow();
        double total = Arrays.stream(logits).map(v -> Math.exp(v - max)).sum();
        double greatest = listed.size() == logits.length ? 0 : Double.POSITIVE_INFINITY;
        for (JsonNode token : listed) {
            double expected = logits[token.get("id").intValue()] - max - Math.log(total);
            double difference = Math.abs(expected - token.get("logprob").doubleValue());
            greatest = Double.isNaN(difference) ? Double.POSITIVE_INFINITY : Math.max(greatest, difference);
        }
        return greatest;
    }
}
