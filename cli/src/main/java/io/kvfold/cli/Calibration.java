package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.InvalidRequestException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** A text, cut into sequences that a search measures a model with. */
final class Calibration {

    private Calibration() {}

    /**
     * Sequences of one length, spread evenly over a text without overlap, each after the token that begins a text where
     * the model wants it.
     *
     * @param count at most so many, at least 1
     * @param length tokens of each, that token included
     * @throws InvalidRequestException if the text is too short for one
     */
    static List<int[]> sequences(Engine engine, String text, int count, int length) {
        int[] start = engine.tokenize("", true, false);
        Integer bos = engine.info().model().tokens().bos();
        int[] prefix = bos != null && start.length > 0 && bos == start[0] ? new int[] {bos} : new int[0];
        int[] tokens = engine.tokenize(text, false, false);
        int each = length - prefix.length;
        int fitting = Math.min(count, tokens.length / Math.max(each, 1));
        if (each < 1 || fitting == 0) {
            throw new InvalidRequestException(
                    "the text has " + tokens.length + " tokens, but a sequence takes " + length,
                    (long) tokens.length,
                    (long) length);
        }
        List<int[]> sequences = new ArrayList<>();
        for (int i = 0; i < fitting; i++) {
            int from = (int) ((long) i * tokens.length / fitting);
            int[] sequence = Arrays.copyOf(prefix, length);
            System.arraycopy(tokens, from, sequence, prefix.length, each);
            sequences.add(sequence);
        }
        return sequences;
    }
}
