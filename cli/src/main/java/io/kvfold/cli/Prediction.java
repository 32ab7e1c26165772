package io.kvfold.cli;

import io.kvfold.Logits;

/** What a model predicts after one position: the logits of its vocabulary, and what its probabilities are made of. */
final class Prediction {

    private final float[] logits;
    private final int top;
    private final double logSum;

    /** {@code logits} belong to the new object. */
    Prediction(float... logits) {
        this.logits = logits;
        int best = 0;
        for (int i = 1; i < logits.length; i++) {
            best = logits[i] > logits[best] ? i : best;
        }
        double sum = 0;
        for (float logit : logits) {
            sum += Math.exp(logit - logits[best]);
        }
        this.top = best;
        this.logSum = logits[best] + Math.log(sum);
    }

    /** @param memory for a copy of the row */
    static Prediction of(Logits logits, int row, float[] memory) {
        logits.copyRow(row, memory);
        return new Prediction(memory);
    }

    int vocabularySize() {
        return logits.length;
    }

    float logit(int token) {
        return logits[token];
    }

    double logProbability(int token) {
        return logits[token] - logSum;
    }

    /** The most probable token; the first of several. */
    int top() {
        return top;
    }
}
