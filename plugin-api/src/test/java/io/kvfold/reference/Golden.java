package io.kvfold.reference;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.kvfold.KvPlan;
import io.kvfold.reference.Shape.Architecture;
import java.io.IOException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;

/** Golden vectors in {@code ../shared/golden}, seen from the root of the project. */
record Golden(Shape shape, Map<String, float[]> weights, Map<String, float[]> expected) {
    static Path folder(String name) {
        return Path.of("..", "..", "shared", "golden", name); // tests run in the folder of their module
    }

    static Golden read(Path folder) throws IOException {
        JsonNode config =
                new ObjectMapper().readTree(folder.resolve("config.json").toFile());
        Shape shape = new Shape(
                Architecture.LLAMA,
                config.get("vocab_size").intValue(),
                config.get("hidden_size").intValue(),
                config.get("intermediate_size").intValue(),
                config.get("num_attention_heads").intValue(),
                config.get("num_key_value_heads").intValue(),
                config.get("head_dim").intValue(),
                config.get("rms_norm_eps").doubleValue(),
                config.get("rope_theta").doubleValue());
        return new Golden(
                shape,
                Safetensors.read(folder.resolve("model.safetensors")),
                Safetensors.read(folder.resolve("expected.safetensors")));
    }

    ReferenceModel model(KvPlan plan) {
        return new ReferenceModel(shape, plan, weights);
    }

    int[] tokens() {
        float[] ids = expected("input_ids");
        int[] tokens = new int[ids.length];
        Arrays.setAll(tokens, t -> (int) ids[t]);
        return tokens;
    }

    float[] expected(String name) {
        float[] values = expected.get(name);
        if (values == null) {
            throw new IllegalStateException("the golden vectors have no " + name);
        }
        return values;
    }

    /** Logits [tokens, vocabulary]. */
    double[][] expectedRows(String name) {
        float[] values = expected(name);
        double[][] rows = new double[values.length / shape.vocabulary()][shape.vocabulary()];
        for (int k = 0; k < values.length; k++) {
            rows[k / shape.vocabulary()][k % shape.vocabulary()] = values[k];
        }
        return rows;
    }
}
