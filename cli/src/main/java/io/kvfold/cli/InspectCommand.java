package io.kvfold.cli;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.AutomaticRetention;
import io.kvfold.Eviction;
import io.kvfold.InvalidModelException;
import io.kvfold.KvPlan;
import io.kvfold.UnsupportedOperationByModelException;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKeys;
import io.kvfold.gguf.GgufKvPlan;
import io.kvfold.gguf.GgufTensor;
import io.kvfold.gguf.GgufValueType;
import io.kvfold.gguf.MemoryEstimate;
import io.kvfold.hub.RemoteModel;
import java.io.PrintWriter;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.LongSummaryStatistics;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.function.IntPredicate;
import java.util.function.IntToLongFunction;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code kvfold inspect}. */
@Command(
        name = "inspect",
        header = "Tells what a model file holds and what its KV cache takes, without loading it.",
        description = {
            "",
            "Reads the header of a GGUF file; of a model on a hub it fetches no more than that. Try --kv-type and"
                    + " --kv-plan to see what they save; whether the model was trained for another plan is not checked"
                    + " here.",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold inspect",
            "  kvfold inspect model.gguf",
            "  kvfold inspect hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0 --ctx 32768",
            "  kvfold inspect model.gguf --ctx 32768 --kv-type q8_0",
            "  kvfold inspect model.gguf --ctx 32768 --kv-plan lckv:2",
            "  kvfold inspect model.gguf --json | jq .kv.bytes_per_token"
        })
final class InspectCommand implements Callable<Integer> {

    private static final String SPLIT_COUNT = "split.count";
    private static final Pattern PART = Pattern.compile("(.*)-(\\d{5})-of-\\d{5}\\.gguf");

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Parameters(
            arity = "0..1",
            paramLabel = "FILE",
            converter = ModelFile.Converter.class,
            description = "The model: a GGUF file, hf:owner/name[:quant|/file][@revision] on a hub, or demo:folded or"
                    + " demo:standard, tiny ones that come along. Default: demo:folded.")
    private @Nullable ModelFile model;

    @Option(
            names = {"-m", "--model"},
            paramLabel = "FILE",
            converter = ModelFile.Converter.class,
            description = "As FILE, the way other commands take it.")
    private @Nullable ModelFile modelOption;

    @Option(
            names = {"-c", "--ctx-size", "--ctx"},
            paramLabel = "N",
            description = "Tokens to size the KV cache for, one sequence. Default: what the model was trained with.")
    private @Nullable Integer contextSize;

    @Mixin
    private final KvOptions kvOptions = new KvOptions();

    @Option(names = "--json", description = "Print one JSON object.")
    private boolean json;

    @Override
    public Integer call() throws JsonProcessingException {
        if (contextSize != null && contextSize < 1) {
            throw new ParameterException(spec.commandLine(), "--ctx-size is 1 or more, not " + contextSize);
        }
        if (model != null && modelOption != null) {
            throw new ParameterException(
                    spec.commandLine(), "the model is named twice: " + model + " and " + modelOption);
        }
        model = model == null ? modelOption : model;
        if (model == null) {
            ModelFile.introduceDefault(spec, kvOptions, contextSize, 1);
        }
        ModelFile asked = model == null ? ModelFile.DEMO_FOLDED : model;
        Optional<RemoteModel> remote = asked.remote();
        GgufFile file = remote.map(RemoteModel::header).orElseGet(asked::header);
        PrintWriter out = spec.commandLine().getOut();
        ObjectNode facts = facts(file);
        remote.ifPresent(there -> facts.put("path", asked.toString())
                .put(
                        "download_files",
                        there.files().size() + there.projector().stream().count())
                .put("download_bytes", there.bytes()));
        if (json) {
            out.println(new ObjectMapper().writerWithDefaultPrettyPrinter().writeValueAsString(facts));
        } else {
            print(file, facts, out);
        }
        return ExitCode.OK;
    }

    private ObjectNode facts(GgufFile file) {
        String architecture = file.architecture();
        ObjectNode facts = JsonNodeFactory.instance.objectNode();
        facts.put("path", file.path().toString());
        file.string(GgufKeys.NAME).ifPresent(name -> facts.put("name", name));
        facts.put("architecture", architecture);
        List<GgufFile> parts = parts(file);
        Map<String, Long> types = bytesByType(parts);
        facts.put(
                "file_type",
                types.entrySet().stream()
                        .max(Comparator.comparingLong(Map.Entry::getValue))
                        .map(Map.Entry::getKey)
                        .orElse("none"));
        facts.put("file_bytes", parts.stream().mapToLong(GgufFile::fileBytes).sum());
        if (parts.size() > 1) {
            facts.put("files", parts.size());
        }
        ObjectNode tensorTypes = facts.putObject("tensor_bytes_by_type");
        types.forEach(tensorTypes::put);
        facts.put("tensors", tensors(parts).count());
        facts.put("parameters", tensors(parts).mapToLong(GgufTensor::elements).sum());
        number(facts, "layers", file, GgufKeys.blockCount(architecture));
        number(facts, "heads", file, GgufKeys.headCount(architecture));
        number(facts, "heads_kv", file, GgufKeys.headCountKv(architecture));
        number(facts, "embedding_length", file, GgufKeys.embeddingLength(architecture));
        number(facts, "context_length_train", file, GgufKeys.contextLength(architecture));
        facts.put("vocabulary_size", vocabularySize(file));
        addKvCache(facts, file);
        return facts;
    }

    private void addKvCache(ObjectNode facts, GgufFile file) {
        KvPlan asked = kvOptions.plan(file);
        ObjectNode kv = facts.putObject("kv");
        kv.put("type_k", kvOptions.keys().text())
                .put("type_v", kvOptions.values().text());
        GgufKvPlan.read(file).map(KvPlan::toString).ifPresent(plan -> kv.put("plan_of_file", plan));
        if (asked != null) {
            kv.put("plan", asked.toString());
        }
        MemoryEstimate estimate;
        try {
            estimate = kvOptions.estimate(file, asked);
        } catch (UnsupportedOperationByModelException e) {
            kv.put("note", e.getMessage());
            return;
        }
        int context = contextSize != null
                ? contextSize
                : Math.max(1, facts.path("context_length_train").asInt(1));
        kv.put("layers_with_storage", estimate.storage().size());
        kv.put("bytes_per_token", estimate.kvBytesPerToken());
        kv.put("context_size", context);
        kv.put("bytes", estimate.kvBytes(context));
        KvPlan plan = plan(file, facts.path("layers").asInt()).orElse(null);
        int undecided = (int)
                estimate.storage().stream().filter(MemoryEstimate.Storage::both).count();
        int full = plan == null
                ? 0
                : plan.automaticRetention()
                        .filter(AutomaticRetention::isByNumber)
                        .map(AutomaticRetention::fullLayers)
                        .orElse(undecided);
        int lazyAtLeast = Math.max(0, undecided - full);
        // full layers may share what they read; a threshold may make all lazy
        boolean exactly = plan != null
                && plan.kvLayerCount() == plan.layers()
                && plan.automaticRetention()
                        .filter(AutomaticRetention::isByNumber)
                        .isPresent();
        Optional<Eviction> eviction = Optional.ofNullable(plan).flatMap(KvPlan::eviction);
        kv.put(
                "bytes_in_use_most",
                eviction.map(which -> EvictedCache.most(estimate, which, context))
                        .orElseGet(() -> inUse(estimate, context, lazyAtLeast, false)));
        kv.put(
                "bytes_in_use_least",
                eviction.map(which -> EvictedCache.left(estimate, which, context))
                        .orElseGet(() -> inUse(estimate, context, exactly ? lazyAtLeast : undecided, true)));
        if (plan != null && plan.window().isPresent()) {
            layers(plan, plan::usesWindow).forEach(kv.putArray("lazy_layers")::add);
            layers(plan, plan::mayBeLazy).forEach(kv.putArray("layers_that_may_be_lazy")::add);
        }
        kv.put("exact", estimate.exact());
        if (!estimate.note().isEmpty()) {
            kv.put("note", estimate.note());
        }
    }

    /**
     * What so many tokens of one sequence take.
     *
     * @param lazy of the layers that may turn out lazy, how many do: those with the widest rows where {@code widest} says so
     */
    private static long inUse(MemoryEstimate estimate, long tokens, int lazy, boolean widest) {
        long kept = Math.min(tokens, estimate.window());
        long all = estimate.storage().stream()
                .mapToLong(layer -> row(layer) * (layer.windowed() ? kept : tokens))
                .sum();
        Comparator<Long> order = widest ? Comparator.reverseOrder() : Comparator.naturalOrder();
        long forgotten = estimate.storage().stream()
                .filter(MemoryEstimate.Storage::both)
                .map(InspectCommand::row)
                .sorted(order)
                .limit(lazy)
                .mapToLong(row -> row * (tokens - kept))
                .sum();
        return all - forgotten;
    }

    private static long row(MemoryEstimate.Storage layer) {
        return layer.keyBytes() + layer.valueBytes();
    }

    private static List<Integer> layers(KvPlan plan, IntPredicate which) {
        return IntStream.range(0, plan.layers()).filter(which).boxed().toList();
    }

    /** Which layers keep first and recent tokens only, or may. */
    private static String lazyLayers(KvPlan plan) {
        if (plan.window().isEmpty()) {
            return "";
        }
        List<String> parts = new ArrayList<>();
        List<Integer> fixed = layers(plan, plan::usesWindow);
        List<Integer> automatic = layers(plan, plan::mayBeLazy);
        if (!fixed.isEmpty()) {
            parts.add(Values.ranges(fixed));
        }
        if (!automatic.isEmpty()) {
            parts.add("those of " + Values.ranges(automatic) + " that turn out to be ("
                    + plan.automaticRetention().orElseThrow() + ")");
        }
        return String.join(", and ", parts)
                + Values.format(
                        ": they see the first %d and the last %d tokens",
                        plan.sinks(), plan.window().orElseThrow());
    }

    private void print(GgufFile file, ObjectNode facts, PrintWriter out) {
        line(out, "model", facts.path("name").asText(file.path().getFileName().toString()));
        if (facts.has("download_bytes")) {
            int files = facts.path("download_files").asInt();
            line(
                    out,
                    "not fetched",
                    Values.format(
                            "%s in %d file%s%s",
                            Values.bytes(facts.path("download_bytes").asLong()),
                            files,
                            files == 1 ? "" : "s",
                            files == 1 ? "" : "; weights below are those of the first"));
        }
        line(out, "architecture", facts.path("architecture").asText());
        line(out, "file type", types(parts(file)));
        line(
                out,
                "parameters",
                Values.format(
                        "%,d in %d tensors",
                        facts.path("parameters").asLong(), facts.path("tensors").asInt()));
        line(out, "layers", facts.path("layers").asText());
        String headsKv = facts.path("heads_kv").asText();
        line(
                out,
                "heads",
                facts.path("heads").asText() + (headsKv.isEmpty() ? "" : ", " + headsKv + " for keys and values"));
        line(out, "embedding", facts.path("embedding_length").asText());
        line(out, "vocabulary", facts.path("vocabulary_size").asText());
        line(out, "trained with", facts.path("context_length_train").asText() + " tokens of context");
        ObjectNode kv = (ObjectNode) facts.path("kv");
        if (kv.has("bytes")) {
            line(
                    out,
                    "KV cache",
                    Values.format(
                            "%s per token in %d of %d layers, keys %s, values %s",
                            Values.bytes(kv.path("bytes_per_token").asLong()),
                            kv.path("layers_with_storage").asInt(),
                            facts.path("layers").asInt(),
                            kv.path("type_k").asText(),
                            kv.path("type_v").asText()));
            line(
                    out,
                    "",
                    Values.format(
                            "%s at %d tokens%s",
                            Values.bytes(kv.path("bytes").asLong()),
                            kv.path("context_size").asInt(),
                            used(kv)));
        }
        if (kv.has("note")) {
            line(out, kv.has("bytes") ? "" : "KV cache", kv.path("note").asText());
        }
        plan(file, facts.path("layers").asInt()).ifPresent(plan -> {
            line(out, "lazy layers", lazyLayers(plan));
            plan.eviction().ifPresent(eviction -> line(out, "eviction", eviction(eviction, plan, kv)));
            if (plan.isStandard()) {
                line(out, "KV plan", "standard: every layer keeps keys and values of its own");
            } else {
                line(out, "KV plan", plan.toString());
                out.println();
                out.println(plan.picture());
            }
        });
    }

    private static String eviction(Eviction eviction, KvPlan plan, ObjectNode kv) {
        int tokens = kv.path("context_size").asInt();
        List<Integer> evicted = layers(
                plan, layer -> plan.isProducer(layer) && !eviction.skipped().contains(layer));
        String left = (eviction.method() == Eviction.Method.CORM ? "at most " : "")
                + span(evicted, layer -> eviction.budget(layer, plan.layers(), tokens));
        String skipped = eviction.skipped().isEmpty()
                ? ""
                : ", all of them in layers " + Values.ranges(List.copyOf(eviction.skipped()));
        String chunks = eviction.chunk().isEmpty()
                ? ""
                : Values.format(
                        ", and has %s on the way in chunks of %d",
                        span(evicted, layer -> eviction.peak(layer, plan.layers(), tokens)),
                        eviction.chunk().getAsInt());
        String answers = eviction.answerPart().isEmpty()
                ? ""
                : Values.format(
                        ", and at most %s during an answer, from which it evicts after each %d tokens",
                        span(evicted, layer -> eviction.answerPeak(layer, plan.layers(), 1, Math.max(0, tokens - 1))),
                        eviction.answerPart().getAsInt());
        return Values.format(
                "%s leaves %s of %d tokens when a prompt has ended%s%s%s",
                eviction.method().label(), left, tokens, skipped, chunks, answers);
    }

    private static String span(List<Integer> layers, IntToLongFunction what) {
        LongSummaryStatistics all = layers.stream().mapToLong(what::applyAsLong).summaryStatistics();
        return all.getMin() == all.getMax() ? String.valueOf(all.getMax()) : all.getMin() + " to " + all.getMax();
    }

    private static String used(ObjectNode kv) {
        long most = kv.path("bytes_in_use_most").asLong();
        long least = kv.path("bytes_in_use_least").asLong();
        String used = least < most ? Values.bytes(least) + " to " + Values.bytes(most) : Values.bytes(most);
        return most == kv.path("bytes").asLong() && least == most
                ? ""
                : " reserved, " + used + " in use when they are there";
    }

    /** What would be used: the plan asked for, the file's, or every layer its own. */
    private Optional<KvPlan> plan(GgufFile file, int layers) {
        KvPlan asked = kvOptions.plan(file);
        if (asked != null) {
            return Optional.of(asked);
        }
        return GgufKvPlan.read(file)
                .or(() -> layers < 1 || layers > KvPlan.MAX_LAYERS
                        ? Optional.empty()
                        : Optional.of(KvPlan.standard(layers)));
    }

    private static void line(PrintWriter out, String name, String value) {
        if (!value.isEmpty()) {
            out.println(Values.format("%-13s %s", name, value));
        }
    }

    private static String types(List<GgufFile> parts) {
        return bytesByType(parts).entrySet().stream()
                .sorted(Map.Entry.<String, Long>comparingByValue().reversed())
                .map(type -> type.getKey() + " (" + Values.bytes(type.getValue()) + ")")
                .collect(Collectors.joining(", "));
    }

    /** The files of a model that comes in several, of which this is the first, as llama.cpp names them. */
    private static List<GgufFile> parts(GgufFile file) {
        long count = file.integer(SPLIT_COUNT).orElse(1);
        String name = file.path().getFileName().toString();
        Matcher numbered = PART.matcher(name);
        if (count < 2 || !numbered.matches()) {
            return List.of(file);
        }
        if (Integer.parseInt(numbered.group(2)) != 1) {
            throw new InvalidModelException("'" + file.path() + "' is part " + Integer.parseInt(numbered.group(2))
                    + " of " + count + " of a model; inspect the first");
        }
        List<GgufFile> parts = new ArrayList<>(List.of(file));
        for (int i = 2; i <= count; i++) {
            parts.add(GgufFile.open(
                    file.path().resolveSibling(String.format("%s-%05d-of-%05d.gguf", numbered.group(1), i, count))));
        }
        return parts;
    }

    private static Stream<GgufTensor> tensors(List<GgufFile> parts) {
        return parts.stream().flatMap(part -> part.tensors().stream());
    }

    private static Map<String, Long> bytesByType(List<GgufFile> parts) {
        return tensors(parts)
                .collect(Collectors.groupingBy(
                        tensor -> tensor.type().label(), TreeMap::new, Collectors.summingLong(GgufTensor::bytes)));
    }

    private static long vocabularySize(GgufFile file) {
        int tokens = file.length("tokenizer.ggml.tokens");
        return tokens > 0
                ? tokens
                : file.integer(GgufKeys.vocabSize(file.architecture())).orElse(0);
    }

    /** A number, or where it differs from layer to layer an array. */
    private static void number(ObjectNode facts, String name, GgufFile file, String key) {
        if (file.type(key).filter(GgufValueType.ARRAY::equals).isPresent()) {
            file.integers(key).ifPresent(values -> Arrays.stream(values).forEach(facts.withArray(name)::add));
        } else {
            file.integer(key).ifPresent(value -> facts.put(name, value));
        }
    }
}
