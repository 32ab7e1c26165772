package io.kvfold.convert;

import io.kvfold.InvalidModelException;
import io.kvfold.KvPlan;
import io.kvfold.gguf.GgufType;
import io.kvfold.gguf.GgufWriter;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.function.Consumer;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/** Finds the tensors of a model in a folder, checks their shapes and declares them in a GGUF file. */
final class Weights {

    private static final String PREFIX = "model.";
    private static final String EMBEDDINGS = "embed_tokens.weight";
    private static final String OUTPUT = "lm_head.weight";

    private final HfConfig config;
    private final Safetensors source;
    private final OutputType outputType;
    private final GgufWriter writer;
    private final String prefix; // of all names but the output matrix
    private final Set<String> used = new HashSet<>();
    private int declared;

    private Weights(HfConfig config, Safetensors source, OutputType outputType, GgufWriter writer) {
        this.config = config;
        this.source = source;
        this.outputType = outputType;
        this.writer = writer;
        // what is saved of a model without its head
        boolean bare = source.find(PREFIX + EMBEDDINGS) == null && source.find(EMBEDDINGS) != null;
        this.prefix = bare ? "" : PREFIX;
    }

    /**
     * Declares every tensor that llama.cpp wants of this architecture. Layers that produce no keys and values have no k
     * and v tensors.
     *
     * @return how many
     * @throws InvalidModelException if a tensor is missing, has another shape than the configuration says, or is unknown
     */
    static int declare(
            HfConfig config, Safetensors source, OutputType outputType, GgufWriter writer, Consumer<String> warnings) {
        Weights weights = new Weights(config, source, outputType, writer);
        weights.declareAll(warnings);
        weights.checkNothingIsLeft(warnings);
        return weights.declared;
    }

    private void declareAll(Consumer<String> warnings) {
        config.rope().frequencyFactors(config.headSize()).ifPresent(this::declareFrequencyFactors);
        matrix("token_embd.weight", prefix + EMBEDDINGS, config.vocabulary(), config.width(), 0);
        for (int layer = 0; layer < config.layers(); layer++) {
            declareLayer(layer);
        }
        vector("output_norm.weight", prefix + "norm.weight", config.width(), 0);
        if (config.tiedEmbeddings()) {
            used.add(OUTPUT);
        } else if (prefix.isEmpty() && source.find(OUTPUT) == null) {
            warnings.accept("there is no output matrix, so the file can embed texts and not continue them");
        } else {
            matrix("output.weight", OUTPUT, config.vocabulary(), config.width(), 0);
        }
    }

    private void declareLayer(int layer) {
        String from = prefix + "layers." + layer + ".";
        String attention = from + "self_attn.";
        String to = "blk." + layer + ".";
        int width = config.width();
        int queryWidth = config.heads() * config.headSize();
        int kvWidth = config.headsKv() * config.headSize();
        int queryHeads = config.permutesHeads() ? config.heads() : 0;
        int keyHeads = config.permutesHeads() ? config.headsKv() : 0;
        boolean producer = config.plan().isProducer(layer);
        boolean qwen2 = config.architecture().equals("qwen2");
        boolean llama = config.architecture().equals("llama");

        vector(to + "attn_norm.weight", from + "input_layernorm.weight", width, 0);
        matrix(to + "attn_q.weight", attention + "q_proj.weight", queryWidth, width, queryHeads);
        bias(qwen2, to + "attn_q.bias", attention + "q_proj.bias", queryWidth, queryHeads);
        if (producer) {
            requireProducer(layer, attention + "k_proj.weight");
            requireProducer(layer, attention + "v_proj.weight");
            matrix(to + "attn_k.weight", attention + "k_proj.weight", kvWidth, width, keyHeads);
            matrix(to + "attn_v.weight", attention + "v_proj.weight", kvWidth, width, 0);
            bias(qwen2, to + "attn_k.bias", attention + "k_proj.bias", kvWidth, keyHeads);
            bias(qwen2, to + "attn_v.bias", attention + "v_proj.bias", kvWidth, 0);
        }
        matrix(to + "attn_output.weight", attention + "o_proj.weight", width, queryWidth, 0);
        if (config.architecture().equals("qwen3")) {
            vector(to + "attn_q_norm.weight", attention + "q_norm.weight", config.headSize(), 0);
            vector(to + "attn_k_norm.weight", attention + "k_norm.weight", config.headSize(), 0);
        }
        vector(to + "ffn_norm.weight", from + "post_attention_layernorm.weight", width, 0);
        matrix(to + "ffn_gate.weight", from + "mlp.gate_proj.weight", config.feedForward(), width, 0);
        matrix(to + "ffn_up.weight", from + "mlp.up_proj.weight", config.feedForward(), width, 0);
        matrix(to + "ffn_down.weight", from + "mlp.down_proj.weight", width, config.feedForward(), 0);
        if (llama) {
            bias(false, to + "attn_output.bias", attention + "o_proj.bias", width, 0);
            bias(false, to + "ffn_gate.bias", from + "mlp.gate_proj.bias", config.feedForward(), 0);
            bias(false, to + "ffn_up.bias", from + "mlp.up_proj.bias", config.feedForward(), 0);
            bias(false, to + "ffn_down.bias", from + "mlp.down_proj.bias", width, 0);
        }
    }

    private void requireProducer(int layer, String name) {
        if (source.find(name) == null) {
            KvPlan plan = config.plan();
            List<Integer> readers = IntStream.range(0, plan.layers())
                    .filter(reader -> plan.kvLayer(reader) == layer)
                    .boxed()
                    .toList();
            throw new InvalidModelException("layer " + layer + ", whose keys and values are read by layers " + readers
                    + ", has no tensor " + name);
        }
    }

    private void matrix(String name, String from, long rows, long columns, int permutedHeads) {
        Safetensors.Tensor tensor = require(from, List.of(rows, columns));
        GgufType type = outputType.matrixType(columns);
        declared++;
        writer.tensor(name, type, List.of(columns, rows), out -> write(tensor, type, permutedHeads, out));
    }

    private void vector(String name, String from, long elements, int permutedHeads) {
        Safetensors.Tensor tensor = require(from, List.of(elements));
        declared++;
        writer.tensor(name, GgufType.F32, List.of(elements), out -> {
            float[] values = new float[(int) elements];
            new Safetensors.Rows(tensor).read(0, values);
            byte[] encoded = new byte[4 * values.length];
            ByteBuffer bytes = little(encoded);
            for (int i = 0; i < values.length; i++) {
                bytes.putFloat(values[(int) sourceRow(i, values.length, permutedHeads)]);
            }
            out.write(encoded);
        });
    }

    private void bias(boolean required, String name, String from, long elements, int permutedHeads) {
        if (required || source.find(from) != null) {
            vector(name, from, elements, permutedHeads);
        }
    }

    private void declareFrequencyFactors(float[] factors) {
        declared++;
        writer.tensor("rope_freqs.weight", GgufType.F32, List.of((long) factors.length), out -> {
            byte[] encoded = new byte[4 * factors.length];
            ByteBuffer bytes = little(encoded);
            for (float factor : factors) {
                bytes.putFloat(factor);
            }
            out.write(encoded);
        });
    }

    private Safetensors.Tensor require(String name, List<Long> shape) {
        Safetensors.@Nullable Tensor tensor = source.find(name);
        if (tensor == null) {
            throw new InvalidModelException(
                    "no tensor " + name + ", which model_type " + config.modelType() + " needs");
        }
        if (!tensor.shape().equals(shape)) {
            throw new InvalidModelException(tensor.file() + ": tensor " + name + " has the shape " + tensor.shape()
                    + ", the configuration says " + shape);
        }
        used.add(name);
        return tensor;
    }

    private void checkNothingIsLeft(Consumer<String> warnings) {
        TreeMap<Integer, Set<String>> unread = new TreeMap<>();
        for (String name : source.names()) {
            if (used.contains(name) || name.endsWith(".rotary_emb.inv_freq")) {
                continue;
            }
            int layer = consumerOf(name);
            if (layer < 0) {
                throw new InvalidModelException(
                        "tensor " + name + " is not one that model_type " + config.modelType() + " has");
            }
            unread.computeIfAbsent(layer, ignored -> new TreeSet<>()).add(name);
        }
        if (!unread.isEmpty()) {
            warnings.accept("left out keys and values that nobody reads, of layers " + unread.keySet() + ": "
                    + unread.values().stream().mapToInt(Set::size).sum() + " tensors such as "
                    + unread.firstEntry().getValue().iterator().next());
        }
    }

    /** The layer, if {@code name} is a key or value tensor of one that produces none; otherwise -1. */
    private int consumerOf(String name) {
        for (int layer = 0; layer < config.layers(); layer++) {
            String attention = prefix + "layers." + layer + ".self_attn.";
            if (!config.plan().isProducer(layer)
                    && (name.startsWith(attention + "k_proj.") || name.startsWith(attention + "v_proj."))) {
                return layer;
            }
        }
        return -1;
    }

    private static void write(Safetensors.Tensor tensor, GgufType type, int permutedHeads, OutputStream out)
            throws IOException {
        Safetensors.Rows source = new Safetensors.Rows(tensor);
        float[] row = new float[(int) tensor.columns()];
        byte[] encoded = new byte[(int) type.bytes(row.length)];
        ByteBuffer bytes = little(encoded);
        for (long i = 0; i < tensor.rows(); i++) {
            source.read(sourceRow(i, tensor.rows(), permutedHeads), row);
            bytes.clear();
            switch (type) {
                case F32 -> {
                    for (float value : row) {
                        bytes.putFloat(value);
                    }
                }
                case BF16 -> {
                    for (float value : row) {
                        bytes.putShort(Floats.floatToBfloat(value));
                    }
                }
                case F16 -> {
                    for (float value : row) {
                        if (Math.abs(value) >= 65520 && !Float.isInfinite(value)) {
                            throw new InvalidModelException(tensor.file() + ": tensor " + tensor.name()
                                    + " has the value " + value + ", f16 ends at 65504; choose another type");
                        }
                        bytes.putShort(Floats.floatToHalf(value));
                    }
                }
                case Q8_0 -> Floats.putQ8Row(row, bytes);
                default -> throw new IllegalArgumentException(type.name());
            }
            out.write(encoded);
        }
    }

    /**
     * Where row {@code row} of the file comes from. Within a head of d rows, transformers rotates rows j and j + d/2
     * together, llama.cpp's llama architecture rows 2j and 2j + 1. 0 heads: nothing moves.
     */
    static long sourceRow(long row, long rows, int permutedHeads) {
        if (permutedHeads == 0) {
            return row;
        }
        long headSize = rows / permutedHeads;
        long head = row / headSize;
        long inHead = row % headSize;
        return head * headSize + inHead % 2 * (headSize / 2) + inHead / 2;
    }

    private static ByteBuffer little(byte[] bytes) {
        return ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
    }
}
