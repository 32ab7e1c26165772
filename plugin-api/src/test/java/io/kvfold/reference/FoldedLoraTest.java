package io.kvfold.reference;

import static java.util.Objects.requireNonNull;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.KvfoldException;
import io.kvfold.Logits;
import io.kvfold.RealLibrary;
import io.kvfold.gguf.GgufKeys;
import io.kvfold.gguf.GgufType;
import io.kvfold.gguf.GgufWriter;
import io.kvfold.reference.Shape.Architecture;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** A LoRA adapter beside a folded model gives the logits of a model with the adapter merged into its weights. */
class FoldedLoraTest {
    private static final int RANK = 3;
    private static final float ALPHA = 6;
    private static final int LAYERS = 6;
    private static final Shape SHAPE = Shape.tiny(Architecture.LLAMA);

    @TempDir
    private static Path folder;

    @BeforeAll
    static void needsTheLibrary() {
        RealLibrary.require();
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "standard",
                "0_0_2_2_4_4",
                "0_4x4_5;passes=9",
                "0_2_1_5_4_3;strict;exact",
                "0s_1s_2s_3_3_3;window=5"
            })
    void anAdapterEqualsMergedWeights(String text) throws IOException {
        KvPlan plan = KvPlan.parse(text, LAYERS);
        Map<String, float[]> weights = ComparedModel.forPlan(SHAPE, plan, 1).weights();
        Path adapter = writeAdapter(plan, weights);
        int[] tokens = ComparedModel.of(SHAPE, LAYERS, weights).tokens(30, 2);
        Path base = ComparedModel.forPlan(SHAPE, plan, 1).write(folder.resolve("base.gguf"), plan);
        Path merged = ComparedModel.of(SHAPE, LAYERS, weights).write(folder.resolve("merged.gguf"), plan);

        double[][] expected = logits(merged, null, tokens);
        assertThat(LogitDifference.greatest(expected, logits(base, null, tokens)))
                .isGreaterThan(0.1);
        assertThat(LogitDifference.greatest(expected, logits(base, adapter, tokens)))
                .isLessThan(1e-3);
    }

    @Test
    void anAdapterForProjectionsThatAFoldedLayerLacksIsRefused() throws IOException {
        KvPlan standard = KvPlan.standard(LAYERS);
        Path adapter =
                writeAdapter(standard, ComparedModel.forPlan(SHAPE, standard, 1).weights());
        KvPlan plan = KvPlan.parse("0_0_2_2_4_4");
        Path base = ComparedModel.forPlan(SHAPE, plan, 1).write(folder.resolve("base.gguf"), plan);
        assertThatThrownBy(() -> open(base, adapter).close())
                .isInstanceOf(KvfoldException.class)
                .hasMessageContaining("blk.1.attn_v");
    }

    /** An adapter for three projections of each layer; merges it into the weights as it goes. */
    private static Path writeAdapter(KvPlan plan, Map<String, float[]> weights) throws IOException {
        Random random = new Random(5);
        GgufWriter writer = new GgufWriter()
                .put("general.type", "adapter")
                .put("adapter.type", "lora")
                .put("adapter.lora.alpha", ALPHA)
                .put(GgufKeys.ARCHITECTURE, "llama");
        for (int layer = 0; layer < plan.layers(); layer++) {
            String name = "model.layers." + layer + ".";
            adapt(
                    writer,
                    weights,
                    name + "self_attn.o_proj",
                    "blk." + layer + ".attn_output",
                    SHAPE.queryWidth(),
                    random);
            adapt(writer, weights, name + "mlp.up_proj", "blk." + layer + ".ffn_up", SHAPE.hidden(), random);
            if (plan.isProducer(layer)) {
                adapt(writer, weights, name + "self_attn.v_proj", "blk." + layer + ".attn_v", SHAPE.hidden(), random);
            }
        }
        Path file = folder.resolve("adapter.gguf");
        writer.write(file);
        return file;
    }

    private static void adapt(
            GgufWriter writer, Map<String, float[]> weights, String name, String ggufName, int columns, Random random) {
        float[] merged = requireNonNull(weights.get(name + ".weight")).clone();
        int rows = merged.length / columns;
        float[] a = gaussian(RANK * columns, random);
        float[] b = gaussian(rows * RANK, random);
        for (int row = 0; row < rows; row++) {
            for (int column = 0; column < columns; column++) {
                double sum = 0;
                for (int r = 0; r < RANK; r++) {
                    sum += (double) b[row * RANK + r] * a[r * columns + column];
                }
                merged[row * columns + column] += (float) (ALPHA / RANK * sum);
            }
        }
        weights.put(name + ".weight", merged);
        tensor(writer, ggufName + ".weight.lora_a", a, columns, RANK);
        tensor(writer, ggufName + ".weight.lora_b", b, RANK, rows);
    }

    private static float[] gaussian(int count, Random random) {
        float[] values = new float[count];
        for (int k = 0; k < count; k++) {
            values[k] = (float) (0.1 * random.nextGaussian());
        }
        return values;
    }

    private static void tensor(GgufWriter writer, String name, float[] values, long columns, long rows) {
        writer.tensor(name, GgufType.F32, List.of(columns, rows), out -> {
            ByteBuffer bytes = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
            bytes.asFloatBuffer().put(values);
            out.write(bytes.array());
        });
    }

    private static Engine open(Path file, @Nullable Path adapter) {
        Engine.Builder builder = Engine.builder()
                .model(file)
                .contextSize(64)
                .slots(1)
                .threads(1)
                .ubatchSize(16)
                .flashAttention(FlashAttention.OFF)
                .kvCacheTypes(KvType.F32, KvType.F32);
        return (adapter == null ? builder : builder.option("lora", adapter.toString())).open();
    }

    private static double[][] logits(Path file, @Nullable Path adapter, int[] tokens) {
        try (Engine engine = open(file, adapter)) {
            Logits logits = engine.evaluate(tokens);
            double[][] rows = new double[tokens.length][logits.vocabularySize()];
            for (int t = 0; t < tokens.length; t++) {
                for (int id = 0; id < rows[t].length; id++) {
                    rows[t][id] = logits.get(t, id);
                }
            }
            return rows;
        }
    }
}
