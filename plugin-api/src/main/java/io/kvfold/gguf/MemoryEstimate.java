package io.kvfold.gguf;

import io.kvfold.InvalidModelException;
import io.kvfold.InvalidPlanException;
import io.kvfold.KvPlan;
import io.kvfold.UnsupportedOperationByModelException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.function.IntPredicate;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;

/**
 * What a model needs in memory, told from its header alone.
 *
 * <p>The KV cache is counted as llama.cpp v0.5.0 allocates it: contexts are rounded up to 256 tokens, keys and values
 * stand in rows of heads × width, windowed layers hold a window and one ubatch. Compute buffers are not counted.
 *
 * @param weightBytes data of all tensors
 * @param layers layers of the model
 * @param storage the layers that keep keys and values, in order; the others read one of these
 * @param window tokens that a windowed layer sees, {@code n_swa} of llama.cpp and the sinks of the plan; 0 if no layer is
 *     windowed
 * @param windowCells cells of a windowed layer for each slot, to which those of a ubatch come; one more than {@code window}
 *     under a plan
 * @param exact whether the allocation will be as computed; otherwise {@link #note} says in which direction it is off
 * @param note empty if {@code exact}
 */
public record MemoryEstimate(
        long weightBytes, int layers, List<Storage> storage, int window, int windowCells, boolean exact, String note) {

    private static final int CELL_PADDING = 256;
    private static final int DEFAULT_UBATCH = 512;

    // Under a plan: those of what is kept beside the slots for prompts to come.
    private static final int KEPT_WINDOWS = 8;

    // Architectures of llama.cpp v0.5.0 (llama-arch.cpp, llama_model::create_memory).
    private static final Set<String> RECURRENT = Set.of(
            "mamba",
            "mamba2",
            "rwkv6",
            "rwkv6qwen2",
            "rwkv7",
            "arwkv7",
            "jamba",
            "falcon-h1",
            "plamo2",
            "granitehybrid",
            "lfm2",
            "lfm2moe",
            "nemotron_h",
            "nemotron_h_moe",
            "qwen3next",
            "kimi-linear",
            "bailingmoe3",
            "kimi-k3",
            "qwen35",
            "qwen35moe",
            "qwen4exp",
            "deepseek4",
            "minimax-01");
    private static final Set<String> CACHE_OF_THEIR_OWN =
            Set.of("minimax-m3", "glm-dsa", "deepseek32", "hy_v4", "dots3note", "dflash", "gemma4-assistant");
    private static final Set<String> WITHOUT_CACHE = Set.of(
            "bert",
            "jina-bert-v2",
            "jina-bert-v3",
            "nomic-bert",
            "nomic-bert-moe",
            "neo-bert",
            "eurobert",
            "wavtokenizer-dec",
            "modern-bert",
            "gemma-embedding",
            "dream",
            "llada",
            "llada-moe",
            "rnd1");

    // Period of the sliding-window pattern where the file does not say: the last layer of each period is full.
    private static final Map<String, Integer> WINDOW_PERIOD =
            Map.of("gemma2", 2, "gemma3", 6, "gemma3n", 5, "gpt-oss", 2, "cohere2", 4, "olmo2", 4);
    private static final Set<String> WINDOW_BY_LAYER =
            Set.of("gemma4", "granite_swa", "maple", "mimo2", "step35", "spark2_5");
    private static final Set<String> WINDOW_OF_ANOTHER_SHAPE = Set.of(
            "afmoe",
            "cohere2moe",
            "exaone-moe",
            "exaone4",
            "laguna",
            "llama4",
            "mellum",
            "muse-glimmer",
            "plamo3",
            "smallthinker");

    /**
     * Keys and values of one layer.
     *
     * @param layer its index
     * @param keyBytes of one token
     * @param valueBytes of one token
     * @param windowed whether only the most recent tokens are kept
     * @param both whether there is address space for all tokens and for the most recent ones, of which one will be used
     */
    public record Storage(int layer, long keyBytes, long valueBytes, boolean windowed, boolean both) {}

    /** Copies the list. */
    public MemoryEstimate {
        storage = List.copyOf(storage);
    }

    /** For the file's own plan, with keys and values in f16, llama.cpp's default. */
    public static MemoryEstimate of(GgufFile file) {
        return of(file, null, GgufType.F16, GgufType.F16);
    }

    /**
     * For a plan and types of one's own.
     *
     * @param plan which layer reads whose keys and values; null for the plan in the file's metadata, or none
     * @param keys what keys are stored in
     * @param values what values are stored in
     * @throws InvalidModelException if the metadata lacks a number that is needed, or is absurd
     * @throws InvalidPlanException if the plan has another number of layers than the model, or the model's cache has a
     *     pattern of its own
     * @throws UnsupportedOperationByModelException if the model keeps a recurrent state or a cache of another kind, which
     *     cannot be told from the header, or if heads do not divide into blocks of {@code keys} or {@code values}
     */
    public static MemoryEstimate of(GgufFile file, @Nullable KvPlan plan, GgufType keys, GgufType values) {
        String architecture = file.architecture();
        if (RECURRENT.contains(architecture) || CACHE_OF_THEIR_OWN.contains(architecture)) {
            throw new UnsupportedOperationByModelException("architecture " + architecture + " keeps "
                    + (RECURRENT.contains(architecture) ? "a recurrent state" : "a cache of its own kind")
                    + ", its memory cannot be told from the header");
        }
        Header header = new Header(file, architecture);
        if (WITHOUT_CACHE.contains(architecture)) {
            return new MemoryEstimate(file.tensorBytes(), header.layers, List.of(), 0, 0, true, "");
        }
        Optional<KvPlan> folded = plan == null ? GgufKvPlan.read(file) : Optional.of(plan);
        if (folded.isPresent() && folded.get().layers() != header.layers) {
            throw new InvalidPlanException(
                    "the KV plan has " + folded.get().layers() + " layers, " + file.path() + " has " + header.layers,
                    (long) folded.get().layers(),
                    (long) header.layers);
        }
        folded = folded.filter(other -> !other.isStandard());
        Windows windows = Windows.of(header);
        if (folded.isPresent()) {
            if (header.isLatent() || header.storingLayers() < header.layers || windows.any()) {
                throw new InvalidPlanException("architecture " + architecture
                        + " has a KV cache of its own pattern, which a KV plan cannot replace");
            }
            windows = Windows.of(folded.get());
        }
        List<Storage> storage = new ArrayList<>();
        for (int layer = 0; layer < header.layers; layer++) {
            boolean stores = folded.isPresent() ? folded.get().isProducer(layer) : layer < header.storingLayers();
            if (stores) {
                boolean both = folded.isPresent() && folded.get().mayKeepOnlyWindow(layer);
                storage.add(header.storage(layer, windows.layers().contains(layer), both, keys, values));
            }
        }
        return new MemoryEstimate(
                file.tensorBytes(),
                header.layers,
                storage,
                windows.width(),
                windows.width() + (folded.isPresent() ? 1 : 0),
                windows.note().isEmpty(),
                windows.note());
    }

    /** Bytes that one more token takes: the K row and the V row of all layers with storage, windowed ones included. */
    public long kvBytesPerToken() {
        long bytes = 0;
        for (Storage layer : storage) {
            bytes = Math.addExact(bytes, Math.addExact(layer.keyBytes(), layer.valueBytes()));
        }
        return bytes;
    }

    /** Bytes of the KV cache for one sequence of up to {@code contextSize} tokens, with ubatches of 512. */
    public long kvBytes(long contextSize) {
        return kvBytes(contextSize, 1, false, DEFAULT_UBATCH);
    }

    /**
     * Bytes of the KV cache.
     *
     * @param contextSize tokens in all slots together, at least 1
     * @param slots sequences side by side, at least 1
     * @param unified whether the slots share one buffer, as llama-server's {@code --kv-unified}
     * @param ubatchSize tokens computed at once, at least 1
     * @throws IllegalArgumentException if a number is below its least value
     * @throws ArithmeticException if the result is more than a {@code long} counts
     */
    public long kvBytes(long contextSize, int slots, boolean unified, int ubatchSize) {
        if (contextSize < 1 || slots < 1 || ubatchSize < 1) {
            throw new IllegalArgumentException("context size " + contextSize + ", slots " + slots + " and ubatch size "
                    + ubatchSize + " must be at least 1");
        }
        long total = pad(contextSize);
        long streams = unified ? 1 : slots;
        long cells = unified ? total : pad(Math.max(1, total / slots));
        long windows = !unified ? 1 : (long) slots + (windowCells > window ? KEPT_WINDOWS : 0);
        long ofWindows = pad(Math.min(cells, Math.addExact(Math.multiplyExact(windowCells, windows), ubatchSize)));
        long bytes = 0;
        for (Storage layer : storage) {
            long layerCells = (layer.windowed() ? 0 : cells) + (layer.windowed() || layer.both() ? ofWindows : 0);
            long rows = Math.multiplyExact(layerCells, streams);
            bytes = Math.addExact(bytes, Math.multiplyExact(rows, Math.addExact(layer.keyBytes(), layer.valueBytes())));
        }
        return bytes;
    }

    private static long pad(long tokens) {
        return Math.multiplyExact(Math.addExact(tokens, CELL_PADDING - 1) / CELL_PADDING, (long) CELL_PADDING);
    }

    /** Which layers are windowed; the note is empty if that is certain. */
    private record Windows(Set<Integer> layers, int width, String note) {

        private static Set<Integer> select(int layers, IntPredicate windowed) {
            return IntStream.range(0, layers).filter(windowed).boxed().collect(Collectors.toUnmodifiableSet());
        }

        boolean any() {
            return width > 0 || !note.isEmpty();
        }

        static Windows of(KvPlan plan) {
            return new Windows(
                    select(plan.layers(), plan::keepsOnlyWindow), plan.window().orElse(0) + plan.sinks(), "");
        }

        static Windows of(Header header) {
            String architecture = header.architecture;
            String patternKey = GgufKeys.slidingWindowPattern(architecture);
            int width = (int) header.number(GgufKeys.slidingWindow(architecture), 0);
            if (architecture.equals("gemma2") && width == 0) {
                width = 4096; // llama_model_gemma2::load_arch_hparams
            }
            if (width == 0) {
                return new Windows(Set.of(), 0, "");
            }
            if (WINDOW_OF_ANOTHER_SHAPE.contains(architecture)) {
                return new Windows(
                        Set.of(),
                        0,
                        "upper bound: the sliding windows of " + architecture + " are counted as full contexts");
            }
            boolean byPeriod = WINDOW_PERIOD.containsKey(architecture);
            if (!byPeriod && !WINDOW_BY_LAYER.contains(architecture)) {
                return new Windows(Set.of(), 0, ""); // llama.cpp does not use the key for this architecture
            }
            if (header.file.type(patternKey).filter(GgufValueType.ARRAY::equals).isPresent()) {
                boolean[] pattern = header.file.bools(patternKey).orElseThrow();
                if (pattern.length < header.layers) {
                    throw new InvalidModelException(
                            header.file.path() + ": " + patternKey + " has " + pattern.length
                                    + " elements, the model has " + header.layers + " layers",
                            (long) pattern.length,
                            (long) header.layers);
                }
                return new Windows(select(header.layers, layer -> pattern[layer]), width, "");
            }
            if (!byPeriod) {
                throw new InvalidModelException(header.file.path() + ": no " + patternKey);
            }
            long period = header.number(patternKey, WINDOW_PERIOD.getOrDefault(architecture, 0));
            return new Windows(select(header.layers, layer -> period == 0 || layer % period < period - 1), width, "");
        }
    }

    /** The hyperparameters that size a KV cache, read as llama_model_base::load_hparams does. */
    private static final class Header {
        private final GgufFile file;
        private final String architecture;
        private final int layers;

        Header(GgufFile file, String architecture) {
            this.file = file;
            this.architecture = architecture;
            long blocks = required(GgufKeys.blockCount(architecture));
            long draftLayers = number(architecture + ".nextn_predict_layers", 0);
            if (blocks < 1 || blocks > KvPlan.MAX_LAYERS || draftLayers > blocks) {
                throw new InvalidModelException(
                        file.path() + ": " + blocks + " layers, of which " + draftLayers + " draft, possible are 1 to "
                                + KvPlan.MAX_LAYERS,
                        blocks,
                        (long) KvPlan.MAX_LAYERS);
            }
            this.layers = (int) (draftLayers == blocks ? blocks : blocks - draftLayers);
        }

        /** Upstream's own sharing: the layers from here on read a lower one. */
        int storingLayers() {
            return switch (architecture) {
                case "gemma3n" -> Math.min(layers, 20);
                case "gemma4" -> (int) Math.max(0, layers - number(architecture + ".attention.shared_kv_layers", 0));
                default -> layers;
            };
        }

        /** Multi-head latent attention: one compressed row per token in place of keys and values. */
        boolean isLatent() {
            return file.type(architecture + ".attention.key_length_mla").isPresent();
        }

        Storage storage(int layer, boolean windowed, boolean both, GgufType keys, GgufType values) {
            long heads = perLayer(GgufKeys.headCountKv(architecture), layer)
                    .or(() -> perLayer(GgufKeys.headCount(architecture), layer))
                    .orElseThrow(
                            () -> new InvalidModelException(file.path() + ": no " + GgufKeys.headCount(architecture)));
            String suffix = windowed ? "_swa" : "";
            long keyBytes = row("key", keys, heads, width(GgufKeys.keyLength(architecture), suffix));
            long valueBytes =
                    isLatent() ? 0 : row("value", values, heads, width(GgufKeys.valueLength(architecture), suffix));
            return new Storage(layer, keyBytes, valueBytes, windowed, both);
        }

        private long row(String what, GgufType type, long heads, long width) {
            if (width % type.blockElements() != 0) {
                throw new UnsupportedOperationByModelException(
                        "a " + what + " head of " + width + " elements does not divide into " + type.label()
                                + "'s blocks of " + type.blockElements(),
                        width,
                        (long) type.blockElements());
            }
            try {
                return type.bytes(Math.multiplyExact(heads, width));
            } catch (ArithmeticException e) {
                throw new InvalidModelException(
                        file.path() + ": " + heads + " heads of " + width + " elements cannot be counted", e);
            }
        }

        private long width(String key, String suffix) {
            long fallback = file.type(key).isPresent() ? required(key) : defaultWidth();
            return number(key + suffix, fallback);
        }

        private long defaultWidth() {
            long heads = perLayer(GgufKeys.headCount(architecture), 0).orElse(0L);
            if (heads == 0) {
                throw new InvalidModelException(file.path() + ": no " + GgufKeys.headCount(architecture));
            }
            return required(GgufKeys.embeddingLength(architecture)) / heads;
        }

        private Optional<Long> perLayer(String key, int layer) {
            Optional<GgufValueType> type = file.type(key);
            if (type.isEmpty()) {
                return Optional.empty();
            }
            if (type.get() != GgufValueType.ARRAY) {
                return Optional.of(required(key));
            }
            long[] values = file.integers(key).orElseThrow();
            if (layer >= values.length || values[layer] < 0) {
                throw new InvalidModelException(
                        file.path() + ": " + key + " has " + values.length + " elements, layer " + layer
                                + " needs one that is not negative",
                        (long) values.length,
                        (long) layer);
            }
            return Optional.of(values[layer]);
        }

        private long required(String key) {
            return checked(
                    key, file.integer(key).orElseThrow(() -> new InvalidModelException(file.path() + ": no " + key)));
        }

        private long number(String key, long fallback) {
            return checked(key, file.integer(key).orElse(fallback));
        }

        private long checked(String key, long value) {
            if (value < 0 || value > Integer.MAX_VALUE) {
                throw new InvalidModelException(
                        file.path() + ": " + key + " is " + value + ", possible are 0 to " + Integer.MAX_VALUE,
                        value,
                        (long) Integer.MAX_VALUE);
            }
            return value;
        }
    }
}
