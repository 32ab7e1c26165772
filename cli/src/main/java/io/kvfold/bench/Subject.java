package io.kvfold.bench;

import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufType;
import io.kvfold.gguf.MemoryEstimate;
import java.nio.file.Path;
import java.util.Collections;
import java.util.Locale;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/**
 * What is measured: a model under a plan, with keys and values of one type.
 *
 * @param planName as the user wrote it
 * @param plan null for the one of the file
 * @param options further ones of the engine by their long names
 */
public record Subject(
        Path model, String planName, @Nullable KvPlan plan, KvType type, SortedMap<String, String> options) {

    /** Sequences that llama.cpp computes side by side at most (LLAMA_MAX_SEQ). */
    public static final int MAX_SEQUENCES = 256;

    public Subject {
        options = Collections.unmodifiableSortedMap(new TreeMap<>(options));
    }

    /** One without further options. */
    public Subject(Path model, String planName, @Nullable KvPlan plan, KvType type) {
        this(model, planName, plan, type, Collections.emptySortedMap());
    }

    /**
     * The most sequences whose keys and values fit a budget, {@link #MAX_SEQUENCES} at most; empty if not even one does.
     *
     * @param tokens of each sequence, prompt and answer
     * @param budget bytes of KV cache
     */
    public Optional<Integer> sequencesWithin(long budget, int tokens, int ubatchSize) {
        MemoryEstimate estimate = MemoryEstimate.of(
                GgufFile.open(model), plan, GgufType.valueOf(type.name()), GgufType.valueOf(type.name()));
        int fitting = 0;
        while (fitting < MAX_SEQUENCES
                && estimate.kvBytes((long) (fitting + 1) * Workload.padded(tokens), fitting + 1, false, ubatchSize)
                        <= budget) {
            fitting++;
        }
        return fitting == 0 ? Optional.empty() : Optional.of(fitting);
    }

    /** Adds {@code model}, {@code plan}, {@code kv_type} and, if there are any, {@code options} to a JSON object. */
    public ObjectNode addTo(ObjectNode entry) {
        entry.put("model", String.valueOf(model.getFileName()))
                .put("plan", planName)
                .put("kv_type", type.text());
        if (!options.isEmpty()) {
            options.forEach(entry.putObject("options")::put);
        }
        return entry;
    }

    /** A short name for tables and plots. */
    public String label() {
        String file = String.valueOf(model.getFileName()).replaceFirst("\\.gguf$", "");
        String given = options.entrySet().stream()
                .map(option -> " " + option.getKey() + "=" + option.getValue())
                .collect(Collectors.joining());
        return file + " " + planName + " " + type.name().toLowerCase(Locale.ROOT) + given;
    }
}
