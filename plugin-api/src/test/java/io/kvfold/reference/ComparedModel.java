package io.kvfold.reference;

import static java.util.Objects.requireNonNull;

import io.kvfold.KvPlan;
import io.kvfold.gguf.GgufKeys;
import io.kvfold.gguf.GgufKvPlan;
import io.kvfold.gguf.GgufType;
import io.kvfold.gguf.GgufValueType;
import io.kvfold.gguf.GgufWriter;
import io.kvfold.reference.Shape.Architecture;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;

/**
 * A small decoder for both sides: the reference, and the engine as a GGUF file.
 *
 * <p>Random weights are seeded and scaled so that activations have unit size: attention is neither uniform nor a single
 * key, every layer matters and logits spread over several units, while the float16 of flash attention moves them by less
 * than a hundredth.
 */
final class ComparedModel {
    private final Shape shape;
    private final int layers;
    private final Map<String, float[]> weights;

    private ComparedModel(Shape shape, int layers, Map<String, float[]> weights) {
        this.shape = shape;
        this.layers = layers;
        this.weights = weights;
    }

    /** A model with the given weights, by their Hugging Face names. */
    static ComparedModel of(Shape shape, int layers, Map<String, float[]> weights) {
        return new ComparedModel(shape, layers, weights);
    }

    /** A model with random weights in which every layer has key and value projections, so that it can serve any plan. */
    static ComparedModel forAnyPlan(Shape shape, int layers, long seed) {
        return forPlan(shape, KvPlan.standard(layers), seed);
    }

    /** A model with random weights in which only the producers of a plan have key and value projections. */
    static ComparedModel forPlan(Shape shape, KvPlan plan, long seed) {
        Random random = new Random(seed);
        int hidden = shape.hidden();
        Map<String, float[]> weights = new LinkedHashMap<>();
        weights.put("model.embed_tokens.weight", normal(random, shape.vocabulary() * hidden, 1));
        weights.put("model.norm.weight", around1(random, hidden));
        weights.put("lm_head.weight", normal(random, shape.vocabulary() * hidden, 1 / Math.sqrt(hidden)));
        for (int i = 0; i < plan.layers(); i++) {
            String layer = "model.layers." + i + ".";
            weights.put(layer + "input_layernorm.weight", around1(random, hidden));
            projection(weights, shape, layer + "self_attn.q", shape.queryWidth(), 1, random);
            if (plan.isProducer(i)) {
                projection(weights, shape, layer + "self_attn.k", shape.kvWidth(), 1, random);
                projection(weights, shape, layer + "self_attn.v", shape.kvWidth(), 1, random);
            }
            weights.put(
                    layer + "self_attn.o_proj.weight",
                    normal(random, hidden * shape.queryWidth(), 1 / Math.sqrt(shape.queryWidth())));
            weights.put(layer + "post_attention_layernorm.weight", around1(random, hidden));
            for (String part : List.of("gate", "up", "down")) {
                weights.put(
                        layer + "mlp." + part + "_proj.weight",
                        normal(random, shape.feedForward() * hidden, 1 / Math.sqrt(hidden)));
            }
        }
        return new ComparedModel(shape, plan.layers(), weights);
    }

    /** A copy of the weights by their Hugging Face names, as {@link #of} takes them. */
    Map<String, float[]> weights() {
        return new LinkedHashMap<>(weights);
    }

    ReferenceModel reference(KvPlan plan) {
        return new ReferenceModel(shape, plan, weights);
    }

    /** Seeded token ids of this model's vocabulary. */
    int[] tokens(int count, long seed) {
        return new Random(seed).ints(count, 0, shape.vocabulary()).toArray();
    }

    /** Writes the model without a plan in its metadata. */
    Path write(Path file) throws IOException {
        writer().put("tokenizer.ggml.model", "none").write(file);
        return file;
    }

    /** Writes the model with a plan in its metadata. */
    Path write(Path file, KvPlan plan) throws IOException {
        GgufWriter writer = writer().put("tokenizer.ggml.model", "none");
        GgufKvPlan.write(writer, architecture(), plan);
        writer.write(file);
        return file;
    }

    /** Writes the model with a plan and a tokenizer of one character per token, for requests that answer with text. */
    Path writeForText(Path file, KvPlan plan) throws IOException {
        List<String> tokens = new ArrayList<>(List.of("<unk>", "<s>", "</s>"));
        long[] types = new long[shape.vocabulary()]; // llama_token_type: 1 normal, 2 unknown, 3 control
        Arrays.fill(types, 1);
        types[0] = 2;
        types[1] = 3;
        types[2] = 3;
        while (tokens.size() < shape.vocabulary()) {
            tokens.add(String.valueOf((char) ('!' + tokens.size() - 3)));
        }
        GgufWriter writer = writer().put("tokenizer.ggml.model", "llama")
                .put("tokenizer.ggml.tokens", tokens)
                .put("tokenizer.ggml.scores", new float[shape.vocabulary()])
                .put("tokenizer.ggml.token_type", GgufValueType.INT32, types);
        GgufKvPlan.write(writer, architecture(), plan);
        writer.write(file);
        return file;
    }

    String architecture() {
        return shape.architecture().name().toLowerCase(Locale.ROOT);
    }

    /** Everything but a tokenizer and a plan. */
    GgufWriter writer() {
        String architecture = architecture();
        GgufWriter writer = new GgufWriter()
                .put(GgufKeys.ARCHITECTURE, architecture)
                .put(GgufKeys.NAME, "random weights")
                .put(GgufKeys.blockCount(architecture), layers)
                .put(GgufKeys.contextLength(architecture), 1 << 16)
                .put(GgufKeys.embeddingLength(architecture), shape.hidden())
                .put(GgufKeys.feedForwardLength(architecture), shape.feedForward())
                .put(GgufKeys.headCount(architecture), shape.heads())
                .put(GgufKeys.headCountKv(architecture), shape.kvHeads())
                .put(GgufKeys.keyLength(architecture), shape.headSize())
                .put(GgufKeys.valueLength(architecture), shape.headSize())
                .put(GgufKeys.vocabSize(architecture), shape.vocabulary())
                .put(architecture + ".rope.dimension_count", shape.headSize())
                .put(architecture + ".rope.freq_base", (float) shape.ropeTheta())
                .put(architecture + ".attention.layer_norm_rms_epsilon", (float) shape.epsilon());
        boolean fused = shape.architecture() == Architecture.PHI3;
        weights.forEach((name, values) -> {
            if (fused && name.endsWith("mlp.gate_proj.weight")) {
                return;
            }
            float[] data = isRotated(name) && shape.architecture() == Architecture.LLAMA
                    ? paired(values)
                    : fused && name.endsWith("mlp.up_proj.weight")
                            ? joined(requireNonNull(weights.get(name.replace("up_proj", "gate_proj"))), values)
                            : values;
            writer.tensor(ggufName(name), GgufType.F32, dimensions(name, data.length), out -> {
                ByteBuffer bytes = ByteBuffer.allocate(4 * data.length).order(ByteOrder.LITTLE_ENDIAN);
                bytes.asFloatBuffer().put(data);
                out.write(bytes.array());
            });
        });
        return writer;
    }

    private static float[] joined(float[] first, float[] second) {
        float[] both = Arrays.copyOf(first, first.length + second.length);
        System.arraycopy(second, 0, both, first.length, second.length);
        return both;
    }

    private static boolean isRotated(String name) {
        return name.contains("self_attn.q_proj.") || name.contains("self_attn.k_proj.");
    }

    /**
     * The rows of a projection in the order that llama.cpp wants for its llama architecture, where rotary embedding
     * pairs neighbours: within each head, rows d and d + headSize / 2 become rows 2d and 2d + 1.
     */
    private float[] paired(float[] values) {
        int size = shape.headSize();
        int columns = shape.hidden();
        float[] ordered = new float[values.length];
        for (int row = 0; row < values.length / columns; row++) {
            int inHead = row % size;
            int target = row - inHead + (inHead < size / 2 ? 2 * inHead : 2 * (inHead - size / 2) + 1);
            System.arraycopy(values, row * columns, ordered, target * columns, columns);
        }
        return ordered;
    }

    private List<Long> dimensions(String name, int elements) {
        if (name.endsWith("norm.weight") || name.endsWith(".bias")) {
            return List.of((long) elements);
        }
        int columns = switch (name.substring(name.lastIndexOf('.', name.length() - 8) + 1)) {
            case "o_proj.weight" -> shape.queryWidth();
            case "down_proj.weight" -> shape.feedForward();
            default -> shape.hidden();
        };
        return List.of((long) columns, (long) elements / columns);
    }

    private static String ggufName(String name) {
        return name.replace("model.embed_tokens", "token_embd")
                .replace("model.norm", "output_norm")
                .replace("lm_head", "output")
                .replace("model.layers", "blk")
                .replace("input_layernorm", "attn_norm")
                .replace("post_attention_layernorm", "ffn_norm")
                .replace("self_attn.o_proj", "attn_output")
                .replace("self_attn.", "attn_")
                .replace("mlp.", "ffn_")
                .replace("_proj", "");
    }

    private static void projection(
            Map<String, float[]> weights, Shape shape, String name, int width, double gain, Random random) {
        double deviation = gain / Math.sqrt(shape.hidden());
        weights.put(name + "_proj.weight", normal(random, width * shape.hidden(), deviation));
        if (shape.architecture() == Architecture.QWEN2) {
            weights.put(name + "_proj.bias", normal(random, width, 0.5));
        }
        if (shape.architecture() == Architecture.QWEN3 && !name.endsWith(".v")) {
            weights.put(name + "_norm.weight", around1(random, shape.headSize()));
        }
    }

    private static float[] normal(Random random, int count, double deviation) {
        float[] values = new float[count];
        for (int k = 0; k < count; k++) {
            values[k] = (float) (deviation * random.nextGaussian());
        }
        return values;
    }

    private static float[] around1(Random random, int count) {
        float[] values = normal(random, count, 0.2);
        for (int k = 0; k < count; k++) {
            values[k] += 1;
        }
        return values;
    }
}
