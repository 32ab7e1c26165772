package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.InvalidRequestException;
import java.io.IOException;
import java.nio.file.Path;

/**
 * How well a model predicts a text, and how far its predictions are from those of a base.
 *
 * @param perplexity of the model, not of the base
 */
record Comparison(PerplexityScore perplexity, DivergenceScore divergence) {

    /**
     * Makes a base.
     *
     * @param tokens at least {@code context * chunks}
     */
    static PerplexityScore writeBase(Engine engine, int[] tokens, int context, int chunks, Path file)
            throws IOException {
        int vocabularySize = engine.info().model().vocabularySize();
        try (LogProbabilities.Writer writer =
                new LogProbabilities.Writer(file, tokens, context, chunks, vocabularySize)) {
            return PerplexityScore.of(engine, tokens, context, chunks, writer::add);
        }
    }

    /**
     * Compares the predictions of the text that a base is of.
     *
     * @param engine with room for a chunk of it
     * @param maxChunks how many of its chunks, at most
     * @throws InvalidRequestException if the base is of another vocabulary
     */
    static Comparison of(Engine engine, LogProbabilities.Reader base, int maxChunks) throws IOException {
        int vocabularySize = engine.info().model().vocabularySize();
        if (base.vocabularySize() != vocabularySize) {
            throw new InvalidRequestException(
                    base + " is of a vocabulary of " + base.vocabularySize() + " tokens, the model's has "
                            + vocabularySize,
                    (long) base.vocabularySize(),
                    (long) vocabularySize);
        }
        DivergenceScore divergence = new DivergenceScore();
        PerplexityScore perplexity = PerplexityScore.of(
                engine,
                base.tokens(),
                base.context(),
                Math.min(base.chunks(), maxChunks),
                predictions -> divergence.add(predictions, base.next(predictions.size())));
        return new Comparison(perplexity, divergence);
    }
}
