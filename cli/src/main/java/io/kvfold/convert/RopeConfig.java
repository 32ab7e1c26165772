package io.kvfold.convert;

import com.fasterxml.jackson.databind.JsonNode;
import io.kvfold.InvalidModelException;
import io.kvfold.gguf.GgufWriter;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * Rotary position embeddings: {@code rope_theta} with {@code rope_scaling}, or {@code rope_parameters}, which newer
 * versions of transformers write in place of both.
 *
 * @param type default, linear, llama3 or yarn
 * @param parameters the numbers that belong to the type
 */
record RopeConfig(String type, double theta, int contextLength, Map<String, Double> parameters) {

    private static final String ATTENTION_FACTOR = "attention_factor";

    private static final Map<String, Set<String>> KEYS = Map.of(
            "default", Set.of(),
            "linear", Set.of("factor"),
            "llama3", Set.of("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
            "yarn",
                    Set.of(
                            "factor",
                            "original_max_position_embeddings",
                            "beta_fast",
                            "beta_slow",
                            ATTENTION_FACTOR,
                            "mscale",
                            "mscale_all_dim"));

    static RopeConfig read(Path file, JsonNode config, int contextLength) {
        String source = config.hasNonNull("rope_parameters") ? "rope_parameters" : "rope_scaling";
        JsonNode rope = config.path(source);
        if (!rope.isObject() && !rope.isNull() && !rope.isMissingNode()) {
            throw new InvalidModelException(file + ": " + source + " is " + rope + ", expected an object");
        }
        String type = rope.path("rope_type")
                .asText(rope.path("type").asText("default"))
                .toLowerCase(Locale.ROOT);
        if (!KEYS.containsKey(type)) {
            throw new InvalidModelException(file + ": " + source + " has the type \"" + type + "\", supported are "
                    + KEYS.keySet().stream().sorted().toList());
        }
        Map<String, Double> parameters = new HashMap<>();
        double theta = config.path("rope_theta").asDouble(10000);
        for (Map.Entry<String, JsonNode> entry : rope.properties()) {
            // two names of one number, also to llama.cpp's own converter
            String key = entry.getKey().equals("attn_factor") ? ATTENTION_FACTOR : entry.getKey();
            JsonNode value = entry.getValue();
            if (key.equals("rope_type") || key.equals("type") || value.isNull()) {
                continue;
            }
            if (key.equals("truncate") && value.asBoolean()) {
                continue; // llama.cpp always rounds the correction range, which is what true asks for
            }
            if (key.equals("partial_rotary_factor") && value.asDouble() == 1) {
                continue;
            }
            boolean known = key.equals("rope_theta")
                    || KEYS.getOrDefault(type, Set.of()).contains(key);
            if (!known || !value.isNumber()) {
                throw new InvalidModelException(file + ": " + source + " of type " + type + " has " + key + " = "
                        + value + ", which is not supported");
            }
            if (key.equals("rope_theta")) {
                theta = value.asDouble();
            } else if (!parameters.getOrDefault(key, value.asDouble()).equals(value.asDouble())) {
                throw new InvalidModelException(file + ": " + source + " has attention_factor and attn_factor, and they"
                        + " differ: " + parameters.get(key) + " and " + value);
            } else {
                parameters.put(key, value.asDouble());
            }
        }
        if (!(theta > 0)) {
            throw new InvalidModelException(file + ": rope_theta is " + theta + ", it must be positive");
        }
        if (!type.equals("default") && !(parameters.getOrDefault("factor", 0.0) > 0)) {
            throw new InvalidModelException(file + ": " + source + " of type " + type + " needs a positive factor");
        }
        return new RopeConfig(type, theta, contextLength, Map.copyOf(parameters));
    }

    /** Adds the keys below {@code architecture.rope}. */
    void write(GgufWriter writer, String architecture) {
        String scaling = architecture + ".rope.scaling.";
        writer.put(architecture + ".rope.freq_base", (float) theta);
        if (type.equals("linear") || type.equals("yarn")) {
            writer.put(scaling + "type", type);
            writer.put(scaling + "factor", (float) parameter("factor", 1));
        }
        if (type.equals("yarn")) {
            writer.put(scaling + "original_context_length", (long)
                    parameter("original_max_position_embeddings", contextLength));
            if (parameters.containsKey("beta_fast")) {
                writer.put(scaling + "yarn_beta_fast", (float) parameter("beta_fast", 32));
            }
            if (parameters.containsKey("beta_slow")) {
                writer.put(scaling + "yarn_beta_slow", (float) parameter("beta_slow", 1));
            }
            double attention = attentionFactor();
            if (attention != defaultAttentionFactor()) {
                // llama.cpp multiplies the default by this.
                writer.put(scaling + "attn_factor", (float) (attention / defaultAttentionFactor()));
            }
        }
    }

    /**
     * Divisors of the rotary frequencies, {@code rope_freqs.weight}, [head size / 2], for Llama 3.1's scaling: long waves
     * are stretched, short ones are not, with a ramp between. Empty for other types.
     */
    Optional<float[]> frequencyFactors(int headSize) {
        if (!type.equals("llama3")) {
            return Optional.empty();
        }
        double factor = parameter("factor", 8);
        double low = parameter("low_freq_factor", 1);
        double high = parameter("high_freq_factor", 4);
        double original = parameter("original_max_position_embeddings", 8192);
        float[] factors = new float[headSize / 2];
        for (int i = 0; i < factors.length; i++) {
            double wavelength = 2 * Math.PI * Math.pow(theta, 2.0 * i / headSize);
            if (wavelength < original / high) {
                factors[i] = 1;
            } else if (wavelength > original / low) {
                factors[i] = (float) factor;
            } else {
                double smooth = (original / wavelength - low) / (high - low);
                factors[i] = (float) (1 / ((1 - smooth) / factor + smooth));
            }
        }
        return Optional.of(factors);
    }

    /** transformers' _compute_yarn_parameters. */
    private double attentionFactor() {
        if (parameters.containsKey(ATTENTION_FACTOR)) {
            return parameter(ATTENTION_FACTOR, 1);
        }
        if (parameters.containsKey("mscale") && parameters.containsKey("mscale_all_dim")) {
            return magnitudeScale(parameter("mscale", 1)) / magnitudeScale(parameter("mscale_all_dim", 1));
        }
        return defaultAttentionFactor();
    }

    private double defaultAttentionFactor() {
        return magnitudeScale(1);
    }

    private double magnitudeScale(double scale) {
        double factor = parameter("factor", 1);
        return factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1;
    }

    private double parameter(String key, double fallback) {
        return parameters.getOrDefault(key, fallback);
    }
}
