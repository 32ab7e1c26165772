package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import org.junit.jupiter.api.Test;

final class PerplexityScoreTest {

    private final PerplexityScore score = new PerplexityScore();

    @Test
    void isTheNumberOfTokensForAModelThatKnowsNothing() {
        for (int token = 0; token < 8; token++) {
            score.add(new float[8], token);
        }

        assertThat(score.perplexity()).isCloseTo(8, within(1e-12));
        assertThat(score.standardError()).isCloseTo(0, within(1e-6));
    }

    /** p = 1/2 and 1/8: mean of -ln p is 2 ln 2, its standard error is sqrt(((ln 2)^2) / (2 - 1)) = ln 2. */
    @Test
    void carriesTheStandardErrorOfTheMeanThroughExp() {
        float[] half = {0, 0};
        float[] eighth = {(float) Math.log(7), 0};
        score.add(half, 1);
        score.add(eighth, 1);

        assertThat(score.perplexity()).isCloseTo(4, within(1e-6));
        assertThat(score.standardError()).isCloseTo(4 * Math.log(2), within(1e-6));
        assertThat(score.count()).isEqualTo(2);
    }

    @Test
    void staysFiniteWithLargeLogits() {
        score.add(new float[] {3e38f, -3e38f}, 0);

        assertThat(score.perplexity()).isEqualTo(1);
    }
}
