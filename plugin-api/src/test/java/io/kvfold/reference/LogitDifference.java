package io.kvfold.reference;

/** Comparison of logits. */
final class LogitDifference {
    private LogitDifference() {}

    /** The greatest absolute difference; infinite if a value is not a number or the shapes differ. */
    static double greatest(double[][] expected, float[] actual) {
        double greatest = 0;
        int k = 0;
        for (double[] row : expected) {
            for (double value : row) {
                double difference = k < actual.length ? Math.abs(value - actual[k]) : Double.NaN;
                greatest = Double.isNaN(difference) ? Double.POSITIVE_INFINITY : Math.max(greatest, difference);
                k++;
            }
        }
        return k == actual.length ? greatest : Double.POSITIVE_INFINITY;
    }
}
