package io.kvfold.bench;

import java.util.Arrays;

/** Median, lowest and highest of several measurements. */
public record Spread(double median, double lowest, double highest) {

    /** @throws IllegalArgumentException if there are none */
    public static Spread of(double... values) {
        if (values.length == 0) {
            throw new IllegalArgumentException("nothing was measured");
        }
        double[] sorted = values.clone();
        Arrays.sort(sorted);
        int n = sorted.length;
        double median = n % 2 == 1 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
        return new Spread(median, sorted[0], sorted[n - 1]);
    }
}
