package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.InvalidRequestException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;

/**
 * The perplexity of a text, as llama.cpp's {@code llama-perplexity} defines it: exp of the mean negative log-likelihood
 * of the scored tokens, with the standard error of that mean carried through exp.
 */
final class PerplexityScore {

    private static final int AT_ONCE = 32; // predictions in memory; each takes four bytes per token of the vocabulary

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
        return of(engine, tokens, context, Math.min(tokens.length / context, maxChunks), predictions -> {});
    }

    /**
     * The tokens of a text file.
     *
     * @throws InvalidRequestException if it has less than two chunks
     */
    static int[] tokens(Engine engine, Path text, int context) throws IOException {
        return tokens(engine, TextFile.read(text), text.toString(), context);
    }

    /**
     * The tokens of a text.
     *
     * @param source what the error names
     * @throws InvalidRequestException if it has less than two chunks
     */
    static int[] tokens(Engine engine, String text, String source, int context) {
        int[] tokens = engine.tokenize(text.replaceFirst("\\n\\z", ""), true, false);
        if (tokens.length < 2 * context) {
            throw new InvalidRequestException(Values.format(
                    "%s has %d tokens, but two chunks of %d take %d", source, tokens.length, context, 2 * context));
        }
        return tokens;
    }

    /** Told of what was predicted for the scored tokens, some at a time, in their order. */
    interface Listener {
        /** @param predictions valid until this returns */
        void onPredictions(List<Prediction> predictions) throws IOException;
    }

    /**
     * Scores the second half of each of the first {@code chunks} chunks of {@code context} tokens.
     *
     * @param tokens at least {@code context * chunks}
     */
    static PerplexityScore of(Engine engine, int[] tokens, int context, int chunks, Listener listener)
            throws IOException {
        Integer bos = engine.info().model().tokens().bos();
        int[] around = engine.tokenize("", true, false);
        boolean startsWithBos = bos != null && around.length > 0 && bos == around[0];
        float[][] rows = new float[AT_ONCE][engine.info().model().vocabularySize()];
        PerplexityScore score = new PerplexityScore();
        score.chunks = chunks;
        try (Progress progress = new Progress("scoring", chunks, " chunks")) {
            for (int chunk = 0; chunk < chunks; chunk++) {
                int[] input = Arrays.copyOfRange(tokens, chunk * context, (chunk + 1) * context);
                int[] expected = input.clone();
                if (startsWithBos) {
                    input[0] = around[0];
                }
                engine.evaluate(input, context / 2, (position, logits) -> {
                    int end = Math.min(logits.tokens(), context - 1 - position); // nothing follows the last token
                    for (int row = 0; row < end; row += AT_ONCE) {
                        int first = row;
                        List<Prediction> predictions = IntStream.range(0, Math.min(AT_ONCE, end - first))
                                .parallel()
                                .mapToObj(i -> Prediction.of(logits, first + i, rows[i]))
                                .toList();
                        for (int i = 0; i < predictions.size(); i++) {
                            score.add(-predictions.get(i).logProbability(expected[position + first + i + 1]));
                        }
                        tell(listener, predictions);
                    }
                });
                progress.stepTo(chunk + 1);
                progress.message(Values.format("PPL %.4f", score.perplexity()));
            }
        } catch (UncheckedIOException e) {
            throw e.getCause();
        }
        return score;
    }

    private static void tell(Listener listener, List<Prediction> predictions) {
        try {
            listener.onPredictions(predictions);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** Scores one token. */
    void add(double negativeLogLikelihood) {
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
