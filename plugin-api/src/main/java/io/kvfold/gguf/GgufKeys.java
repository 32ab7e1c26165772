package io.kvfold.gguf;

/**
 * Names of GGUF metadata keys. A method takes the architecture, the value of {@link #ARCHITECTURE}, because the keys of
 * hyperparameters start with it.
 *
 * <p>The keys that start with {@code kv} belong to this project; the native library reads them under the same names. All
 * others are llama.cpp's.
 */
public final class GgufKeys {

    /** String; which of llama.cpp's architectures the tensors belong to. */
    public static final String ARCHITECTURE = "general.architecture";

    /** String; a name for people. */
    public static final String NAME = "general.name";

    /** Uint32; tensor data starts at multiples of this many bytes, a power of two; 32 where absent. */
    public static final String ALIGNMENT = "general.alignment";

    /** Uint32; llama.cpp's {@code llama_ftype}: what most of the matrices are stored in. */
    public static final String FILE_TYPE = "general.file_type";

    /** Uint32; version of the block formats, 2. */
    public static final String QUANTIZATION_VERSION = "general.quantization_version";

    /** String; Jinja that makes a prompt of messages. {@code .NAME} behind it: one for another purpose. */
    public static final String CHAT_TEMPLATE = "tokenizer.chat_template";

    private GgufKeys() {}

    /** Int32 array, one element per layer: the layer whose keys and values this layer reads. */
    public static String kvLayerMap(String architecture) {
        return architecture + ".attention.kv_layer_map";
    }

    /** Bool: every layer hides the current token from itself, also those that read their own layer or a lower one. */
    public static String kvStrictDiagonal(String architecture) {
        return architecture + ".attention.kv_strict_diagonal";
    }

    /**
     * Uint32: how often a group of layers that read a higher layer is repeated over a prompt. 0 asks for the exact
     * result, whatever it costs.
     */
    public static String kvPrefillPasses(String architecture) {
        return architecture + ".attention.kv_prefill_passes";
    }

    /**
     * Bool array, one element per layer: the layer sees only the {@link #slidingWindow} most recent tokens. Written
     * together with {@link #kvLayerMap}.
     */
    public static String kvWindowLayers(String architecture) {
        return architecture + ".attention.kv_window_layers";
    }

    /**
     * Uint32: first positions of a sequence that a layer of {@link #kvWindowLayers} sees as well. Written together with
     * {@link #kvWindowLayers}.
     */
    public static String kvWindowSinks(String architecture) {
        return architecture + ".attention.kv_window_sinks";
    }

    /**
     * String: which tokens stay when a prompt has ended, as attributes of a {@link io.kvfold.KvPlan}'s text, such as
     * {@code evict=knorm:1024;skip=0}. Written together with {@link #kvLayerMap}.
     */
    public static String kvEviction(String architecture) {
        return architecture + ".attention.kv_eviction";
    }

    /** Uint32: how embeddings of tokens become one of a text: 0 not at all, 1 their mean, 2 the first one, 3 the last one. */
    public static String poolingType(String architecture) {
        return architecture + ".pooling_type";
    }

    /**
     * Uint32, {@code n_swa} of llama.cpp: a query at position {@code p} sees the keys at positions greater than
     * {@code p - n_swa}, so that {@code n_swa} counts the query's own token.
     */
    public static String slidingWindow(String architecture) {
        return architecture + ".attention.sliding_window";
    }

    /** Bool array, one element per layer, or uint32, a period: llama.cpp's own mark of sliding-window layers. */
    public static String slidingWindowPattern(String architecture) {
        return architecture + ".attention.sliding_window_pattern";
    }

    /** Uint32: the number of layers. */
    public static String blockCount(String architecture) {
        return architecture + ".block_count";
    }

    /** Uint32: tokens the model was trained with. */
    public static String contextLength(String architecture) {
        return architecture + ".context_length";
    }

    /** Uint32: width of the residual stream. */
    public static String embeddingLength(String architecture) {
        return architecture + ".embedding_length";
    }

    /** Uint32, or an array with one element per layer: width inside the feed-forward network. */
    public static String feedForwardLength(String architecture) {
        return architecture + ".feed_forward_length";
    }

    /** Uint32: size of the vocabulary; needed where the file has no tokenizer. */
    public static String vocabSize(String architecture) {
        return architecture + ".vocab_size";
    }

    /** Uint32, or an array with one element per layer: attention heads. */
    public static String headCount(String architecture) {
        return architecture + ".attention.head_count";
    }

    /** Uint32, or an array with one element per layer: key and value heads; {@link #headCount} where absent. */
    public static String headCountKv(String architecture) {
        return architecture + ".attention.head_count_kv";
    }

    /** Uint32: width of a key head; embedding length by head count where absent. */
    public static String keyLength(String architecture) {
        return architecture + ".attention.key_length";
    }

    /** Uint32: width of a value head; embedding length by head count where absent. */
    public static String valueLength(String architecture) {
        return architecture + ".attention.value_length";
    }
}
