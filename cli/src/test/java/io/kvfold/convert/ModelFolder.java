package io.kvfold.convert;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.TreeMap;

/** A tiny Hugging Face folder for tests: 3 layers, width 32, 4 heads and 2 key-value heads of 8, vocabulary 40. */
final class ModelFolder {

    static final int LAYERS = 3;
    static final int WIDTH = 32;
    static final int HEADS = 4;
    static final int HEADS_KV = 2;
    static final int HEAD_SIZE = 8;
    static final int FEED_FORWARD = 64;

    private static final ObjectMapper MAPPER = new ObjectMapper();

    record Tensor(String type, long[] shape, float[] values) {}

    final Path path;
    final ObjectNode config = MAPPER.createObjectNode();
    final Map<String, Tensor> tensors = new TreeMap<>();

    private ModelFolder(Path path, int vocabulary) {
        this.path = path;
        config.put("hidden_size", WIDTH)
                .put("num_hidden_layers", LAYERS)
                .put("num_attention_heads", HEADS)
                .put("num_key_value_heads", HEADS_KV)
                .put("intermediate_size", FEED_FORWARD)
                .put("vocab_size", vocabulary)
                .put("max_position_embeddings", 256)
                .put("rms_norm_eps", 1e-5)
                .put("hidden_act", "silu");
        add("model.embed_tokens.weight", vocabulary, WIDTH);
        add("model.norm.weight", WIDTH);
        add("lm_head.weight", vocabulary, WIDTH);
        for (int layer = 0; layer < LAYERS; layer++) {
            String prefix = "model.layers." + layer + ".";
            add(prefix + "input_layernorm.weight", WIDTH);
            add(prefix + "post_attention_layernorm.weight", WIDTH);
            add(prefix + "self_attn.q_proj.weight", HEADS * HEAD_SIZE, WIDTH);
            add(prefix + "self_attn.k_proj.weight", HEADS_KV * HEAD_SIZE, WIDTH);
            add(prefix + "self_attn.v_proj.weight", HEADS_KV * HEAD_SIZE, WIDTH);
            add(prefix + "self_attn.o_proj.weight", WIDTH, HEADS * HEAD_SIZE);
            add(prefix + "mlp.gate_proj.weight", FEED_FORWARD, WIDTH);
            add(prefix + "mlp.up_proj.weight", FEED_FORWARD, WIDTH);
            add(prefix + "mlp.down_proj.weight", WIDTH, FEED_FORWARD);
        }
    }

    static ModelFolder of(Path path, String modelType) {
        return of(path, modelType, 40);
    }

    static ModelFolder of(Path path, String modelType, int vocabulary) {
        ModelFolder folder = new ModelFolder(path, vocabulary);
        folder.config.put("model_type", modelType);
        return folder;
    }

    /** Adds or replaces a tensor of small random values that depend on its name only. */
    ModelFolder add(String name, long... shape) {
        int elements = 1;
        for (long dimension : shape) {
            elements *= (int) dimension;
        }
        Random random = new Random(name.hashCode());
        float[] values = new float[elements];
        for (int i = 0; i < elements; i++) {
            values[i] = (float) random.nextGaussian() / 8;
        }
        tensors.put(name, new Tensor("F32", shape, values));
        return this;
    }

    /** The values of a tensor, to read or to change. */
    float[] values(String name) {
        return Objects.requireNonNull(tensors.get(name), name).values();
    }

    ModelFolder remove(String... names) {
        for (String name : names) {
            tensors.remove(name);
        }
        return this;
    }

    /** Removes what layers that produce no keys and values do not have. */
    ModelFolder consumers(int... layers) {
        for (int layer : layers) {
            String prefix = "model.layers." + layer + ".self_attn.";
            remove(prefix + "k_proj.weight", prefix + "v_proj.weight");
        }
        return this;
    }

    ModelFolder set(String key, Object value) {
        config.set(key, MAPPER.valueToTree(value));
        return this;
    }

    ModelFolder unset(String key) {
        config.remove(key);
        return this;
    }

    /** Leaves out the output matrix, and {@code model.} before the other names. */
    ModelFolder withoutHead() {
        remove("lm_head.weight");
        for (String name : List.copyOf(tensors.keySet())) {
            tensors.put(name.replaceFirst("^model\\.", ""), Objects.requireNonNull(tensors.remove(name)));
        }
        return this;
    }

    /** What sentence-transformers adds. */
    ModelFolder pooling(Map<String, Object> how) {
        try {
            Path file = Files.createDirectories(path.resolve("1_Pooling")).resolve("config.json");
            MAPPER.writeValue(file.toFile(), how);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        return this;
    }

    Path file(String name, String text) {
        try {
            Files.createDirectories(path);
            return Files.writeString(path.resolve(name), text);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    Path json(String name, Object value) {
        try {
            return file(name, MAPPER.writeValueAsString(value));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    Path write() throws IOException {
        json("config.json", config);
        Files.write(path.resolve("model.safetensors"), safetensors(tensors));
        return path;
    }

    /** The same tensors, dealt out to two shards with an index. */
    Path writeSharded() throws IOException {
        json("config.json", config);
        Map<String, Map<String, Tensor>> shards = new TreeMap<>();
        Map<String, String> weightMap = new TreeMap<>();
        for (Map.Entry<String, Tensor> entry : tensors.entrySet()) {
            String shard = "model-0000" + (1 + weightMap.size() % 2) + "-of-00002.safetensors";
            weightMap.put(entry.getKey(), shard);
            shards.computeIfAbsent(shard, ignored -> new TreeMap<>()).put(entry.getKey(), entry.getValue());
        }
        for (Map.Entry<String, Map<String, Tensor>> shard : shards.entrySet()) {
            Files.write(path.resolve(shard.getKey()), safetensors(shard.getValue()));
        }
        json("model.safetensors.index.json", Map.of("metadata", Map.of(), "weight_map", weightMap));
        return path;
    }

    static byte[] safetensors(Map<String, Tensor> tensors) throws IOException {
        Map<String, Object> header = new LinkedHashMap<>();
        header.put("__metadata__", Map.of("format", "pt"));
        ByteArrayOutputStream data = new ByteArrayOutputStream();
        for (Map.Entry<String, Tensor> entry : tensors.entrySet()) {
            Tensor tensor = entry.getValue();
            int start = data.size();
            data.write(encode(tensor));
            header.put(
                    entry.getKey(),
                    Map.of(
                            "dtype", tensor.type(),
                            "shape", tensor.shape(),
                            "data_offsets", new long[] {start, data.size()}));
        }
        byte[] json = MAPPER.writeValueAsBytes(header);
        ByteBuffer file = ByteBuffer.allocate(8 + json.length + data.size()).order(ByteOrder.LITTLE_ENDIAN);
        return file.putLong(json.length).put(json).put(data.toByteArray()).array();
    }

    private static byte[] encode(Tensor tensor) {
        ByteBuffer bytes = ByteBuffer.allocate(tensor.values().length * 4).order(ByteOrder.LITTLE_ENDIAN);
        for (float value : tensor.values()) {
            switch (tensor.type()) {
                case "F32" -> bytes.putFloat(value);
                case "F16" -> bytes.putShort(Floats.floatToHalf(value));
                case "BF16" -> bytes.putShort(Floats.floatToBfloat(value));
                default -> throw new IllegalArgumentException(tensor.type());
            }
        }
        return Arrays.copyOf(bytes.array(), bytes.position());
    }
}
