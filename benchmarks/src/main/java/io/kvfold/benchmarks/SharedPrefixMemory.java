package io.kvfold.benchmarks;

import static java.util.Objects.requireNonNull;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.Generation;
import io.kvfold.KvCacheStats;
import io.kvfold.KvType;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Random;
import java.util.stream.Stream;

/**
 * What requests take that come together and begin with the same text: prompt tokens that are computed, and memory that is
 * committed for what they hold, which is what they have in common once and what each adds. Nothing is timed.
 */
public final class SharedPrefixMemory {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final int ANSWER = 4;

    private SharedPrefixMemory() {}

    /**
     * Arguments: a model, a text file, words of the common beginning, words that each request adds at least (the longest adds
     * half as many more), a seed of the places in the text; then KV plans, each with a cache type after a slash if that is not
     * f16.
     */
    public static void main(String[] args) throws IOException {
        if (args.length < 6) {
            throw new IllegalArgumentException(
                    "arguments: <model> <text> <common words> <own words> <seed> plan[/type] ...");
        }
        List<String> words = List.of(Files.readString(Path.of(args[1])).split("\\s+"));
        int common = Integer.parseInt(args[2]);
        int own = Integer.parseInt(args[3]);
        Random random = new Random(Long.parseLong(args[4]));
        String document = some(words, random, common);
        System.out.println(
                "| | requests | prompt tokens | computed | in use, bytes | committed | committed / in use |\n"
                        + "|---|---|---|---|---|---|---|");
        for (String each : List.of(args).subList(5, args.length)) {
            for (int count : new int[] {8, 32}) {
                List<String> prompts = Stream.generate(() ->
                                document + " " + some(words, random, own + random.nextInt(own / 2 + 1)))
                        .limit(count)
                        .toList();
                System.out.println(row(Path.of(args[0]), each, prompts));
            }
        }
    }

    private static String some(List<String> words, Random random, int count) {
        int first = random.nextInt(words.size() - count);
        return String.join(" ", words.subList(first, first + count));
    }

    private static String row(Path model, String planAndType, List<String> prompts) throws IOException {
        int slash = planAndType.indexOf('/');
        String plan = slash < 0 ? planAndType : planAndType.substring(0, slash);
        KvType type = slash < 0 ? KvType.F16 : KvType.parse(planAndType.substring(slash + 1));
        try (Engine engine = Engine.builder()
                .model(model)
                .contextSize(1024)
                .slots(prompts.size())
                .kvCacheTypes(type, type)
                .option("kv-plan", plan)
                .open()) {
            List<Generation> running = new ArrayList<>();
            for (String prompt : prompts) {
                ObjectNode request = JSON.createObjectNode()
                        .put("prompt", prompt)
                        .put("n_predict", ANSWER)
                        .put("ignore_eos", true)
                        .put("cache_prompt", true)
                        .put("temperature", 0);
                running.add(engine.complete(request));
            }
            long tokens = 0;
            for (Generation each : running) {
                JsonNode timings = requireNonNull(each.next()).path("timings");
                tokens += timings.path("cache_n").asLong()
                        + timings.path("prompt_n").asLong();
            }
            KvCacheStats stats = engine.kvCacheStats();
            running.forEach(Generation::close);
            return String.format(
                    Locale.ROOT,
                    "| `%s` %s | %d | %d | %d | %d | %d | %.3f |",
                    plan,
                    type.text(),
                    prompts.size(),
                    tokens,
                    engine.tokenStats().promptTokens(),
                    stats.bytesInUse(),
                    stats.bytesCommitted(),
                    (double) stats.bytesCommitted() / stats.bytesInUse());
        }
    }
}
