package io.kvfold.langchain4j;

import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.LoadProgressListener;
import io.kvfold.hub.DownloadListener;
import io.kvfold.hub.ModelName;
import io.kvfold.hub.Models;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * What the builders of all models have in common: an engine that is borrowed, or the options of one that is opened and
 * owned. Not thread-safe.
 */
abstract class EngineBackedBuilder<B extends EngineBackedBuilder<B>> {

    private final Map<String, Object> options = new LinkedHashMap<>();
    private @Nullable Engine engine;
    private @Nullable Path modelPath;
    private @Nullable String hubName;
    private @Nullable Models models;
    private @Nullable DownloadListener downloadProgress;
    private @Nullable LoadProgressListener loadProgress;

    /**
     * Borrows an engine, so that several models share weights and KV cache. The model does not close it, and fails once
     * the application has closed it. Excludes every option of an engine below.
     */
    public B engine(@Nullable Engine engine) {
        this.engine = engine;
        return self();
    }

    /** The GGUF file of an engine that {@link #engine} does not lend; the model owns that engine and closes it. */
    public B modelPath(@Nullable Path modelPath) {
        this.modelPath = modelPath;
        return self();
    }

    /** As {@link #modelPath(Path)}. */
    public B modelPath(@Nullable String modelPath) {
        return modelPath(modelPath == null ? null : Path.of(modelPath));
    }

    /**
     * A model on a hub in place of {@link #modelPath(Path)}: {@code hf:owner/name[:quant|/file][@revision]}. It is fetched
     * into the cache of Hugging Face's programs when the model is built, unless it is there.
     *
     * @throws IllegalArgumentException if it is no such name
     */
    public B modelName(@Nullable String modelName) {
        if (modelName != null && !ModelName.isName(modelName)) {
            throw new IllegalArgumentException(
                    "'" + modelName + "' does not begin with " + ModelName.PREFIX + "; modelPath takes a file");
        }
        this.hubName = modelName;
        return self();
    }

    /** Where {@link #modelName} looks; default: the hub and the cache that the environment names. */
    public B models(@Nullable Models models) {
        this.models = models;
        return self();
    }

    /** Told how far the download of {@link #modelName} is, if there is one. */
    public B downloadProgress(@Nullable DownloadListener listener) {
        this.downloadProgress = listener;
        return self();
    }

    /**
     * Tokens that one request may use, prompt and answer together; default: what the model was trained with. See
     * {@link Engine.Builder#contextSize}.
     */
    public B contextSize(@Nullable Integer tokens) {
        return engineOption("ctx-size", tokens);
    }

    /** Requests that are decoded side by side; default 4. */
    public B slots(@Nullable Integer slots) {
        return engineOption("parallel", slots);
    }

    /** Threads that compute on the CPU; default: the number of physical cores. */
    public B threads(@Nullable Integer threads) {
        return engineOption("threads", threads);
    }

    /** Layers to keep on a GPU; default: as many as there are. */
    public B gpuLayers(@Nullable Integer layers) {
        return engineOption("n-gpu-layers", layers);
    }

    /** Which layer reads whose keys and values; default: what the GGUF file says. */
    public B kvPlan(@Nullable KvPlan plan) {
        return engineOption("kv-plan", plan == null ? null : plan.toString());
    }

    /**
     * Memory that keys and values may take, in bytes; default: 60% of what is free. See {@link Engine.Builder#kvBudget}.
     */
    public B kvBudget(@Nullable Long bytes) {
        return engineOption("kv-budget", bytes);
    }

    /** Memory that keys and values leave free, in bytes. See {@link Engine.Builder#memoryReserve}. */
    public B memoryReserve(@Nullable Long bytes) {
        return engineOption("memory-reserve", bytes);
    }

    /** Where answers that give way keep their keys and values; default nowhere. See {@link Engine.Builder#swapFolder}. */
    public B swapFolder(@Nullable Path folder) {
        return engineOption(
                "swap-dir", folder == null ? null : folder.toAbsolutePath().toString());
    }

    /** How keys and values are stored; default f16. See {@link Engine.Builder#kvCacheTypes}. */
    public B kvCacheTypes(@Nullable KvType keys, @Nullable KvType values) {
        engineOption("cache-type-k", keys == null ? null : keys.text());
        return engineOption("cache-type-v", values == null ? null : values.text());
    }

    /** Tokens computed at once; default 512, and the whole context where embeddings are a mean or of the first token. */
    public B ubatchSize(@Nullable Integer tokens) {
        return engineOption("ubatch-size", tokens);
    }

    /** Tokens handed to a decode at most; default: the ubatch size. */
    public B batchSize(@Nullable Integer tokens) {
        return engineOption("batch-size", tokens);
    }

    /** Default: where the backend has it. */
    public B flashAttention(@Nullable FlashAttention flashAttention) {
        return engineOption("flash-attn", flashAttention == null ? null : flashAttention.text());
    }

    /** Requests that may wait for a slot or for memory; default 256. */
    public B maxQueue(@Nullable Integer requests) {
        return engineOption("max-queue", requests);
    }

    /** Hosts that hold layers, {@code "host:port"}; default: none. See {@link Engine.Builder#rpcServers}. */
    public B rpcServers(@Nullable List<String> addresses) {
        return engineOption("rpc", addresses == null || addresses.isEmpty() ? null : addresses);
    }

    /** As {@link #rpcServers(List)}. */
    public B rpcServers(String... addresses) {
        return rpcServers(List.of(addresses));
    }

    /** See {@link Engine.Builder#describeTools}; default true. */
    public B describeTools(@Nullable Boolean describeTools) {
        return engineOption("describe-tools", describeTools);
    }

    /** See {@link Engine.Builder#describeSchema}; default true. */
    public B describeSchema(@Nullable Boolean describeSchema) {
        return engineOption("describe-schema", describeSchema);
    }

    /** Told how far loading is. */
    public B loadProgress(@Nullable LoadProgressListener listener) {
        this.loadProgress = listener;
        return self();
    }

    /** As {@link #engineOption}. */
    public B option(String name, @Nullable Object value) {
        return engineOption(name, value);
    }

    /**
     * Any option of the engine by llama-server's long name, such as {@code "cache-type-k"}.
     *
     * @param value a string, a number, a boolean, or a list of these; null goes back to the default
     */
    public B engineOption(String name, @Nullable Object value) {
        if (value == null) {
            options.remove(name);
        } else {
            options.put(name, value);
        }
        return self();
    }

    /**
     * The borrowed engine, or a new one.
     *
     * @param flags options that a new engine needs for this kind of model
     * @throws IllegalArgumentException if neither an engine nor a model is set, or both, or both a path and a name, or a
     *     borrowed engine has options
     */
    EngineHandle openEngine(String... flags) {
        if (engine != null) {
            if (modelPath != null || !options.isEmpty() || loadProgress != null) {
                throw new IllegalArgumentException("A borrowed engine is already open: remove "
                        + (modelPath != null
                                ? "modelPath " + modelPath
                                : !options.isEmpty() ? "the engine options " + options.keySet() : "loadProgress"));
            }
            return EngineHandle.borrow(engine);
        }
        Engine.Builder builder = Engine.builder();
        if (modelPath != null && hubName != null) {
            throw new IllegalArgumentException(
                    "Set modelPath " + modelPath + " or modelName " + hubName + ", not both");
        }
        if (modelPath != null) {
            builder.model(modelPath);
        } else if (hubName != null) {
            String name = hubName;
            Errors.translating(() -> builder.modelName(name));
        } else {
            throw new IllegalArgumentException("Set modelPath to a GGUF file, modelName to " + ModelName.PREFIX
                    + "owner/name, or engine to an open engine");
        }
        if (models != null) {
            builder.models(models);
        }
        if (downloadProgress != null) {
            builder.downloadProgress(downloadProgress);
        }
        for (String flag : flags) {
            builder.option(flag, true);
        }
        options.forEach(builder::option);
        if (loadProgress != null) {
            builder.loadProgress(loadProgress);
        }
        return EngineHandle.open(builder);
    }

    @SuppressWarnings("unchecked") // B is the builder's own class
    B self() {
        return (B) this;
    }
}
