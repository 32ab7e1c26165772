package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.InvalidRequestException;
import io.kvfold.KvPlan;
import io.kvfold.demo.DemoModel;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKeys;
import io.kvfold.gguf.MemoryEstimate;
import io.kvfold.hub.LocalModel;
import io.kvfold.hub.ModelName;
import io.kvfold.hub.Models;
import io.kvfold.hub.RemoteModel;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Locale;
import java.util.Optional;
import java.util.function.Supplier;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.TypeConversionException;

/**
 * A model as the command line names it: a GGUF file, a demonstration model, which is unpacked when it is needed, or one on a
 * hub, which is fetched then.
 */
final class ModelFile {

    private static final String DEMO_PREFIX = "demo:";

    static final ModelFile DEMO_STANDARD = of(DemoModel.STANDARD);
    static final ModelFile DEMO_FOLDED = of(DemoModel.FOLDED);

    /** What a model is called on a hub, and where that is. */
    private static final class HubModel {
        private final ModelName name;
        private final Models models;
        private @Nullable LocalModel fetched;

        HubModel(ModelName name, Models models) {
            this.name = name;
            this.models = models;
        }

        LocalModel fetch() {
            LocalModel model = fetched;
            if (model == null) {
                try (DownloadProgress progress = new DownloadProgress()) {
                    model = models.get(name, progress);
                }
                fetched = model;
            }
            return model;
        }
    }

    private final String text;
    private final Supplier<Path> file;
    private final @Nullable HubModel hub;

    private ModelFile(String text, Supplier<Path> file, @Nullable HubModel hub) {
        this.text = text;
        this.file = file;
        this.hub = hub;
    }

    private static ModelFile of(DemoModel demo) {
        return new ModelFile(name(demo), demo::file, null);
    }

    private static ModelFile of(HubModel hub) {
        return new ModelFile(hub.name.toString(), () -> hub.fetch().file(), hub);
    }

    /** The file, which is fetched first if that is needed. Whether a path that was given leads anywhere is not checked. */
    Path path() {
        return file.get();
    }

    /** Whether it is what a command takes that is given none. */
    boolean isDefault() {
        return text.equals(DEMO_FOLDED.text);
    }

    /** Names the model to a builder. */
    void addTo(Engine.Builder builder) {
        if (hub == null) {
            builder.model(file.get());
        } else {
            builder.model(hub.fetch());
        }
    }

    /** The file's header. */
    GgufFile header() {
        return GgufFile.open(path());
    }

    /** What a hub has of it, if it is there and nowhere on this machine. */
    Optional<RemoteModel> remote() {
        return hub == null || hub.models.cached(hub.name).isPresent()
                ? Optional.empty()
                : Optional.of(hub.models.look(hub.name));
    }

    @Override
    public String toString() {
        return text;
    }

    /**
     * Tells on standard error that a command runs on the folded demonstration model because it was given none, and what
     * the KV cache takes, with the plan and types asked for and without any plan.
     *
     * @param contextSize tokens of one request; null for those that the model was trained with
     */
    static void introduceDefault(CommandSpec command, KvOptions options, @Nullable Integer contextSize, int slots) {
        GgufFile model = DEMO_FOLDED.header();
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

    /** Takes a path, {@code demo:} and a name, or a name on a hub. */
    static final class Converter implements ITypeConverter<ModelFile> {

        private final Supplier<Models> models;

        Converter(Supplier<Models> models) {
            this.models = models;
        }

        @Override
        public ModelFile convert(String text) {
            if (ModelName.isName(text)) {
                try {
                    return of(new HubModel(ModelName.parse(text), models.get()));
                } catch (InvalidRequestException e) {
                    throw new TypeConversionException(e.getMessage());
                }
            }
            if (!text.startsWith(DEMO_PREFIX)) {
                try {
                    Path file = Path.of(text);
                    return new ModelFile(text, () -> file, null);
                } catch (InvalidPathException e) {
                    throw new TypeConversionException(e.getMessage());
                }
            }
            return Arrays.stream(DemoModel.values())
                    .filter(model -> name(model).equals(text))
                    .findFirst()
                    .map(ModelFile::of)
                    .orElseThrow(() -> new TypeConversionException("no demonstration model is called " + text
                            + "; there are "
                            + Arrays.stream(DemoModel.values())
                                    .map(ModelFile::name)
                                    .collect(Collectors.joining(" and "))));
        }
    }
}
