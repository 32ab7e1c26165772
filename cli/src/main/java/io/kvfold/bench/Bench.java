package io.kvfold.bench;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.Generation;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.function.Function;
import java.util.function.LongFunction;

/**
 * Runs cases in turn. Every run opens an engine of its own, so that no two of them share memory, and warms it up with a
 * few tokens. Prompts are random token ids and answers never end early: only the shape of the work counts.
 */
public final class Bench {

    private static final int WARM_UP_TOKENS = 4;

    private final Function<Subject, Engine.Builder> builders;

    /** @param builders an engine's settings for a subject: model, plan and types, threads, without context and slots */
    public Bench(Function<Subject, Engine.Builder> builders) {
        this.builders = builders;
    }

    /** One run: all sequences start at once. */
    public Sample run(Subject subject, Workload workload, int sequences) throws InterruptedException {
        double before = residentBytes();
        try (Engine engine = builders.apply(subject)
                .slots(sequences)
                .contextSize(workload.tokens())
                .option("kv-unified", false)
                .maxQueue(sequences)
                .open()) {
            int vocabulary = engine.info().model().vocabularySize();
            sequence(engine, body(0, WARM_UP_TOKENS, WARM_UP_TOKENS, vocabulary), System.nanoTime());
            List<LongFunction<Timeline>> starts = new ArrayList<>();
            for (int i = 0; i < sequences; i++) {
                ObjectNode body = body(1 + i, workload.prompt(), workload.generate(), vocabulary);
                starts.add(start -> sequence(engine, body, start));
            }
            List<Timeline> timelines = Timeline.atOnce(starts);
            long kvBytes = engine.kvCacheStats().bytesAllocated();
            return Sample.of(workload, timelines, kvBytes, residentBytes() - before);
        }
    }

    private static Timeline sequence(Engine engine, ObjectNode body, long start) {
        List<Double> seconds = new ArrayList<>();
        try (Generation generation = engine.complete(body)) {
            for (JsonNode chunk = generation.next(); chunk != null; chunk = generation.next()) {
                double now = 1e-9 * (System.nanoTime() - start);
                // none comes for a token that leaves a character unfinished, the next one tells of it, too
                while (seconds.size() < chunk.path("tokens_predicted").asInt()) {
                    seconds.add(now);
                }
            }
        }
        if (seconds.size() != body.path("n_predict").asInt()) {
            throw new IllegalStateException(
                    "an answer has " + seconds.size() + " tokens, not " + body.path("n_predict"));
        }
        return new Timeline(seconds);
    }

    private static ObjectNode body(long seed, int prompt, int generate, int vocabulary) {
        ObjectNode body = JsonNodeFactory.instance.objectNode();
        ArrayNode tokens = body.putArray("prompt");
        // control tokens come first in a vocabulary
        new Random(seed)
                .ints(prompt, Math.min(vocabulary - 1, vocabulary / 8), vocabulary)
                .forEach(tokens::add);
        return body.put("n_predict", generate)
                .put("ignore_eos", true)
                .put("cache_prompt", false)
                .put("temperature", 0)
                .put("stream", true);
    }

    /** What the process occupies; NaN where the system does not tell. */
    public static double residentBytes() {
        Path statm = Path.of("/proc/self/statm");
        try {
            return Files.isReadable(statm)
                    ? 4096.0 * Long.parseLong(Files.readString(statm).split(" ")[1])
                    : Double.NaN;
        } catch (IOException e) {
            return Double.NaN;
        }
    }
}
