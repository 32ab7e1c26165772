package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.util.List;
import org.junit.jupiter.api.Test;

final class DivergenceScoreTest {

    private final DivergenceScore score = new DivergenceScore();

    private void add(float[] logits, float[] base) {
        score.add(List.of(new Prediction(logits)), List.of(base));
    }

    private static float[] logs(double... probabilities) {
        float[] logs = new float[probabilities.length];
        for (int i = 0; i < logs.length; i++) {
            logs[i] = (float) Math.log(probabilities[i]);
        }
        return logs;
    }

    @Test
    void isNothingBetweenTheSamePredictions() {
        add(new float[] {8.5f, 7.5f}, logs(1 / (1 + Math.exp(-1)), 1 / (1 + Math.E)));

        assertThat(score.mean()).isCloseTo(0, within(1e-6));
        assertThat(score.sameTop()).isEqualTo(1);
    }

    /** Sum of p ln(p/q) with p = (3/4, 1/4) and q = (1/2, 1/2) or (1/4, 3/4). */
    @Test
    void isTheMeanOfTheDivergences() {
        add(new float[] {3, 3}, logs(0.75, 0.25));
        add(logs(0.25, 0.75), logs(0.75, 0.25));

        double first = 0.75 * Math.log(1.5) + 0.25 * Math.log(0.5);
        double second = 0.75 * Math.log(3) - 0.25 * Math.log(3);
        assertThat(score.mean()).isCloseTo((first + second) / 2, within(1e-6));
        assertThat(score.standardError()).isCloseTo((second - first) / 2, within(1e-6));
        assertThat(score.quantile(0)).isCloseTo(first, within(1e-6));
        assertThat(score.quantile(0.75)).isCloseTo(first + 0.75 * (second - first), within(1e-6));
        assertThat(score.quantile(1)).isCloseTo(second, within(1e-6));
        assertThat(score.sameTop()).isEqualTo(0.5); // the first one of equals
    }

    @Test
    void takesAnyNumberOfTokens() {
        for (int i = 0; i < 5000; i++) {
            add(new float[] {3, 3}, logs(0.5, 0.5));
        }

        assertThat(score.quantile(0.999)).isCloseTo(0, within(1e-6));
    }
}
