package io.kvfold.bench;

import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufType;
import io.kvfold.gguf.MemoryEstimate;
import java.nio.file.Path;
import java.util.Locale;
import java.util.Optional;
import org.jspecify.annotations.Nullable;

/**
 * What is measured: a model under a plan, with keys and values of one type.
 *
 * @param planName as the user wrote it
 * @param plan null for the one of the file
 */
public record Subject(Path model, String planName, @Nullable KvPlan plan, KvType type) {

    /** Sequences that llama.cpp computes side by side at most (LLAMA_MAX_SEQ). */
    public static final int MAX_SEQUENCES = 256;

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

    /** Adds {@code model}, {@code plan} and {@code kv_type} to a JSON object. */
    public ObjectNode addTo(ObjectNode entry) {
        return entry.put("model", String.valueOf(model.getFileName()))
                .put("plan", planName)
                .put("kv_type", type.text());
    }

    /** A short name for tables and plots. */
    public String label() {
        String file = String.valueOf(model.getFileName()).replaceFirst("\\.gguf$", "");
        return file + " " + planName + " " + type.name().toLowerCase(Locale.ROOT);
    }
}
