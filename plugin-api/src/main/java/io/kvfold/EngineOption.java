package io.kvfold;

import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * One option of an engine.
 *
 * @param names long and short names, without dashes
 * @param negated names that switch it off, for a flag that has them
 * @param value a placeholder for its value, such as {@code N}; null for a flag
 * @param help what it does, as llama-server explains it
 */
public record EngineOption(
        List<String> names, List<String> negated, @Nullable String value, String help) {
    public EngineOption {
        names = List.copyOf(names);
        negated = List.copyOf(negated);
    }
}
