package io.kvfold;

import static org.junit.jupiter.api.Assumptions.abort;

import io.kvfold.gguf.GgufType;
import io.kvfold.gguf.GgufValueType;
import io.kvfold.gguf.GgufWriter;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;

/** Models small enough to load a thousand times. */
public final class TinyModel {

    static final int LAYERS = 3;
    static final int CONTEXT = 4096;

    private static final int HIDDEN = 64;
    private static final int HEADS = 4;
    private static final int KV_HEADS = 2;
    private static final int FEED_FORWARD = 96;
    private static final int SPECIAL = 3 + 256; // unknown, begin, end, and a token for each byte

    private final GgufWriter writer = new GgufWriter();
    private final Random random;
    private final int layers;

    private TinyModel(long seed, int layers) {
        this.random = new Random(seed);
        this.layers = layers;
    }

    /** A trained model that tells stories in English; ends the test as skipped where it is not there. */
    public static Path stories() {
        Path model = Path.of("..", "..", "shared", "models", "stories260K.gguf");
        return Files.exists(model) ? model : abort("not run: there is no " + model);
    }

    /**
     * Writes a model of llama's architecture with seeded random weights, a vocabulary that takes any text and answers in
     * lower-case letters, and a chat template.
     */
    public static Path write(Path file, long seed) throws IOException {
        return write(file, seed, LAYERS);
    }

    static Path write(Path file, long seed, int layers) throws IOException {
        new TinyModel(seed, layers).writeTo(file);
        return file;
    }

    private void writeTo(Path file) throws IOException {
        writer.put("general.architecture", "llama")
                .put("general.name", "tiny")
                .put("llama.block_count", layers)
                .put("llama.context_length", CONTEXT)
                .put("llama.embedding_length", HIDDEN)
                .put("llama.feed_forward_length", FEED_FORWARD)
                .put("llama.attention.head_count", HEADS)
                .put("llama.attention.head_count_kv", KV_HEADS)
                .put("llama.rope.dimension_count", HIDDEN / HEADS)
                .put("llama.attention.layer_norm_rms_epsilon", 1e-5f);
        int vocabulary = putVocabulary();
        putMatrix("token_embd.weight", HIDDEN, vocabulary, 1, 0);
        putMatrix("output.weight", HIDDEN, vocabulary, 0.5, SPECIAL);
        putOnes("output_norm.weight");
        int kvWidth = HIDDEN / HEADS * KV_HEADS;
        for (int i = 0; i < layers; i++) {
            String layer = "blk." + i + ".";
            putOnes(layer + "attn_norm.weight");
            putOnes(layer + "ffn_norm.weight");
            putMatrix(layer + "attn_q.weight", HIDDEN, HIDDEN, 0.25, 0);
            putMatrix(layer + "attn_k.weight", HIDDEN, kvWidth, 0.25, 0);
            putMatrix(layer + "attn_v.weight", HIDDEN, kvWidth, 0.125, 0);
            putMatrix(layer + "attn_output.weight", HIDDEN, HIDDEN, 0.125, 0);
            putMatrix(layer + "ffn_gate.weight", HIDDEN, FEED_FORWARD, 0.125, 0);
            putMatrix(layer + "ffn_up.weight", HIDDEN, FEED_FORWARD, 0.125, 0);
            putMatrix(layer + "ffn_down.weight", FEED_FORWARD, HIDDEN, 0.125, 0);
        }
        writer.write(file);
    }

    private int putVocabulary() {
        List<String> tokens = new ArrayList<>(List.of("<unk>", "<s>", "</s>"));
        for (int i = 0; i < 256; i++) {
            tokens.add(String.format("<0x%02X>", i));
        }
        for (char c = 'a'; c <= 'z'; c++) {
            tokens.add(String.valueOf(c));
            tokens.add("\u2581" + c);
        }
        tokens.add("\u2581");
        long[] types = new long[tokens.size()];
        float[] scores = new float[tokens.size()];
        for (int i = 0; i < types.length; i++) {
            types[i] = i == 0 ? 2 : i < 3 ? 3 : i < SPECIAL ? 6 : 1; // llama_token_type: unknown, control, byte, normal
            scores[i] = -i;
        }
        writer.put("tokenizer.ggml.model", "llama")
                .put("tokenizer.ggml.tokens", tokens)
                .put("tokenizer.ggml.scores", scores)
                .put("tokenizer.ggml.token_type", GgufValueType.INT32, types)
                .put("tokenizer.ggml.bos_token_id", 1)
                .put("tokenizer.ggml.eos_token_id", 2)
                .put("tokenizer.ggml.unknown_token_id", 0)
                .put(
                        "tokenizer.chat_template",
                        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:");
        return tokens.size();
    }

    private void putOnes(String name) {
        float[] ones = new float[HIDDEN];
        java.util.Arrays.fill(ones, 1);
        put(name, List.of((long) HIDDEN), ones);
    }

    /** Normal weights, the first rows zero. */
    private void putMatrix(String name, int columns, int rows, double deviation, int zeroRows) {
        float[] values = new float[columns * rows];
        for (int i = columns * zeroRows; i < values.length; i++) {
            values[i] = (float) (random.nextGaussian() * deviation);
        }
        put(name, List.of((long) columns, (long) rows), values);
    }

    private void put(String name, List<Long> shape, float[] values) {
        ByteBuffer bytes = ByteBuffer.allocate(values.length * Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asFloatBuffer().put(values);
        writer.tensor(name, GgufType.F32, shape, out -> out.write(bytes.array()));
    }
}
