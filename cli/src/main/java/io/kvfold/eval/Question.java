package io.kvfold.eval;

import java.util.List;
import java.util.Locale;

/**
 * A long text with a question about it.
 *
 * @param text what the model is asked
 * @param prefix how its answer begins
 * @param answers what the rest of it has to contain
 */
public record Question(String text, String prefix, List<String> answers) {

    /** The share of the answers that an output contains, in any case: RULER's recall. */
    public double score(String output) {
        String lower = output.toLowerCase(Locale.ROOT);
        return answers.stream()
                .mapToInt(answer -> lower.contains(answer.toLowerCase(Locale.ROOT)) ? 1 : 0)
                .average()
                .orElseThrow();
    }
}
