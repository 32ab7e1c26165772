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

    @Option(
            names = {"-c", "--ctx-size", "--ctx"},
            paramLabel = "N",
            description = "Tokens that one request may use, prompt and answer together. Default: what the model was"
                    + " trained with.")
    private @Nullable Integer contextSize;

    @Mixin
    private final ComputeOptions computeOptions = new ComputeOptions();

    @Option(names = "--slots", paramLabel = "N", description = "Requests that are computed side by side. Default: 1.")
    private int slots = 1;

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

    @Nullable
    Integer contextSize() {
        return contextSize;
    }

    /** Loads the model, with a progress bar where that takes a while. */
    Engine open() {
        return open(contextSize);
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

    private static int layers(GgufFile file) {
        String key = GgufKeys.blockCount(file.architecture());
        return (int) Math.min(file.integer(key).orElse(0), Integer.MAX_VALUE);
    }

    /** The same with another context size than the one asked for. */
    Engine open(@Nullable Integer contextSize) {
        return open(contextSize, kvOptions.hasPlan() ? kvOptions.plan(GgufFile.open(model())) : null);
    }

    /** The same with the whole KV cache in f16: without the KV plan and the types asked for. */
    Engine openFull(int contextSize) {
        return open(contextSize, null, false);
    }

    /** The same with another context size and KV plan than those asked for. */
    Engine open(@Nullable Integer contextSize, @Nullable KvPlan plan) {
        return open(contextSize, plan, kvOptions.hasTypes());
    }

    private Engine open(@Nullable Integer contextSize, @Nullable KvPlan plan, boolean withTypes) {
        if (model == null) {
            ModelFile.introduceDefault(command, kvOptions, contextSize, slots);
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
