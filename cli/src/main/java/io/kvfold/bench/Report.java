package io.kvfold.bench;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.List;
import java.util.Locale;
import java.util.function.ToDoubleFunction;

/** Results as Markdown and as JSON. Ratios are to the first subject with the same workload, round by round. */
public final class Report {

    private Report() {}

    public static String markdown(List<Result> results) {
        StringBuilder table = new StringBuilder("""
                | model, plan, KV type | prompt+answer | sequences | KV cache, MiB | prefill, tokens/s | decode, tokens/s \
                | throughput, tokens/s | lowest - highest | ratio | lowest - highest | first token p50 / p99, s | RSS, MiB |
                |---|---|---|---|---|---|---|---|---|---|---|---|
                """);
        for (Result result : results) {
            Spread throughput = result.spread(Sample::throughput);
            Spread ratio = result.ratio(first(results, result), Sample::throughput);
            table.append(String.format(
                    Locale.ROOT,
                    "| %s | %s | %d | %.1f | %.1f | %.1f | %.2f | %.2f - %.2f | %.3f | %.3f - %.3f | %.2f / %.2f | %.0f |%n",
                    result.subject().label(),
                    result.workload(),
                    result.sequences(),
                    result.samples().get(0).kvBytes() / 1048576.0,
                    result.spread(Sample::prefill).median(),
                    result.spread(Sample::decode).median(),
                    throughput.median(),
                    throughput.lowest(),
                    throughput.highest(),
                    ratio.median(),
                    ratio.lowest(),
                    ratio.highest(),
                    result.firstToken(0.5),
                    result.firstToken(0.99),
                    result.spread(Sample::residentBytes).median() / 1048576.0));
        }
        return table.toString();
    }

    public static ObjectNode json(List<Result> results) {
        ObjectNode root = JsonNodeFactory.instance.objectNode();
        ArrayNode list = root.putArray("results");
        for (Result result : results) {
            ObjectNode entry = result.subject()
                    .addTo(list.addObject())
                    .put("prompt", result.workload().prompt())
                    .put("generate", result.workload().generate())
                    .put("sequences", result.sequences())
                    .put("kv_bytes", result.samples().get(0).kvBytes());
            put(entry, "prefill_tokens_per_second", result, Sample::prefill);
            put(entry, "decode_tokens_per_second", result, Sample::decode);
            put(entry, "throughput_tokens_per_second", result, Sample::throughput);
            put(entry, "resident_bytes", result, Sample::residentBytes);
            Spread ratio = result.ratio(first(results, result), Sample::throughput);
            put(entry.putObject("throughput_ratio"), ratio);
            entry.put("first_token_seconds_p50", result.firstToken(0.5));
            entry.put("first_token_seconds_p99", result.firstToken(0.99));
        }
        return root;
    }

    /** What a result is compared with: the first subject, with as many sequences if it was run with them. */
    private static Result first(List<Result> results, Result result) {
        List<Result> candidates = results.stream()
                .filter(other -> other.workload().equals(result.workload())
                        && other.subject().equals(results.get(0).subject()))
                .toList();
        return candidates.stream()
                .filter(other -> other.sequences() == result.sequences())
                .findFirst()
                .orElse(candidates.get(0));
    }

    private static void put(ObjectNode entry, String name, Result result, ToDoubleFunction<Sample> figure) {
        put(entry.putObject(name), result.spread(figure));
    }

    private static void put(ObjectNode entry, Spread spread) {
        entry.put("median", spread.median()).put("lowest", spread.lowest()).put("highest", spread.highest());
    }
}
