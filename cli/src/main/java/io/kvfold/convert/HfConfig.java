package io.kvfold.convert;

import com.fasterxml.jackson.databind.JsonNode;
import io.kvfold.InvalidModelException;
import io.kvfold.InvalidPlanException;
import io.kvfold.KvPlan;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.function.Consumer;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/**
 * The model that a {@code config.json} describes.
 *
 * @param architecture of llama.cpp: llama, qwen2 or qwen3
 * @param modelType {@code model_type} of the folder
 * @param headSize elements of a query, key or value head
 * @param tiedEmbeddings whether the output matrix is the embedding matrix
 * @param permutesHeads whether rotary pairs are interleaved in llama.cpp and halves of a head in the folder
 * @param plan which layer reads whose keys and values; the standard plan for an ordinary model
 */
record HfConfig(
        String architecture,
        String modelType,
        int layers,
        int width,
        int feedForward,
        int heads,
        int headsKv,
        int headSize,
        int vocabulary,
        int contextLength,
        float normEpsilon,
        RopeConfig rope,
        boolean tiedEmbeddings,
        boolean permutesHeads,
        KvPlan plan) {

    // Say how a model was made, saved or is to be sampled from, not what it computes.
    private static final Set<String> HARMLESS = Set.of(
            "_commit_hash",
            "_flash_attn_2_enabled",
            "_name_or_path",
            "transformers.js_config",
            "_attn_implementation",
            "_attn_implementation_autoset",
            "architectures",
            "attention_dropout",
            "attn_implementation",
            "auto_map",
            "bad_words_ids",
            "begin_suppress_tokens",
            "bos_token_id",
            "chunk_size_feed_forward",
            "cross_attention_hidden_size",
            "decoder_start_token_id",
            "diversity_penalty",
            "do_sample",
            "dtype",
            "early_stopping",
            "embd_pdrop",
            "encoder_no_repeat_ngram_size",
            "eos_token_id",
            "exponential_decay_length_penalty",
            "finetuning_task",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "hidden_dropout",
            "id2label",
            "initializer_range",
            "is_llama_config",
            "label2id",
            "length_penalty",
            "max_length",
            "max_new_tokens",
            "min_length",
            "no_repeat_ngram_size",
            "num_beam_groups",
            "num_beams",
            "num_return_sequences",
            "output_attentions",
            "output_hidden_states",
            "output_scores",
            "pad_token_id",
            "prefix",
            "pretraining_tp",
            "problem_type",
            "pruned_heads",
            "remove_invalid_values",
            "repetition_penalty",
            "resid_pdrop",
            "residual_dropout",
            "return_dict",
            "return_dict_in_generate",
            "sep_token_id",
            "suppress_tokens",
            "task_specific_params",
            "temperature",
            "tf_legacy_loss",
            "tokenizer_class",
            "top_k",
            "top_p",
            "torch_dtype",
            "torchscript",
            "transformers_version",
            "typical_p",
            "unk_token_id",
            "unsloth_fixed",
            "unsloth_version",
            "use_bfloat16",
            "use_cache");

    // Compute something else unless they have this value.
    private static final Map<String, String> ONLY = Map.ofEntries(
            Map.entry("hidden_act", "silu"),
            Map.entry("partial_rotary_factor", "1.0"),
            Map.entry("rope_interleaved", "false"),
            Map.entry("use_mrope", "false"),
            Map.entry("is_decoder", "false"),
            Map.entry("is_encoder_decoder", "false"),
            Map.entry("add_cross_attention", "false"),
            Map.entry("tie_encoder_decoder", "false"));

    // Whether biases exist is told by the tensors themselves.
    private static final Set<String> COMMON = Set.of(
            "attention_bias",
            "head_dim",
            "hidden_size",
            "intermediate_size",
            "layer_types",
            "max_position_embeddings",
            "max_sequence_length",
            "mlp_bias",
            "model_type",
            "num_attention_heads",
            "num_hidden_layers",
            "num_key_value_heads",
            "rms_norm_eps",
            "rope_parameters",
            "rope_scaling",
            "rope_theta",
            "sliding_window",
            "tie_word_embeddings",
            "vocab_size");

    private static final Map<String, Set<String>> BY_MODEL_TYPE = Map.of(
            "llama", Set.of(),
            "mistral", Set.of(),
            "qwen2", Set.of("use_sliding_window", "max_window_layers"),
            "qwen3", Set.of("use_sliding_window", "max_window_layers"),
            "lckv-llama", Set.of("forward_passes", "backward_passes", "use_sequential", "force_nodiag"),
            "opt-llama", Set.of("num_encoders", "num_trained_encoders", "train_kv", "target_layer"),
            "cla-llama", Set.of());

    /**
     * @throws InvalidModelException if a key is missing, out of range, or one that this converter does not know
     * @throws InvalidPlanException if the layer map is impossible
     */
    static HfConfig read(Path file, JsonNode json, Consumer<String> warnings) {
        return new Reader(file, json, warnings).read();
    }

    /** The same with another plan. */
    HfConfig withPlan(KvPlan other) {
        return new HfConfig(
                architecture,
                modelType,
                layers,
                width,
                feedForward,
                heads,
                headsKv,
                headSize,
                vocabulary,
                contextLength,
                normEpsilon,
                rope,
                tiedEmbeddings,
                permutesHeads,
                other);
    }

    private static final class Reader {
        private final Path file;
        private final JsonNode json;
        private final Consumer<String> warnings;
        private final String modelType;

        Reader(Path file, JsonNode json, Consumer<String> warnings) {
            this.file = file;
            this.json = json;
            this.warnings = warnings;
            this.modelType = json.path("model_type").asText("");
        }

        HfConfig read() {
            if (!BY_MODEL_TYPE.containsKey(modelType)) {
                throw error("model_type is \"" + modelType + "\", supported are "
                        + BY_MODEL_TYPE.keySet().stream().sorted().toList());
            }
            checkKeys();
            int layers = integer("num_hidden_layers", null, 1, KvPlan.MAX_LAYERS);
            int width = integer("hidden_size", null, 1, 1 << 20);
            int heads = integer("num_attention_heads", null, 1, 1 << 16);
            int headsKv = integer("num_key_value_heads", heads, 1, heads);
            if (heads % headsKv != 0) {
                throw error("num_attention_heads " + heads + " is not a multiple of num_key_value_heads " + headsKv);
            }
            int headSize = integer("head_dim", width % heads == 0 ? width / heads : null, 2, 1 << 16);
            if (headSize % 2 != 0) {
                throw error("head_dim " + headSize + " is odd, rotary embeddings need pairs");
            }
            // the name of the first conversions of Llama
            @Nullable
            Integer stated =
                    present("max_sequence_length") ? integer("max_sequence_length", null, 1, Integer.MAX_VALUE) : null;
            int contextLength = integer("max_position_embeddings", stated, 1, Integer.MAX_VALUE);
            boolean qwen = modelType.equals("qwen2") || modelType.equals("qwen3");
            return new HfConfig(
                    qwen ? modelType : "llama",
                    modelType,
                    layers,
                    width,
                    integer("intermediate_size", null, 1, 1 << 24),
                    heads,
                    headsKv,
                    headSize,
                    integer("vocab_size", null, 1, 1 << 24),
                    contextLength,
                    (float) number("rms_norm_eps", 1e-6),
                    RopeConfig.read(file, json, contextLength),
                    bool("tie_word_embeddings", false),
                    !qwen,
                    plan(layers, contextLength));
        }

        private void checkKeys() {
            Set<String> known = new HashSet<>(COMMON);
            known.addAll(BY_MODEL_TYPE.getOrDefault(modelType, Set.of()));
            for (Map.Entry<String, JsonNode> entry : json.properties()) {
                String key = entry.getKey();
                JsonNode value = entry.getValue();
                if (known.contains(key) || HARMLESS.contains(key) || value.isNull()) {
                    continue;
                }
                String only = ONLY.get(key);
                if (only == null) {
                    throw error("unknown key " + key + " = " + abbreviate(value.toString())
                            + "; it may change what the model computes");
                }
                boolean same = value.isNumber()
                        ? value.asDouble() == Double.parseDouble(only)
                        : value.asText().equals(only);
                if (!same) {
                    throw error(key + " is " + abbreviate(value.toString()) + ", supported is only " + only);
                }
            }
        }

        private KvPlan plan(int layers, int contextLength) {
            return switch (modelType) {
                case "lckv-llama" -> lckvPlan(layers);
                case "opt-llama" -> optPlan(layers);
                case "cla-llama" -> claPlan(layers);
                default -> windowPlan(layers, contextLength);
            };
        }

        /** LCKVLlamaConfig, methods.md 1.1 and 1.2. */
        private KvPlan lckvPlan(int layers) {
            KvPlan plan = KvPlan.standard(layers);
            if (present("layer_types")) {
                String text = text("layer_types");
                if (!text.matches("[0-9sx_]+")) {
                    throw error("layer_types is \"" + abbreviate(text)
                            + "\", expected numbers, each alone or followed by s, joined by _");
                }
                // The reference keeps W tokens before the current one once flash attention is used, as it was for every
                // published checkpoint; llama.cpp's n_swa counts the current one too.
                String window =
                        text.contains("s") ? ";window=" + (integer("sliding_window", 4096, 1, 1 << 30) + 1) : "";
                plan = KvPlan.parse(text + window, layers);
            }
            plan = plan.withStrictDiagonal(bool("force_nodiag", false));
            int passes = integer("forward_passes", 7, 0, 1 << 20) + integer("backward_passes", 2, 1, 1 << 20);
            return plan.isUpward() ? plan.withPrefillPasses(bool("use_sequential", false) ? 0 : passes) : plan;
        }

        /** OptLlamaConfig of the paper's own code: 0 standard, 1 reads the target, 2 the target; methods.md 1.8. */
        private KvPlan optPlan(int layers) {
            String[] types = layerDigits(layers);
            int target = -1;
            for (int i = 0; i < layers; i++) {
                if (types[i].equals("2")) {
                    if (target >= 0) {
                        throw error("layer_types has two targets, layers " + target + " and " + i);
                    }
                    target = i;
                }
            }
            if (target < 0) {
                throw error("layer_types has no target, a layer of type 2");
            }
            int stated = integer("target_layer", target, -layers, layers - 1);
            if (Math.floorMod(stated, layers) != target) {
                throw error("target_layer is " + stated + ", but layer_types has the target at layer " + target);
            }
            int[] map = new int[layers];
            for (int i = 0; i < layers; i++) {
                map[i] = types[i].equals("1") ? target : i;
            }
            integer("num_trained_encoders", 1, 0, 1 << 20);
            KvPlan plan = KvPlan.of(map).withStrictDiagonal(true);
            return plan.isUpward() ? plan.withPrefillPasses(integer("num_encoders", 8, 0, 1 << 20) + 1) : plan;
        }

        /** The same digits; 1 reads the nearest lower 2; methods.md 1.8. */
        private KvPlan claPlan(int layers) {
            String[] types = layerDigits(layers);
            int[] map = new int[layers];
            int producer = -1;
            for (int i = 0; i < layers; i++) {
                if (types[i].equals("2")) {
                    producer = i;
                }
                if (types[i].equals("1") && producer < 0) {
                    throw error("layer_types: layer " + i + " reads a lower layer of type 2, but there is none");
                }
                map[i] = types[i].equals("1") ? producer : i;
            }
            return KvPlan.of(map);
        }

        private String[] layerDigits(int layers) {
            String[] types = text("layer_types").split("_", -1);
            if (types.length != layers) {
                throw new InvalidModelException(
                        file + ": layer_types has " + types.length + " layers, num_hidden_layers is " + layers,
                        (long) types.length,
                        (long) layers);
            }
            for (int i = 0; i < layers; i++) {
                if (!types[i].matches("[012]")) {
                    throw error("layer_types: layer " + i + " is \"" + abbreviate(types[i]) + "\", expected 0, 1 or 2");
                }
            }
            return types;
        }

        /**
         * Sliding windows of Mistral and Qwen. transformers lets a query see {@code sliding_window} tokens including its
         * own, which is n_swa.
         */
        private KvPlan windowPlan(int layers, int contextLength) {
            KvPlan standard = KvPlan.standard(layers);
            boolean[] windowed = new boolean[layers];
            boolean any = false;
            if (modelType.equals("llama") && present("sliding_window")) {
                throw error("sliding_window is set, which model_type llama does not have");
            }
            boolean enabled = present("sliding_window") && bool("use_sliding_window", modelType.equals("mistral"));
            JsonNode types = json.path("layer_types");
            if (present("layer_types") && (!types.isArray() || types.size() != layers)) {
                throw error("layer_types is " + abbreviate(types.toString()) + ", expected a list of " + layers);
            }
            int firstWindowed = modelType.equals("mistral") ? 0 : integer("max_window_layers", 28, 0, 1 << 20);
            for (int i = 0; i < layers; i++) {
                if (types.isArray()) {
                    windowed[i] = switch (types.path(i).asText()) {
                        case "full_attention" -> false;
                        case "sliding_attention" -> true;
                        default ->
                            throw error("layer_types: layer " + i + " is "
                                    + abbreviate(types.path(i).toString())
                                    + ", expected full_attention or sliding_attention");
                    };
                } else {
                    windowed[i] = enabled && i >= firstWindowed;
                }
                any |= windowed[i];
            }
            if (!any) {
                return standard;
            }
            int window = integer("sliding_window", null, 1, Integer.MAX_VALUE);
            if (window >= contextLength) {
                warnings.accept("sliding_window " + window + " is left out, the model's context has only "
                        + contextLength + " tokens");
                return standard;
            }
            return standard.withWindow(
                    window, IntStream.range(0, layers).filter(i -> windowed[i]).toArray());
        }

        private boolean present(String key) {
            return json.hasNonNull(key);
        }

        private String text(String key) {
            if (!json.path(key).isTextual()) {
                throw error(key + " is " + abbreviate(json.path(key).toString()) + ", expected a text");
            }
            return json.path(key).asText();
        }

        private boolean bool(String key, boolean fallback) {
            if (!present(key)) {
                return fallback;
            }
            if (!json.path(key).isBoolean()) {
                throw error(key + " is " + abbreviate(json.path(key).toString()) + ", expected true or false");
            }
            return json.path(key).asBoolean();
        }

        private double number(String key, double fallback) {
            if (!present(key)) {
                return fallback;
            }
            if (!json.path(key).isNumber()) {
                throw error(key + " is " + abbreviate(json.path(key).toString()) + ", expected a number");
            }
            return json.path(key).asDouble();
        }

        private int integer(String key, @Nullable Integer fallback, int min, int max) {
            if (!present(key) && fallback != null) {
                return fallback;
            }
            JsonNode value = json.path(key);
            if (!value.isIntegralNumber() || !value.canConvertToLong()) {
                throw error(key + " is " + abbreviate(value.toString()) + ", expected a whole number");
            }
            if (value.asLong() < min || value.asLong() > max) {
                throw new InvalidModelException(
                        file + ": " + key + " is " + value.asLong() + ", possible are " + min + " to " + max,
                        value.asLong(),
                        value.asLong() < min ? (long) min : (long) max);
            }
            return value.asInt();
        }

        private InvalidModelException error(String message) {
            return new InvalidModelException(file + ": " + message);
        }

        private static String abbreviate(String text) {
            return text.isEmpty() ? "missing" : text.length() <= 200 ? text : text.substring(0, 200) + "…";
        }
    }

    /** The file's {@code _name_or_path}, without its folder, if it is of any use as a name. */
    static Optional<String> name(JsonNode json) {
        String path = json.path("_name_or_path").asText("");
        String name = path.substring(path.lastIndexOf('/') + 1);
        return name.isEmpty() || name.equals(".") ? Optional.empty() : Optional.of(name);
    }
}
