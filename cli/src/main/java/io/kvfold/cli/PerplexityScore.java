package io.kvfold.cli;

/**
 * The perplexity of a text, as llama.cpp's {@code llama-perplexity} defines it: exp of the mean negative log-likelihood
 * of the scored tokens, with the standard error of that mean carried through exp.
 */
final class PerplexityScore {

    private int count;
    private double sum;
    private double sumOfSquares;

    /**
     * Scores one token.
     *
     * @param logits of all tokens of the vocabulary at the position before it
     * @param token the one that follows
     */
    void add(float[] logits, int token) {
        float max = Float.NEGATIVE_INFINITY;
        for (float logit : logits) {
            max = Math.max(max, logit);
        }
        double total = 0;
        for (float logit : logits) {
            total += Math.exp(logit - max);
        }
        double negativeLogLikelihood = Math.log(total) - (logits[token] - max);
        count++;
        sum += negativeLogLikelihood;
        sumOfSquares += negativeLogLikelihood * negativeLogLikelihood;
    }

    int count() {
        return count;
    }

    double perplexity() {
        return Math.exp(sum / count);
    }

    double standardError() {
        double mean = sum / count;
        double variance = sumOfSquares / count - mean * mean;
        return count < 2 ? 0 : perplexity() * Math.sqrt(Math.max(variance, 0) / (count - 1));
    }
}
