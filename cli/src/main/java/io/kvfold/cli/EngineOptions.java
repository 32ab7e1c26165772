package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.KvPlan;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKeys;
import io.kvfold.gguf.GgufKvPlan;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** The options of every command that loads a model. */
final class EngineOptions {

    static final String MODEL = "The model: a GGUF file, hf:owner/name[:quant|/file][@revision] on a hub, which is"
            + " fetched unless it is cached, or demo:folded or demo:standard, tiny ones that come along. Default:"
            + " demo:folded.";

    private final Supplier<Engine.Builder> builders;

    @Spec(Spec.Target.MIXEE)
    @SuppressWarnings("NullAway.Init")
    private CommandSpec command;

    @Option(
            names = {"-m", "--model"},
            paramLabel = "FILE",
            converter = ModelFile.Converter.class,
            description = MODEL)
    private @Nullable ModelFile model;

    @Mixin
    private final ComputeOptions computeOptions = new ComputeOptions();

    @Option(
            names = "--kv-budget",
            paramLabel = "SIZE",
            converter = Values.SizeConverter.class,
            description = "Memory that keys and values may take, such as 512MiB or 8GiB. Requests wait until theirs is"
                    + " free. Default: 60%% of what is free, for which nothing waits.")
    private @Nullable Long kvBudget;

    @Mixin
    private final KvOptions kvOptions = new KvOptions();

    @Option(
            names = {"-o", "--option"},
            paramLabel = "NAME=VALUE",
            mapFallbackValue = "true",
            description = "Any other option of llama-server by its long name, such as top-p=0.9 or mlock. Repeatable;"
                    + " see kvfold options.")
    private final Map<String, String> options = new LinkedHashMap<>();

    EngineOptions(Supplier<Engine.Builder> builders) {
        this.builders = builders;
    }

    /** Whether the command line names a model. */
    boolean hasModel() {
        return model != null;
    }

    /** Takes a model that was not named on the command line. */
    void choose(ModelFile chosen) {
        model = chosen;
    }

    /** The model, whose header need not be right. */
    Path model() {
        return modelFile().path();
    }

    private ModelFile modelFile() {
        return model == null ? ModelFile.DEMO_FOLDED : model;
    }

    /** The plan that was asked for, else the file's own, else every layer its own. */
    KvPlan plan() {
        GgufFile file = GgufFile.open(model());
        KvPlan asked = kvOptions.plan(file);
        if (asked != null) {
            return asked;
        }
        return GgufKvPlan.read(file).orElseGet(() -> KvPlan.parse("standard", layers(file)));
    }

    /** Tokens that the model was trained with; 1 where its file does not say. */
    long trainedContext() {
        GgufFile file = GgufFile.open(model());
        return file.integer(GgufKeys.contextLength(file.architecture())).orElse(1);
    }

    /** What the keys and values of so many tokens take under a plan. */
    long kvBytes(KvPlan plan, long tokens) {
        return kvOptions.estimate(GgufFile.open(model()), plan).kvBytes(tokens);
    }

    private static int layers(GgufFile file) {
        String key = GgufKeys.blockCount(file.architecture());
        return (int) Math.min(file.integer(key).orElse(0), Integer.MAX_VALUE);
    }

    /**
     * Loads the model, with a progress bar where that takes a while.
     *
     * @param contextSize tokens of one request; null for those that the model was trained with
     */
    Engine open(@Nullable Integer contextSize, int slots) {
        return open(contextSize, slots, askedPlan(), kvOptions.hasTypes());
    }

    /**
     * For sequences that are evaluated, on a context of their own, so that they may be longer than what the model was trained
     * with.
     */
    Engine openToEvaluate(int tokens) {
        return openToEvaluate(tokens, askedPlan());
    }

    /** The same with another KV plan than the one asked for. */
    Engine openToEvaluate(int tokens, @Nullable KvPlan plan) {
        return open(atMostTrained(tokens), 1, plan, kvOptions.hasTypes());
    }

    /** The same with the whole KV cache in f16: without the KV plan and the types asked for. */
    Engine openFullToEvaluate(int tokens) {
        return open(atMostTrained(tokens), 1, null, false);
    }

    private @Nullable KvPlan askedPlan() {
        return kvOptions.hasPlan() ? kvOptions.plan(GgufFile.open(model())) : null;
    }

    private int atMostTrained(int tokens) {
        return (int) Math.min(tokens, Math.max(1, trainedContext()));
    }

    private Engine open(@Nullable Integer contextSize, int slots, @Nullable KvPlan plan, boolean withTypes) {
        if (model == null) {
            ModelFile.introduceDefault(command, kvOptions, contextSize, slots);
            model = ModelFile.DEMO_FOLDED;
        }
        Engine.Builder builder = builders.get().slots(slots);
        modelFile().addTo(builder);
        if (contextSize != null) {
            builder.contextSize(contextSize);
        }
        if (kvBudget != null) {
            builder.kvBudget(kvBudget);
        }
        computeOptions.apply(builder);
        if (withTypes) {
            builder.kvCacheTypes(kvOptions.keys(), kvOptions.values());
        }
        if (plan != null) {
            builder.kvPlan(plan);
        }
        options.forEach((name, value) -> builder.option(name, Values.option(value)));
        try (Progress progress = new Progress("loading", 100, "%")) {
            builder.loadProgress(fraction -> {
                progress.stepTo((long) (fraction * 100));
                return true;
            });
            return builder.open();
        }
    }
}
