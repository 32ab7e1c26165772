package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import org.junit.jupiter.api.Test;

final class PerplexityScoreTest {

    private final PerplexityScore score = new PerplexityScore();

    @Test
    void isTheNumberOfTokensForAModelThatKnowsNothing() {
        for (int token = 0; token < 8; token++) {
            score.add(-new Prediction(new float[8]).logProbability(token));
        }

        assertThat(score.perplexity()).isCloseTo(8, within(1e-12));
        assertThat(score.standardError()).isCloseTo(0, within(1e-12));
    }

    /** p = 1/2 and 1/8: mean of -ln p is 2 ln 2, its standard error is sqrt(((ln 2)^2) / (2 - 1)) = ln 2. */
    @Test
    void carriesTheStandardErrorOfTheMeanThroughExp() {
        score.add(Math.log(2));
        score.add(Math.log(8));

        assertThat(score.perplexity()).isCloseTo(4, within(1e-12));
        assertThat(score.standardError()).isCloseTo(4 * Math.log(2), within(1e-12));
        assertThat(score.count()).isEqualTo(2);
    }
}
