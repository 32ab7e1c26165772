package io.kvfold.cli;

import io.kvfold.KvPlan;
import io.kvfold.demo.DemoModel;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKeys;
import io.kvfold.gguf.MemoryEstimate;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Locale;
import java.util.Objects;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.TypeConversionException;

/** A model as the command line names it: a GGUF file, or a demonstration model, which is unpacked when it is needed. */
final class ModelFile {

    private static final String DEMO_PREFIX = "demo:";

    static final ModelFile DEMO_STANDARD = new ModelFile(DemoModel.STANDARD, null);
    static final ModelFile DEMO_FOLDED = new ModelFile(DemoModel.FOLDED, null);

    private final @Nullable DemoModel demo;
    private final @Nullable Path file;

    private ModelFile(@Nullable DemoModel demo, @Nullable Path file) {
        this.demo = demo;
        this.file = file;
    }

    /** The file. Whether a path that was given leads anywhere is not checked. */
    Path path() {
        return demo != null ? demo.file() : Objects.requireNonNull(file);
    }

    @Override
    public String toString() {
        return demo != null ? name(demo) : String.valueOf(file);
    }

    /**
     * Tells on standard error that a command runs on the folded demonstration model because it was given none, and what
     * the KV cache takes, with the plan and types asked for and without any plan.
     *
     * @param contextSize tokens of one request; null for those that the model was trained with
     */
    static void introduceDefault(CommandSpec command, KvOptions options, @Nullable Integer contextSize, int slots) {
        GgufFile model = GgufFile.open(DEMO_FOLDED.path());
        MemoryEstimate folded = options.estimate(model, options.plan(model));
        MemoryEstimate standard = options.estimate(model, KvPlan.standard(folded.layers()));
        long trained =
                model.integer(GgufKeys.contextLength(model.architecture())).orElse(1);
        long tokens = (contextSize != null ? contextSize : trained) * slots;
        command.commandLine()
                .getErr()
                .println(Values.format(
                        "kvfold: no --model, so this is %s, a tiny one to try: KV cache %s, standard plan %s, for %d"
                                + " tokens",
                        DEMO_FOLDED,
                        Values.bytes(bytes(folded, tokens, slots)),
                        Values.bytes(bytes(standard, tokens, slots)),
                        tokens));
    }

    private static long bytes(MemoryEstimate estimate, long tokens, int slots) {
        return estimate.kvBytes(tokens, slots, true, ComputeOptions.DEFAULT_UBATCH);
    }

    private static String name(DemoModel model) {
        return DEMO_PREFIX + model.name().toLowerCase(Locale.ROOT);
    }

    /** Takes a path, or {@code demo:} and a name. */
    static final class Converter implements ITypeConverter<ModelFile> {
        @Override
        public ModelFile convert(String text) {
            if (!text.startsWith(DEMO_PREFIX)) {
                try {
                    return new ModelFile(null, Path.of(text));
                } catch (InvalidPathException e) {
                    throw new TypeConversionException(e.getMessage());
                }
            }
            return Arrays.stream(DemoModel.values())
                    .filter(model -> name(model).equals(text))
                    .findFirst()
                    .map(model -> new ModelFile(model, null))
                    .orElseThrow(() -> new TypeConversionException("no demonstration model is called " + text
                            + "; there are "
                            + Arrays.stream(DemoModel.values())
                                    .map(ModelFile::name)
                                    .collect(Collectors.joining(" and "))));
        }
    }
}
