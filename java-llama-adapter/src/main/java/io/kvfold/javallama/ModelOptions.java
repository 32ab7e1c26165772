package io.kvfold.javallama;

import de.kherud.llama.ModelParameters;
import io.kvfold.Engine;
import io.kvfold.UnknownOptionException;
import io.kvfold.UnsupportedOperationByModelException;
import io.kvfold.hub.ModelName;
import io.kvfold.hub.Models;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * java-llama.cpp's {@link ModelParameters} as options of an engine. They are command-line arguments of the llama-server that
 * java-llama.cpp 4.2.0 contains; those that have since been renamed are translated, those that are gone are refused.
 */
final class ModelOptions {

    /** Arguments without a value. */
    static final Set<String> FLAGS = Set.of(
            "check-tensors",
            "cont-batching",
            "dump-kv-cache",
            "embedding",
            "escape",
            "flash-attn",
            "ignore-eos",
            "jinja",
            "log-disable",
            "log-prefix",
            "log-timestamps",
            "lora-init-without-apply",
            "mlock",
            "no-cont-batching",
            "no-context-shift",
            "no-escape",
            "no-kv-offload",
            "no-mmap",
            "no-perf",
            "no-warmup",
            "reranking",
            "special",
            "spm-infill",
            "verbose");

    static final Set<String> REMOVED =
            Set.of("ctx-size-draft", "dump-kv-cache", "grp-attn-n", "grp-attn-w", "hf-file-v", "hf-repo-v");

    static final Map<String, String> RENAMED = Map.of(
            "draft-max", "spec-draft-n-max",
            "draft-min", "spec-draft-n-min",
            "draft-p-min", "spec-draft-p-min");

    /** They format llama.cpp's console log, which this library does not write. */
    static final Set<String> CONSOLE_LOG = Set.of("log-prefix", "log-timestamps", "log-verbosity", "verbose");

    private final Map<String, Object> arguments;
    private final Models.Builder models;

    ModelOptions(ModelParameters parameters) {
        this(parameters, Models.builder());
    }

    /** @param models where a model by name is looked up, unless the parameters hold a token */
    ModelOptions(ModelParameters parameters, Models.Builder models) {
        this.arguments = parse(parameters.toArray());
        this.models = models;
    }

    boolean embedding() {
        return arguments.containsKey("embedding");
    }

    boolean reranking() {
        return arguments.containsKey("reranking");
    }

    boolean silent() {
        return arguments.containsKey("log-disable");
    }

    /** The arguments that only concern llama.cpp's console log. */
    List<String> consoleLog() {
        return arguments.keySet().stream().filter(CONSOLE_LOG::contains).toList();
    }

    /**
     * Adds the options, with the defaults that java-llama.cpp 4.2.0 has and an engine has not. The context is an engine's, though, since
     * java-llama.cpp's 4096 tokens are too many for some models, and too few for others.
     *
     * @throws UnknownOptionException for an option that llama.cpp no longer has
     * @throws UnsupportedOperationByModelException for a log file
     */
    Engine.Builder addTo(Engine.Builder builder) {
        Map<String, Object> options = new LinkedHashMap<>();
        options.put("parallel", "1");
        options.put("context-shift", !arguments.containsKey("no-context-shift"));
        arguments.forEach((name, value) -> translate(name, value, options));
        int slots = Integer.parseInt((String) arguments.getOrDefault("parallel", "1"));
        int cells = Integer.parseInt((String) arguments.getOrDefault("ctx-size", "0"));
        if (slots > 1 && cells > 0) { // which an engine would give to each slot
            options.put("kv-unified-per-slot", Integer.toString(Math.max(1, cells / slots)));
        }
        options.forEach(builder::option);
        String name = modelName();
        if (name != null) {
            if (arguments.get("hf-token") instanceof String token) {
                models.token(token);
            }
            builder.modelName(name).models(models.build());
        }
        return builder;
    }

    /** The model as {@link Engine.Builder#modelName} takes it; null if it is a file. */
    private @Nullable String modelName() {
        if (arguments.get("hf-repo") instanceof String repository) {
            Object file = arguments.get("hf-file");
            return ModelName.PREFIX + repository + (file == null ? "" : "/" + file);
        }
        return arguments.get("model") instanceof String model && ModelName.isName(model) ? model : null;
    }

    private void translate(String name, Object value, Map<String, Object> options) {
        if (REMOVED.contains(name)) {
            throw new UnknownOptionException(
                    "option \"" + name + "\" of java-llama.cpp is not available: llama.cpp no longer has it");
        }
        switch (name) {
            case "no-context-shift",
                    "hf-file",
                    "hf-repo",
                    "hf-token",
                    "log-disable",
                    "log-prefix",
                    "log-timestamps",
                    "log-verbosity",
                    "verbose" -> {}
            case "log-file" ->
                throw new UnsupportedOperationByModelException(
                        "option \"log-file\" of java-llama.cpp is not available: the"
                                + " log goes to SLF4J, or to LlamaModel.setLogger()");
            case "flash-attn" -> options.put(name, "on");
            case "mlock", "no-mmap" -> options.put("load-mode", loadMode());
            case "lora-scaled", "control-vector-scaled" -> options.put(name, scaled((String) value));
            case "control-vector-layer-range" -> options.put(name, Arrays.asList(((String) value).split(",", 2)));
            case "model-draft" -> {
                options.put(name, value);
                options.put("spec-type", "draft-simple");
            }
            default -> options.put(RENAMED.getOrDefault(name, name), value);
        }
    }

    private String loadMode() {
        if (!arguments.containsKey("mlock")) {
            return "none";
        }
        return arguments.containsKey("no-mmap") ? "mlock" : "mmap+mlock";
    }

    /** "file,scale" was one argument; llama.cpp takes "file:scale" now. */
    private static String scaled(String value) {
        int comma = value.lastIndexOf(',');
        return value.substring(0, comma) + ':' + value.substring(comma + 1);
    }

    private static Map<String, Object> parse(String[] array) {
        Map<String, Object> arguments = new LinkedHashMap<>();
        for (int i = 1; i < array.length; i++) { // the first is the place of a program's name
            String name = array[i].substring("--".length());
            arguments.put(name, FLAGS.contains(name) ? Boolean.TRUE : array[++i]);
        }
        return arguments;
    }
}
