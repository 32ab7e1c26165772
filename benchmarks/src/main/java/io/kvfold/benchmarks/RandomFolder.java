package io.kvfold.benchmarks;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedOutputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.SplittableRandom;

/**
 * Writes a Hugging Face folder of a Llama with random weights in bfloat16, for peers that read no GGUF files; {@code kvfold
 * convert} makes the GGUF of the same weights. Its tokenizer knows single characters, so that all count the same tokens.
 */
public final class RandomFolder {

    private static final ObjectMapper MAPPER = new ObjectMapper();

    private RandomFolder() {}

    /** Arguments: the folder, layers, hidden size, heads, key-value heads, feed-forward size, vocabulary size. */
    public static void main(String[] args) throws IOException {
        if (args.length != 7) {
            throw new IllegalArgumentException(
                    "arguments: <folder> <layers> <hidden> <heads> <kv heads> <feed-forward> <vocabulary>");
        }
        Path folder = Path.of(args[0]);
        int layers = Integer.parseInt(args[1]);
        int hidden = Integer.parseInt(args[2]);
        int heads = Integer.parseInt(args[3]);
        int headsKv = Integer.parseInt(args[4]);
        int feedForward = Integer.parseInt(args[5]);
        int vocabulary = Integer.parseInt(args[6]);
        Files.createDirectories(folder);

        ObjectNode config = MAPPER.createObjectNode();
        config.putArray("architectures").add("LlamaForCausalLM");
        config.put("model_type", "llama")
                .put("hidden_size", hidden)
                .put("num_hidden_layers", layers)
                .put("num_attention_heads", heads)
                .put("num_key_value_heads", headsKv)
                .put("intermediate_size", feedForward)
                .put("vocab_size", vocabulary)
                .put("max_position_embeddings", 8192)
                .put("rms_norm_eps", 1e-5)
                .put("rope_theta", 10000.0)
                .put("hidden_act", "silu")
                .put("bos_token_id", 1)
                .put("eos_token_id", 2)
                .put("tie_word_embeddings", false)
                .put("torch_dtype", "bfloat16");
        MAPPER.writeValue(folder.resolve("config.json").toFile(), config);
        MAPPER.writeValue(folder.resolve("tokenizer.json").toFile(), tokenizer(vocabulary));
        MAPPER.writeValue(
                folder.resolve("tokenizer_config.json").toFile(),
                MAPPER.createObjectNode()
                        .put("tokenizer_class", "LlamaTokenizerFast")
                        .put("bos_token", "<s>")
                        .put("eos_token", "</s>")
                        .put("unk_token", "<unk>"));
        Files.writeString(folder.resolve("README.md"), "Random weights.\n"); // Jlama copies it
        writeWeights(
                folder.resolve("model.safetensors"), tensors(layers, hidden, heads, headsKv, feedForward, vocabulary));
    }

    private static Map<String, int[]> tensors(
            int layers, int hidden, int heads, int headsKv, int feedForward, int vocabulary) {
        Map<String, int[]> shapes = new LinkedHashMap<>();
        shapes.put("model.embed_tokens.weight", new int[] {vocabulary, hidden});
        for (int layer = 0; layer < layers; layer++) {
            String prefix = "model.layers." + layer + ".";
            shapes.put(prefix + "input_layernorm.weight", new int[] {hidden});
            shapes.put(prefix + "self_attn.q_proj.weight", new int[] {hidden, hidden});
            shapes.put(prefix + "self_attn.k_proj.weight", new int[] {hidden / heads * headsKv, hidden});
            shapes.put(prefix + "self_attn.v_proj.weight", new int[] {hidden / heads * headsKv, hidden});
            shapes.put(prefix + "self_attn.o_proj.weight", new int[] {hidden, hidden});
            shapes.put(prefix + "post_attention_layernorm.weight", new int[] {hidden});
            shapes.put(prefix + "mlp.gate_proj.weight", new int[] {feedForward, hidden});
            shapes.put(prefix + "mlp.up_proj.weight", new int[] {feedForward, hidden});
            shapes.put(prefix + "mlp.down_proj.weight", new int[] {hidden, feedForward});
        }
        shapes.put("model.norm.weight", new int[] {hidden});
        shapes.put("lm_head.weight", new int[] {vocabulary, hidden});
        return shapes;
    }

    private static void writeWeights(Path file, Map<String, int[]> shapes) throws IOException {
        ObjectNode header = MAPPER.createObjectNode();
        long offset = 0;
        for (Map.Entry<String, int[]> tensor : shapes.entrySet()) {
            ObjectNode entry = header.putObject(tensor.getKey()).put("dtype", "BF16");
            long elements = 1;
            for (int dimension : tensor.getValue()) {
                entry.withArray("shape").add(dimension);
                elements *= dimension;
            }
            entry.putArray("data_offsets").add(offset).add(offset + 2 * elements);
            offset += 2 * elements;
        }
        String text = header.toString();
        byte[] json = (text + " ".repeat(7 - (text.length() + 7) % 8)).getBytes(StandardCharsets.UTF_8);
        try (OutputStream out = new BufferedOutputStream(Files.newOutputStream(file), 1 << 20)) {
            out.write(ByteBuffer.allocate(8)
                    .order(ByteOrder.LITTLE_ENDIAN)
                    .putLong(json.length)
                    .array());
            out.write(json);
            DataOutputStream data = new DataOutputStream(out);
            SplittableRandom random = new SplittableRandom(1);
            for (int[] shape : shapes.values()) {
                writeTensor(data, shape, random);
            }
        }
    }

    /** Norms are 1; rows are uniform with a variance that keeps the size of activations. */
    private static void writeTensor(DataOutputStream out, int[] shape, SplittableRandom random) throws IOException {
        boolean norm = shape.length == 1;
        int columns = shape[shape.length - 1];
        double scale = Math.sqrt(3.0 / columns);
        ByteBuffer row = ByteBuffer.allocate(2 * columns).order(ByteOrder.LITTLE_ENDIAN);
        for (int r = 0; r < (norm ? 1 : shape[0]); r++) {
            row.clear();
            for (int c = 0; c < columns; c++) {
                float value = norm ? 1.0f : (float) (scale * (2 * random.nextDouble() - 1));
                row.putShort((short) (Float.floatToRawIntBits(value) >> 16));
            }
            out.write(row.array());
        }
    }

    private static ObjectNode tokenizer(int vocabulary) {
        String space = "\u2581";
        ObjectNode root = MAPPER.createObjectNode().put("version", "1.0");
        String[] special = {"<unk>", "<s>", "</s>"};
        for (int id = 0; id < special.length; id++) {
            root.withArray("added_tokens")
                    .addObject()
                    .put("id", id)
                    .put("content", special[id])
                    .put("single_word", false)
                    .put("lstrip", false)
                    .put("rstrip", false)
                    .put("normalized", false)
                    .put("special", true);
        }
        ObjectNode normalizer = root.putObject("normalizer").put("type", "Sequence");
        normalizer.withArray("normalizers").addObject().put("type", "Prepend").put("prepend", space);
        ObjectNode replace = normalizer.withArray("normalizers").addObject().put("type", "Replace");
        replace.putObject("pattern").put("String", " ");
        replace.put("content", space);
        root.putNull("pre_tokenizer");
        root.putNull("post_processor");
        ObjectNode model = root.putObject("model")
                .put("type", "BPE")
                .put("unk_token", "<unk>")
                .put("fuse_unk", true)
                .put("byte_fallback", true);
        ObjectNode ids = model.putObject("vocab");
        for (String text : special) {
            ids.put(text, ids.size());
        }
        for (int b = 0; b < 256; b++) {
            ids.put(String.format("<0x%02X>", b), ids.size());
        }
        ids.put(space, ids.size());
        for (char letter = 'a'; letter <= 'z'; letter++) {
            ids.put(String.valueOf(letter), ids.size());
        }
        while (ids.size() < vocabulary) {
            ids.put("<" + ids.size() + ">", ids.size());
        }
        model.putArray("merges");
        return root;
    }
}
