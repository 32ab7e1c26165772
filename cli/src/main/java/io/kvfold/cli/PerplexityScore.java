package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.InvalidRequestException;
import io.kvfold.Logits;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.util.Arrays;

/**
 * The perplexity of a text, as llama.cpp's {@code llama-perplexity} defines it: exp of the mean negative log-likelihood
 * of the scored tokens, with the standard error of that mean carried through exp.
 */
final class PerplexityScore {

    private int chunks;
    private int count;
    private double sum;
    private double sumOfSquares;

    /**
     * The score of a text file.
     *
     * @param context tokens of a chunk, 4 or more and no more than the engine's context
     * @param maxChunks how many of them, at most
     * @throws InvalidRequestException if the text has less than two chunks
     */
    static PerplexityScore of(Engine engine, Path text, int context, int maxChunks) throws IOException {
        int[] tokens = tokens(engine, text, context);
        return of(engine, tokens, context, Math.min(tokens.length / context, maxChunks));
    }

    /**
     * The tokens of a text file.
     *
     * @throws InvalidRequestException if it has less than two chunks
     */
    static int[] tokens(Engine engine, Path text, int context) throws IOException {
        String content = TextFile.read(text).replaceFirst("\\n\\z", "");
        int[] tokens = engine.tokenize(content, true, false);
        if (tokens.length < 2 * context) {
            throw new InvalidRequestException(Values.format(
                    "%s has %d tokens, but two chunks of %d take %d", text, tokens.length, context, 2 * context));
        }
        return tokens;
    }

    /** Told of every scored token. */
    interface RowListener {
        /**
         * Takes what was predicted for it.
         *
         * @param logits of all tokens of the vocabulary at the position before it; valid until this returns
         */
        void onRow(float[] logits) throws IOException;
    }

    /**
     * Scores the second half of each of the first {@code chunks} chunks of {@code context} tokens.
     *
     * @param tokens at least {@code context * chunks}
     */
    static PerplexityScore of(Engine engine, int[] tokens, int context, int chunks) {
        try {
            return of(engine, tokens, context, chunks, logits -> {});
        } catch (IOException e) {
            throw new UncheckedIOException(e); // not of this listener
        }
    }

    /** As above, with a listener. */
    static PerplexityScore of(Engine engine, int[] tokens, int context, int chunks, RowListener listener)
            throws IOException {
        Integer bos = engine.info().model().tokens().bos();
        int[] around = engine.tokenize("", true, false);
        boolean startsWithBos = bos != null && around.length > 0 && bos == around[0];
        float[] row = new float[engine.info().model().vocabularySize()];
        PerplexityScore score = new PerplexityScore();
        score.chunks = chunks;
        Logits logits = null;
        try (Progress progress = new Progress("scoring", chunks, " chunks")) {
            for (int chunk = 0; chunk < chunks; chunk++) {
                int[] input = Arrays.copyOfRange(tokens, chunk * context, (chunk + 1) * context);
                int[] expected = input.clone();
                if (startsWithBos) {
                    input[0] = around[0];
                }
                logits = engine.evaluate(logits, input);
                for (int position = context / 2; position < context - 1; position++) {
                    logits.copyRow(position, row);
                    score.add(row, expected[position + 1]);
                    listener.onRow(row);
                }
                progress.stepTo(chunk + 1);
                progress.message(Values.format("PPL %.4f", score.perplexity()));
            }
        }
        return score;
    }

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

    int chunks() {
        return chunks;
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
