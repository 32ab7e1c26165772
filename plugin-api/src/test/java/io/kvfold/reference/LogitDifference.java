package io.kvfold.reference;

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
}
