package io.kvfold.cli;

import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.KvfoldException;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKeys;
import io.kvfold.gguf.GgufType;
import io.kvfold.gguf.MemoryEstimate;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.ITypeConverter;
import picocli.CommandLine.Option;
import picocli.CommandLine.TypeConversionException;

/** The options that shape the KV cache. */
final class KvOptions {

    @Option(
            names = "--kv-type",
            paramLabel = "TYPE",
            converter = KvTypeConverter.class,
            description = "How keys and values are stored: f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0 or iq4_nl."
                    + " Default: f16.")
    private @Nullable KvType both;

    @Option(
            names = "--kv-type-k",
            paramLabel = "TYPE",
            converter = KvTypeConverter.class,
            description = "The same for the keys only.")
    private @Nullable KvType keys;

    @Option(
            names = "--kv-type-v",
            paramLabel = "TYPE",
            converter = KvTypeConverter.class,
            description = "The same for the values only; a quantised type needs flash attention.")
    private @Nullable KvType values;

    @Option(
            names = "--kv-plan",
            paramLabel = "PLAN",
            description =
                    "Which layer reads whose keys and values: the layer to read for each layer, such as 0_0_2_2, or"
                            + " a name such as cla:2, lckv:2, streaming, yoco:1024 or standard. Default: what the"
                            + " model file says.")
    private @Nullable String plan;

    boolean hasTypes() {
        return both != null || keys != null || values != null;
    }

    KvType keys() {
        return keys != null ? keys : both != null ? both : KvType.F16;
    }

    KvType values() {
        return values != null ? values : both != null ? both : KvType.F16;
    }

    boolean hasPlan() {
        return plan != null;
    }

    /**
     * The plan that was asked for, null if none was.
     *
     * @param model has the layers that a name such as {@code cla:2} is about
     */
    @Nullable
    KvPlan plan(GgufFile model) {
        return plan == null ? null : plan(plan, model);
    }

    /**
     * What the keys and values of a model take, stored as asked.
     *
     * @param plan null for the model file's own
     */
    MemoryEstimate estimate(GgufFile model, @Nullable KvPlan plan) {
        return MemoryEstimate.of(model, plan, type(keys()), type(values()));
    }

    private static GgufType type(KvType type) {
        return GgufType.ofLabel(type.text()).orElseThrow();
    }

    static KvPlan plan(String text, GgufFile model) {
        long layers = model.integer(GgufKeys.blockCount(model.architecture())).orElse(0);
        return layers < 1 || layers > KvPlan.MAX_LAYERS ? KvPlan.parse(text) : KvPlan.parse(text, (int) layers);
    }

    /** Takes ggml's names, in any case. */
    static final class KvTypeConverter implements ITypeConverter<KvType> {
        @Override
        public KvType convert(String text) {
            try {
                return KvType.parse(text);
            } catch (KvfoldException e) {
                throw new TypeConversionException(e.getMessage());
            }
        }
    }
}
