package io.kvfold.reference;

import static org.assertj.core.api.Assertions.assertThat;

import io.kvfold.KvPlan;
import io.kvfold.reference.ReferenceModel.Sequence;
import io.kvfold.reference.Shape.Architecture;
import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Properties that the papers prove of the method, so that the reference is trusted beyond the golden cases. */
final class ReferenceModelTest {
    private static final String[] PLANS = {
        "0_1_2_3_4_5", "0_4x4_5", "0_2_2_2_4_5", "5x6", "0_3_1_5_2_4", "0_4x4_5;strict", "0s_4s_4_4s_4_5;window=3"
    };

    private final ComparedModel random = ComparedModel.forAnyPlan(Shape.tiny(Architecture.LLAMA), 6, 1);
    private final int[] tokens = random.tokens(12, 2);

    /** Lemma 1 of LCKV. */
    @ParameterizedTest
    @ValueSource(ints = {1, 2, 3, 5, 8, 12})
    void withPPassesTheFirstPTokensOfAChunkAreExact(int passes) {
        for (String plan : PLANS) {
            ReferenceModel model = random.reference(KvPlan.parse(plan));
            double[][] exact = Arrays.copyOf(model.sequential(tokens), passes);
            double[][] iterated = Arrays.copyOf(model.chunked(tokens, tokens.length, passes), passes);
            assertThat(LogitDifference.greatest(exact, iterated)).as(plan).isLessThan(1e-9);
        }
    }

    @Test
    void morePassesThanTokensChangeNothing() {
        ReferenceModel model = random.reference(KvPlan.parse("0_4x4_5"));
        assertThat(LogitDifference.greatest(model.chunked(tokens, 6, 6), model.chunked(tokens, 6, 11)))
                .isLessThan(1e-9);
    }

    @Test
    void tooFewPassesAreOnlyApproximate() {
        ReferenceModel model = random.reference(KvPlan.parse("0_4x4_5"));
        assertThat(LogitDifference.greatest(model.sequential(tokens), model.chunked(tokens, tokens.length, 3)))
                .isGreaterThan(1e-2);
    }

    @Test
    void aDownwardPlanNeedsOnePass() {
        ReferenceModel model = random.reference(KvPlan.parse("0_0_2_2_4s_0s;window=4;strict"));
        assertThat(LogitDifference.greatest(model.sequential(tokens), model.chunked(tokens, 5, 1)))
                .isLessThan(1e-9);
    }

    @Test
    void nothingVisibleContributesNothing() {
        // At the first position an upward reader's attention adds zero, whatever its query and output weights are.
        KvPlan plan = KvPlan.of(1, 1);
        ComparedModel one = ComparedModel.forAnyPlan(Shape.tiny(Architecture.LLAMA), 2, 3);
        double[][] first = one.reference(plan.withStrictDiagonal(true)).sequential(7);
        double[][] narrow =
                one.reference(plan.withStrictDiagonal(true).withWindow(1, 0, 1)).sequential(7, 7);
        assertThat(LogitDifference.greatest(new double[][] {first[0], first[0]}, narrow))
                .isLessThan(1e-12);
    }

    @Test
    void aWindowAsWideAsTheSequenceHidesNothing() {
        ReferenceModel wide = random.reference(KvPlan.parse("0s_4sx4_5s;window=12"));
        ReferenceModel full = random.reference(KvPlan.parse("0_4x4_5"));
        assertThat(LogitDifference.greatest(full.sequential(tokens), wide.sequential(tokens)))
                .isLessThan(1e-12);
        ReferenceModel narrower = random.reference(KvPlan.parse("0s_1_2_3_4_5;window=11"));
        double[][] expected = random.reference(KvPlan.standard(6)).sequential(tokens);
        double[][] actual = narrower.sequential(tokens);
        assertThat(LogitDifference.greatest(Arrays.copyOf(expected, 11), Arrays.copyOf(actual, 11)))
                .isLessThan(1e-12);
        assertThat(LogitDifference.greatest(expected, actual)).isGreaterThan(1e-4);
    }

    /** So that the tolerances of the comparisons with the engine are meaningful. */
    @ParameterizedTest
    @CsvSource({
        "0_0_2_2_4_4, 0_0_2_2_4_5",
        "0_0_2_2_4_4, 0_0_2_2_4_4;strict",
        "0_4x4_5, 0_4x4_5;strict",
        "0_4x4_5, 0_3x3_4_5",
        "0_2_1_5_4_3, 0_2_1_5_4_5",
        "0s_1s_1s_3_3_3;window=4, 0s_1s_1s_3_3_3;window=5",
        "0s_4_4s_4_4_5;window=4, 0s_4_4s_4_4s_5;window=4",
        "0_4x4_5;passes=3, 0_4x4_5;passes=4",
    })
    void aSlightlyDifferentPlanGivesLogitsFarAway(String text, String other) {
        KvPlan one = KvPlan.parse(text);
        KvPlan two = KvPlan.parse(other);
        double[][] expected =
                random.reference(one).chunked(tokens, 12, one.prefillPasses().orElse(12));
        double[][] actual =
                random.reference(two).chunked(tokens, 12, two.prefillPasses().orElse(12));
        assertThat(LogitDifference.greatest(expected, actual)).isGreaterThan(0.3);
    }

    @Test
    void sequencesDoNotSeeEachOther() {
        ReferenceModel model = random.reference(KvPlan.parse("0_4x4_5"));
        Sequence one = model.newSequence();
        Sequence two = model.newSequence();
        double[][] interleaved = new double[12][];
        for (int t = 0; t < 12; t++) {
            interleaved[t] = one.append(1, tokens[t])[0];
            two.append(1, tokens[11 - t]);
        }
        assertThat(LogitDifference.greatest(model.sequential(tokens), interleaved))
                .isLessThan(1e-12);
    }

    @ParameterizedTest
    @ValueSource(strings = {"LLAMA", "QWEN2", "QWEN3"})
    void logitsSpreadOverSeveralUnits(String architecture) {
        ComparedModel model = ComparedModel.forAnyPlan(Shape.tiny(Architecture.valueOf(architecture)), 8, 4);
        double[] last = model.reference(KvPlan.standard(8)).sequential(tokens)[11];
        assertThat(Arrays.stream(last).max().orElseThrow()).isBetween(1.5, 20.0);
    }
}
