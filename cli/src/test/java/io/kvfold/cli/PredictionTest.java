package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import org.junit.jupiter.api.Test;

final class PredictionTest {

    @Test
    void normalisesLogits() {
        Prediction prediction = new Prediction((float) Math.log(7) + 5, 5);

        assertThat(prediction.top()).isZero();
        assertThat(prediction.logProbability(0)).isCloseTo(Math.log(7.0 / 8), within(1e-6));
        assertThat(prediction.logProbability(1)).isCloseTo(-Math.log(8), within(1e-6));
    }

    @Test
    void staysFiniteWithLargeLogits() {
        Prediction prediction = new Prediction(3e38f, -3e38f);

        assertThat(prediction.logProbability(0)).isZero();
        assertThat(prediction.logProbability(1)).isEqualTo(-6e38, within(1e32));
    }

    @Test
    void takesTheFirstOfEqualTokens() {
        assertThat(new Prediction(1, 2, 2).top()).isEqualTo(1);
    }
}
