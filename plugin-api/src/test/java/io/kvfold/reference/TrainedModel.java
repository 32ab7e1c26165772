package io.kvfold.reference;

import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKeys;
import io.kvfold.gguf.GgufTensor;
import io.kvfold.gguf.GgufType;
import io.kvfold.reference.Shape.Architecture;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;

/** A llama model in f32 or q8_0 from a GGUF file, for the reference. */
final class TrainedModel {

    private TrainedModel() {}

    static Shape shape(GgufFile file) {
        int hidden = number(file, GgufKeys.embeddingLength("llama"));
        int heads = number(file, GgufKeys.headCount("llama"));
        return new Shape(
                Architecture.LLAMA,
                file.length("tokenizer.ggml.tokens"),
                hidden,
                number(file, GgufKeys.feedForwardLength("llama")),
                heads,
                number(file, GgufKeys.headCountKv("llama")),
                hidden / heads,
                file.number("llama.attention.layer_norm_rms_epsilon").orElseThrow(),
                10000);
    }

    /** Its weights by their Hugging Face names, query and key rows in Hugging Face's order. */
    static Map<String, float[]> weights(GgufFile file) {
        Map<String, float[]> weights = new HashMap<>();
        for (GgufTensor tensor : file.tensors()) {
            float[] values = values(file, tensor);
            String name = name(tensor.name());
            boolean rotated = name.contains("q_proj") || name.contains("k_proj");
            weights.put(name, rotated ? halved(values, shape(file)) : values);
        }
        return weights;
    }

    /** The demonstration models of this project, as they are shipped: {@code standard} or {@code folded}. */
    static Path demo(String name) {
        return Path.of("..", "demo-models", "src", "main", "resources", "io", "kvfold", "demo")
                .resolve("kvfold-demo-" + name + "-q8_0.gguf");
    }

    private static float[] values(GgufFile file, GgufTensor tensor) {
        float[] values = new float[(int) tensor.elements()];
        ByteBuffer data = file.data(tensor);
        if (tensor.type() == GgufType.F32) {
            data.asFloatBuffer().get(values);
            return values;
        }
        if (tensor.type() != GgufType.Q8_0) {
            throw new IllegalArgumentException(tensor.name() + " is " + tensor.type());
        }
        for (int at = 0; at < values.length; at++) { // a block: its scale, and 32 signed bytes
            int block = at / 32 * 34;
            values[at] = half(data.getShort(block)) * data.get(block + 2 + at % 32);
        }
        return values;
    }

    /** Of IEEE 754's binary16. */
    private static float half(short bits) {
        int exponent = bits >> 10 & 31;
        int fraction = bits & 1023;
        float magnitude = exponent == 0
                ? Math.scalb((float) fraction, -24)
                : Math.scalb((float) (fraction + 1024), exponent - 25);
        return bits < 0 ? -magnitude : magnitude;
    }

    private static int number(GgufFile file, String key) {
        return (int) file.integer(key).orElseThrow();
    }

    private static String name(String name) {
        return name.replace("token_embd", "model.embed_tokens")
                .replace("output_norm", "model.norm")
                .replaceFirst("^output\\.", "lm_head.")
                .replace("blk.", "model.layers.")
                .replace("attn_norm", "input_layernorm")
                .replace("ffn_norm", "post_attention_layernorm")
                .replace("attn_output", "self_attn.o_proj")
                .replaceFirst("attn_([qkv])", "self_attn.$1_proj")
                .replaceFirst("ffn_(gate|up|down)", "mlp.$1_proj");
    }

    /** Within each head, neighbours 2d and 2d + 1 become rows d and d + headSize / 2. */
    private static float[] halved(float[] values, Shape shape) {
        int size = shape.headSize();
        int columns = shape.hidden();
        float[] ordered = new float[values.length];
        for (int row = 0; row < values.length / columns; row++) {
            int inHead = row % size;
            int target = row - inHead + inHead / 2 + (inHead % 2) * (size / 2);
            System.arraycopy(values, row * columns, ordered, target * columns, columns);
        }
        return ordered;
    }
}
