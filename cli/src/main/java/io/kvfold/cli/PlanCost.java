package io.kvfold.cli;

import io.kvfold.Engine;
import java.io.IOException;

/**
 * How well a model predicts a text, without a plan and with it: what the plan costs.
 *
 * @param perplexity of the scored tokens
 * @param how it was measured
 */
record PlanCost(double perplexity, String how) {

    /** Scores chunks as {@link PerplexityScore#of(Engine, int[], int, int, PerplexityScore.Listener)} does. */
    static PlanCost of(Engine engine, int[] tokens, int context, int chunks) throws IOException {
        PerplexityScore score = PerplexityScore.of(engine, tokens, context, chunks, predictions -> {});
        return new PlanCost(
                score.perplexity(),
                Values.format("%d tokens scored in %d chunks of %d", score.count(), chunks, context));
    }

    /** A line about both. */
    static String line(PlanCost without, PlanCost with) {
        return Values.format(
                "PPL = %.4f without the plan, %.4f with it (%s)", without.perplexity, with.perplexity, with.how);
    }
}
