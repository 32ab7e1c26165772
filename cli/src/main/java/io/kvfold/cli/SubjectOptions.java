package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.bench.Subject;
import io.kvfold.gguf.GgufFile;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.Supplier;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** What a command runs in turn: every model with every plan, every KV type and every value of further options. */
final class SubjectOptions {

    private static final String FILE_PLAN = "file";

    private final Supplier<Engine.Builder> builders;

    @Spec(Spec.Target.MIXEE)
    @SuppressWarnings("NullAway.Init")
    private CommandSpec command;

    @Option(
            names = {"-m", "--model"},
            split = ",",
            paramLabel = "FILE",
            converter = ModelFile.Converter.class,
            description =
                    "The models: GGUF files, names on a hub (hf:owner/name), or demo:folded or demo:standard, tiny ones"
                            + " that come along.")
    private List<ModelFile> models = List.of();

    @Option(
            names = {"--plan", "--kv-plan"},
            split = ",",
            paramLabel = "PLAN",
            description =
                    "The KV plans, such as standard, cla:2 or lckv:2; file means the model file's own. Default: file.")
    private List<String> plans = List.of(FILE_PLAN);

    @Option(
            names = "--kv-type",
            split = ",",
            paramLabel = "TYPE",
            converter = KvOptions.KvTypeConverter.class,
            description = "How keys and values are stored. Default: f16.")
    private List<KvType> types = List.of();

    @Option(
            names = {"-o", "--option"},
            paramLabel = "NAME=VALUE[,VALUE...]",
            mapFallbackValue = "true",
            description = "Any other option by its long name, such as cpu-attention=fused,upstream, with the values to"
                    + " compare. Repeatable; see kvfold options.")
    private Map<String, String> options = new LinkedHashMap<>();

    @Mixin
    private final ComputeOptions computeOptions = new ComputeOptions();

    SubjectOptions(Supplier<Engine.Builder> builders) {
        this.builders = builders;
    }

    /** Whether models, plans or types were given. */
    boolean isAsked() {
        return !models.isEmpty()
                || plans.size() > 1
                || types.size() > 1
                || settings().size() > 1;
    }

    /** The types asked for, else these. */
    List<KvType> typesOr(KvType... others) {
        return types.isEmpty() ? List.of(others) : types;
    }

    int ubatchSize() {
        return computeOptions.ubatchSize();
    }

    /** In the order of the command line; of the folded demonstration model if it names none. */
    List<Subject> subjects() {
        if (models.isEmpty()) {
            ModelFile.introduceDefault(command, new KvOptions(), null, 1);
        }
        return subjects(models.isEmpty() ? List.of(ModelFile.DEMO_FOLDED) : models);
    }

    /** The same with other models than the ones asked for. */
    List<Subject> subjects(List<ModelFile> models) {
        List<Subject> subjects = new ArrayList<>();
        for (ModelFile model : models) {
            GgufFile file = model.header();
            for (String plan : plans) {
                KvPlan parsed = plan.equals(FILE_PLAN) ? null : KvOptions.plan(plan, file);
                for (KvType type : typesOr(KvType.F16)) {
                    settings().forEach(given -> subjects.add(new Subject(file.path(), plan, parsed, type, given)));
                }
            }
        }
        return subjects;
    }

    /** Every combination of the options' values, the last option's changing fastest. */
    private List<SortedMap<String, String>> settings() {
        List<SortedMap<String, String>> settings = List.of(new TreeMap<>());
        for (Map.Entry<String, String> option : options.entrySet()) {
            settings = settings.stream()
                    .flatMap(given -> Arrays.stream(option.getValue().split(",", -1))
                            .map(value -> {
                                SortedMap<String, String> more = new TreeMap<>(given);
                                more.put(option.getKey(), value);
                                return more;
                            }))
                    .toList();
        }
        return settings;
    }

    /** An engine for one of them, without context size and slots. */
    Engine.Builder engine(Subject subject) {
        Engine.Builder builder = builders.get().model(subject.model()).kvCacheTypes(subject.type(), subject.type());
        computeOptions.apply(builder);
        if (subject.plan() != null) {
            builder.kvPlan(subject.plan());
        }
        subject.options().forEach((name, value) -> builder.option(name, Values.option(value)));
        return builder;
    }
}
