package io.kvfold;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.hub.DownloadListener;
import io.kvfold.hub.LocalModel;
import io.kvfold.hub.ModelName;
import io.kvfold.hub.Models;
import io.kvfold.internal.NativeBridge;
import io.kvfold.internal.NativeEngine;
import io.kvfold.internal.NativeServer;
import io.kvfold.internal.NativeStatusException;
import java.lang.ref.Cleaner;
import java.lang.ref.Reference;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A loaded model: weights, context, slots and the worker that decodes requests side by side.
 *
 * <pre>{@code
 * try (Engine engine = Engine.open(Path.of("model.gguf"));
 *         Generation answer = engine.chat(body)) {
 *     for (JsonNode chunk = answer.next(); chunk != null; chunk = answer.next()) { ... }
 * }
 * }</pre>
 *
 * <p>Requests and answers are the JSON that llama-server of llama.cpp takes and gives on the same route.
 *
 * <p>Thread-safe, for platform and virtual threads. Every method throws {@link EngineClosedException} once the engine is
 * closed. An engine that is never closed is closed when it is collected, and does not keep the JVM from exiting.
 */
public final class Engine implements AutoCloseable {

    static final Cleaner CLEANER = Cleaner.create();

    private static final Logger LOG = LoggerFactory.getLogger(Engine.class);

    private final SharedEngine shared;
    private final EngineInfo info;
    private final Share share;
    private final Cleaner.Cleanable cleanable;
    private volatile boolean closed;

    private Engine(SharedEngine shared, EngineInfo info) {
        this.shared = shared;
        this.info = info;
        this.share = new Share(shared, info.model().path());
        this.cleanable = CLEANER.register(this, share);
    }

    /**
     * Opens a GGUF file with the default options.
     *
     * @throws KvfoldException as {@link Builder#open()}
     */
    public static Engine open(Path model) {
        return builder().model(model).open();
    }

    public static Builder builder() {
        return new Builder();
    }

    /** Facts that do not change; also after the engine is closed. */
    public EngineInfo info() {
        return info;
    }

    /** The KV cache now, also while requests run. Waits for one ubatch at most. */
    public KvCacheStats kvCacheStats() {
        return Json.read(use(NativeEngine::kvStats), KvCacheStats.class);
    }

    /** Tokens computed and generated so far, and how long that took. Waits for one ubatch at most. */
    public TokenStats tokenStats() {
        return Json.read(use(NativeEngine::tokenStats), TokenStats.class);
    }

    /**
     * Starts a chat completion; route {@code /v1/chat/completions}. With {@code "stream": true} the chunks are OpenAI's
     * {@code chat.completion.chunk} objects, otherwise there is one {@code chat.completion}.
     *
     * @param body OpenAI's request, with llama-server's additions
     * @throws QueueFullException if too many requests wait
     */
    public Generation chat(JsonNode body) {
        return start("/v1/chat/completions", body);
    }

    /**
     * As {@link #chat(JsonNode)}, for a conversation whose KV state is kept.
     *
     * @throws QueueFullException if too many requests wait
     * @throws KvStateException if the store fails and the session is strict
     */
    public Generation chat(JsonNode body, Session session) {
        return start("/v1/chat/completions", body, session);
    }

    /**
     * Starts the continuation of a raw prompt; llama-server's route {@code /completion}.
     *
     * @throws QueueFullException if too many requests wait
     */
    public Generation complete(JsonNode body) {
        return start("/completion", body);
    }

    /**
     * Starts a request on any route of {@code kvfold_request_open()}: also {@code /infill}, {@code /v1/embeddings}, {@code /embeddings},
     * {@code /v1/rerank}, {@code /tokenize}, {@code /detokenize}, {@code /apply-template},
     * {@code /v1/chat/completions/input_tokens}, {@code /props}, {@code /slots}, {@code /metrics}. Does not wait for a result.
     *
     * @throws InvalidRequestException if there is no such route, the body is not an object, or a number in it is out of its
     *     range; what else is wrong with a request is reported by {@link Generation#next()}
     * @throws QueueFullException if too many requests wait
     */
    public Generation start(String route, JsonNode body) {
        return start(route, body, (SessionFiles) null);
    }

    /**
     * As {@link #start(String, JsonNode)} on a route of completions, for a conversation whose KV state is kept. The body
     * asks for one answer to one prompt.
     *
     * @throws InvalidRequestException as above, and for another route
     * @throws QueueFullException if too many requests wait
     * @throws KvStateException if the store fails and the session is strict
     */
    public Generation start(String route, JsonNode body, Session session) {
        SessionFiles files = SessionFiles.open(session);
        try {
            return start(route, body, files);
        } catch (RuntimeException e) {
            if (files != null) {
                files.run();
            }
            throw e;
        }
    }

    private Generation start(String route, JsonNode body, @Nullable SessionFiles files) {
        if (!body.isObject()) {
            throw new InvalidRequestException("the body of a request is a JSON object, not "
                    + body.getNodeType().name().toLowerCase(Locale.ROOT));
        }
        byte[] json = Json.write(body);
        byte[] state = files == null ? null : files.toJson();
        return new Generation(this, use(engine -> engine.open(route, json, state)), files);
    }

    /**
     * Starts a request and waits for its single chunk.
     *
     * @throws KvfoldException as {@link #start} and {@link Generation#next()}
     */
    public JsonNode call(String route, JsonNode body) {
        try (Generation generation = start(route, body)) {
            JsonNode answer = generation.next();
            if (answer == null) {
                throw new InternalEngineException("no answer came from " + route);
            }
            return answer;
        }
    }

    /**
     * The token ids of a text.
     *
     * @param addSpecial whether to add what the vocabulary puts around a text, such as BOS
     * @param parseSpecial whether the text of a special token becomes that token
     */
    public int[] tokenize(String text, boolean addSpecial, boolean parseSpecial) {
        ObjectNode body = Json.MAPPER
                .createObjectNode()
                .put("content", text)
                .put("add_special", addSpecial)
                .put("parse_special", parseSpecial);
        return Json.convert(call("/tokenize", body).path("tokens"), int[].class);
    }

    /** The text of token ids. */
    public String detokenize(int... tokens) {
        ObjectNode body = Json.MAPPER.createObjectNode();
        ArrayNode ids = body.putArray("tokens");
        for (int token : tokens) {
            ids.add(token);
        }
        return call("/detokenize", body).path("content").asText();
    }

    /**
     * The prompt that the model's chat template makes of the body of a chat completion.
     *
     * @throws KvfoldException if the template rejects the messages
     */
    public String applyTemplate(JsonNode chatBody) {
        return call("/apply-template", chatBody).path("prompt").asText();
    }

    /**
     * Computes the logits of every position of one token sequence, from position 0, on a context of its own. Takes
     * {@code 4 * tokens * vocabularySize} bytes outside the Java heap ({@code -XX:MaxDirectMemorySize}), 2 GiB at most.
     * Not cancellable; {@link #close()} waits for it.
     *
     * @param tokens ids, each in {@code [0, vocabularySize)}
     * @throws InvalidRequestException if there are none, or more than fit 2 GiB
     * @throws ContextExceededException if they do not fit the model's context
     */
    public Logits evaluate(int... tokens) {
        int columns = info.model().vocabularySize();
        int limit = columns == 0 ? 0 : Integer.MAX_VALUE / Float.BYTES / columns;
        if (tokens.length == 0 || tokens.length > limit) {
            throw new InvalidRequestException(
                    "evaluate takes 1 to " + limit + " tokens with a vocabulary of " + columns + ", not "
                            + tokens.length,
                    (long) tokens.length,
                    (long) limit);
        }
        FloatBuffer values = direct(tokens.length * columns);
        evaluate(tokens, 0, (position, logits) -> logits.copyTo(values, position));
        return new Logits(values, tokens.length, columns);
    }

    /**
     * As {@link #evaluate(int...)}, but hands the logits out as they are computed, a ubatch at a time, and holds no more of
     * them. Under a plan that chooses lazy layers for each prompt, what was chosen before {@code first} applies from there.
     *
     * @param first the position from which on there are logits, in {@code [0, tokens.length)}
     * @param listener is told of them on this thread; what it throws ends the evaluation and is thrown by this method
     */
    public void evaluate(int[] tokens, int first, LogitsListener listener) {
        int columns = info.model().vocabularySize();
        int[] ids = tokens.clone();
        AtomicReference<Throwable> thrown = new AtomicReference<>();
        try {
            use(engine -> {
                engine.evaluate(ids, first, columns, (position, count, values) -> {
                    try {
                        listener.onLogits(position, new Logits(values, count, columns));
                        return true;
                    } catch (RuntimeException | Error e) {
                        thrown.set(e);
                        return false;
                    }
                });
                return this;
            });
        } catch (GenerationCancelledException e) {
            if (thrown.get() instanceof Error error) {
                throw error;
            }
            throw thrown.get() instanceof RuntimeException own ? own : e;
        }
    }

    /** Serves this engine over HTTP, on this machine only unless told otherwise. */
    public EngineServer.Builder server() {
        return new EngineServer.Builder(this);
    }

    NativeServer serve(byte[] options) {
        return use(engine -> engine.serve(options));
    }

    /**
     * Computes the last layer's output, normed, at every position of one token sequence. On a context of its own as
     * {@link #evaluate}, with keys and values in f32.
     *
     * @return [tokens, embedding length]
     * @throws InvalidRequestException if there are no tokens, or the answer takes more than 2 GiB
     */
    public float[][] hiddenStates(int... tokens) {
        ObjectNode what = Json.MAPPER.createObjectNode().put("what", "hidden_states");
        return observe(what, tokens, (values, shape) -> rows(values, shape[0], shape[1]));
    }

    /**
     * Computes what every layer stores in the KV cache for one token sequence, as {@link #hiddenStates}. Keys are
     * rotated to their positions.
     *
     * @throws UnsupportedOperationByModelException unless each layer stores keys and values of its own, in rows of one
     *     width
     * @throws InvalidRequestException if there are no tokens, or the answer takes more than 2 GiB
     */
    public KeysAndValues keysAndValues(int... tokens) {
        ObjectNode what = Json.MAPPER.createObjectNode().put("what", "keys_values");
        return observe(what, tokens, (values, shape) -> {
            float[][] all = rows(values, 2 * shape[1], shape[2] * shape[3]);
            return new KeysAndValues(
                    Arrays.copyOf(all, shape[1]), Arrays.copyOfRange(all, shape[1], all.length), shape[2], shape[3]);
        });
    }

    /**
     * Computes for each layer the share of the attention of the last tokens that falls on what a lazy layer retains
     * (SimLayerKV's score): the first {@code sinks} positions and the {@code recent} most recent ones, the query's own
     * included. The mean over heads and queries; 1 if the sequence is no longer than that. Computed without flash
     * attention, as {@link #hiddenStates}.
     *
     * @param sinks from 0
     * @param recent from 1
     * @param queries how many of the last tokens are scored; from 1 to the ubatch size
     * @return [layers]
     * @throws InvalidRequestException if a number is out of range or there are fewer tokens than queries
     */
    public float[] retainedAttention(int sinks, int recent, int queries, int... tokens) {
        ObjectNode what = Json.MAPPER
                .createObjectNode()
                .put("what", "attention_mass")
                .put("sinks", sinks)
                .put("recent", recent)
                .put("queries", queries);
        return observe(what, tokens, (values, shape) -> rows(values, 1, shape[0])[0]);
    }

    /**
     * Computes one token sequence as a prompt, and tells which of its tokens each KV head keeps at its end. On a context of its
     * own as {@link #evaluate}, so with the engine's {@linkplain KvType types}.
     *
     * @throws UnsupportedOperationByModelException if the KV plan evicts no tokens
     * @throws InvalidRequestException if there are no tokens, or the answer takes more than 2 GiB
     */
    public KeptTokens keptTokens(int... tokens) {
        ObjectNode what = Json.MAPPER.createObjectNode().put("what", "kept_tokens");
        return observe(what, tokens, (values, shape) -> {
            int[][][] positions = new int[shape[0]][][];
            float[][] heads = rows(values, shape[0] * shape[1], shape[2]);
            for (int layer = 0; layer < positions.length; layer++) {
                positions[layer] = Arrays.stream(heads, layer * shape[1], (layer + 1) * shape[1])
                        .filter(head -> head[0] >= 0) // the layer has it
                        .map(head -> IntStream.range(0, head.length)
                                .filter(token -> head[token] > 0)
                                .toArray())
                        .toArray(int[][]::new);
            }
            return new KeptTokens(shape[2], positions);
        });
    }

    private interface Observed<T> {
        T from(FloatBuffer values, int[] shape);
    }

    private <T> T observe(ObjectNode what, int[] tokens, Observed<T> observed) {
        byte[] request = Json.write(what);
        int[] ids = tokens.clone();
        int[] shape = Json.convert(
                Json.read(use(engine -> engine.observe(request, ids, null))).path("shape"), int[].class);
        long floats = 1;
        for (int size : shape) {
            floats *= size;
        }
        long limit = Integer.MAX_VALUE / Float.BYTES;
        if (floats > limit) {
            throw new InvalidRequestException(
                    "what is observed of " + tokens.length + " tokens takes " + floats + " floats, at most " + limit
                            + " are possible",
                    floats,
                    limit);
        }
        FloatBuffer values = direct((int) floats);
        use(engine -> engine.observe(request, ids, values));
        return observed.from(values, shape);
    }

    private static float[][] rows(FloatBuffer values, int rows, int columns) {
        float[][] all = new float[rows][columns];
        for (int row = 0; row < rows; row++) {
            values.get(row * columns, all[row]);
        }
        return all;
    }

    /**
     * One more owner of the same native engine. Each owner is closed once; the last one closes the native engine.
     */
    public Engine retain() {
        if (closed) {
            throw SharedEngine.closedException();
        }
        shared.retain();
        return new Engine(shared, info);
    }

    /** Whether this owner has not been closed. */
    public boolean isOpen() {
        return !closed;
    }

    /**
     * Gives up this owner's share. The last owner's close ends running requests with {@link EngineClosedException} and
     * returns when all memory is released, after the ubatch that is being computed. Further calls do nothing.
     */
    @Override
    public void close() {
        closed = true;
        share.closedByOwner = true;
        cleanable.clean();
    }

    @Override
    public String toString() {
        return "Engine[" + info.model().path() + (closed ? ", closed]" : "]");
    }

    private <T extends @Nullable Object> T use(SharedEngine.Call<T> call) {
        if (closed) {
            throw SharedEngine.closedException();
        }
        try {
            return shared.use(call);
        } finally {
            Reference.reachabilityFence(this);
        }
    }

    private static FloatBuffer direct(int floats) {
        try {
            return ByteBuffer.allocateDirect(floats * Float.BYTES)
                    .order(ByteOrder.nativeOrder())
                    .asFloatBuffer();
        } catch (OutOfMemoryError e) {
            throw new NativeOutOfMemoryException(
                    "logits of " + (long) floats * Float.BYTES + " bytes do not fit the memory outside the Java heap",
                    e);
        }
    }

    /** One owner's share; does not refer to the engine, so that the cleaner can own it. */
    private static final class Share implements Runnable {
        private final SharedEngine shared;
        private final String model;
        private volatile boolean closedByOwner;

        Share(SharedEngine shared, String model) {
            this.shared = shared;
            this.model = model;
        }

        /** Run at most once. */
        @Override
        public void run() {
            if (!closedByOwner) {
                LOG.warn("an engine for {} was collected without having been closed", model);
            }
            shared.release();
        }
    }

    /**
     * Options of an engine. What is not set has llama-server's default, except that requests wait for a slot only as
     * far as {@link #maxQueue} says, the batch is as large as the ubatch, nothing is warmed up or resized to fit, and tools
     * are {@linkplain #describeTools described} to every model.
     *
     * <p>Not thread-safe; may be used for several engines.
     */
    public static final class Builder {
        private final ObjectNode options = Json.MAPPER.createObjectNode();
        private @Nullable NativeBridge bridge;
        private LoadProgressListener progress = fraction -> true;
        private @Nullable ModelName modelName;
        private @Nullable LocalModel localModel;
        private @Nullable Models models;
        private DownloadListener downloadProgress = (file, bytes, total) -> true;

        private Builder() {}

        /** The GGUF file. This or {@link #modelName} is required; the later one holds. */
        public Builder model(Path model) {
            modelName = null;
            localModel = null;
            return set("model", model.toString());
        }

        /** A model by name that was {@linkplain Models#get found} already; see {@link #modelName}. */
        public Builder model(LocalModel model) {
            modelName(model.name().toString());
            localModel = model;
            return this;
        }

        /**
         * A model by name, {@code hf:owner/name[:quant|/file][@revision]}, which {@link #open()} takes from the cache that
         * Hugging Face's programs share, and fetches if it is not there. The projector of a model that sees images comes
         * with it, unless the option {@code mmproj} or {@code no-mmproj} says otherwise. Answers carry this name.
         *
         * @throws InvalidRequestException if it is no such name
         */
        public Builder modelName(String name) {
            modelName = ModelName.parse(name);
            localModel = null;
            options.remove("model");
            return this;
        }

        /** Where {@link #modelName} looks; {@link Models#fromEnvironment()} by default. */
        public Builder models(Models models) {
            this.models = models;
            return this;
        }

        /** Told how far the download of {@link #modelName} is, if there is one. */
        public Builder downloadProgress(DownloadListener listener) {
            this.downloadProgress = listener;
            return this;
        }

        /**
         * Tokens that one request may use, its prompt and its answer together; the default is what the model was trained
         * with, or what {@link #kvBudget} holds by default if that is less. All slots share one pool of cells, as large as
         * the budget holds and at most this for each slot. With the option {@code kv-unified=false} each slot has cells
         * of its own for so many tokens.
         */
        public Builder contextSize(int tokens) {
            return set("ctx-size", tokens);
        }

        /** Requests decoded side by side; 4 by default. */
        public Builder slots(int slots) {
            return set("parallel", slots);
        }

        /** Tokens computed at once; 512 by default. */
        public Builder ubatchSize(int tokens) {
            return set("ubatch-size", tokens);
        }

        /**
         * Tokens handed to a decode at most, and at least one for each slot; the ubatch size by default, so that a cancelled
         * prefill stops soon, unless the slots need more.
         */
        public Builder batchSize(int tokens) {
            return set("batch-size", tokens);
        }

        /** Threads that compute on the CPU; the number of physical cores by default. */
        public Builder threads(int threads) {
            return set("threads", threads);
        }

        /** Layers to keep on a GPU where there is one; as many as there are by default. */
        public Builder gpuLayers(int layers) {
            return set("n-gpu-layers", layers);
        }

        /**
         * Other hosts that hold layers and their keys and values, each running {@code kvfold rpc-server} (or
         * {@link NativeLibrary#serveRpc}) of this version. Layers are shared out by the memory that hosts and GPUs have
         * free; {@link #gpuLayers} says how many leave this host's CPU, all by default. KV plans hold across hosts.
         *
         * <p>What goes over the network is neither encrypted nor authenticated: private networks only. A server that
         * goes away fails the requests that run, and all later ones until the engine is opened anew; one that stays
         * connected but silent holds them up.
         *
         * @param addresses {@code "host:port"}, at least one
         */
        public Builder rpcServers(String... addresses) {
            if (addresses.length == 0) {
                throw new InvalidRequestException("no RPC server was named");
            }
            return set("rpc", List.of(addresses));
        }

        /** {@link FlashAttention#AUTO} by default. */
        public Builder flashAttention(FlashAttention flashAttention) {
            return set("flash-attn", flashAttention.text());
        }

        /** How keys and values are stored; {@link KvType#F16} both by default. */
        public Builder kvCacheTypes(KvType keys, KvType values) {
            return set("cache-type-k", keys.text()).set("cache-type-v", values.text());
        }

        /** Which layer reads whose keys and values; the model's own metadata by default. */
        public Builder kvPlan(KvPlan plan) {
            return set("kv-plan", plan.toString());
        }

        /**
         * The most memory that keys and values may take, in bytes: the pages of cells, checkpoints and copies of
         * conversations, in all contexts of this engine. By default 60% of what is free when the engine opens, weights and
         * compute buffers aside; the log says how much that is. {@link KvCacheStats#ledger()} tells what counts.
         *
         * <p>A request begins when there is room for its prompt. When memory runs short, what idle slots keep of finished
         * requests goes first, then the youngest request gives its cells up, to be computed again later. A request that
         * cannot fit even alone fails with {@link KvBudgetExceededException}; an answer without a limit ({@code
         * max_tokens}) may have as many tokens as the budget holds.
         *
         * <p>With the option {@code admission=reserve} a request waits, in order of arrival, until what its prompt and the
         * longest answer that it asks for may take is set aside for it, in whole pages and by the KV plan. An answer
         * without a limit then has room for as many tokens as fit the budget divided by the number of slots, and for more
         * as long as that is promised to nobody else; then it ends with finish reason {@code length}.
         *
         * <p>Where a device holds the cache as a whole ({@link DeviceInfo#kvMemory()}), the engine does not open with a
         * smaller budget ({@link UnsupportedOperationByModelException}).
         */
        public Builder kvBudget(long bytes) {
            return set("kv-budget", bytes);
        }

        /**
         * Memory of this host that keys and values leave free, in bytes: they are refused before the system, or the control
         * group around this process, has less; 256 MiB by default, or 3% of what there is if that is more.
         */
        public Builder memoryReserve(long bytes) {
            return set("memory-reserve", bytes);
        }

        /**
         * A folder for the keys and values of answers that give their cells up to others: they are written there, and read
         * when there is room again. None by default, and their tokens are computed again, which takes no disk and more
         * processor. The files have no names and go with the process; only their owner can read them. An answer that could
         * not be computed again as it was, without what {@code context-shift} took, can give way only so.
         *
         * @throws InvalidRequestException from {@link #open()} if no file can be made there
         */
        public Builder swapFolder(Path folder) {
            return set("swap-dir", folder.toAbsolutePath().toString());
        }

        /**
         * Requests that may wait, for a slot or for memory of {@link #kvBudget}, before {@link QueueFullException}; 256
         * by default.
         */
        public Builder maxQueue(int requests) {
            return set("max-queue", requests);
        }

        /**
         * Whether a model takes tools although its chat template does not mention them; true by default. The tools are then
         * described at the start of the first message, calls and results are rendered as text around it, and llama.cpp
         * reads calls back as of any model that writes them in {@code <tool_call>} tags. Such an answer has one call unless
         * a request says {@code "parallel_tool_calls"}, since a model that was not trained to call does not end a series of
         * calls. A prompt without tools stays what the template makes of it. How well a model calls tools that it was not
         * trained to call is up to the model.
         *
         * <p>With false llama.cpp leaves tools out of such a prompt without a word. Without effect on a model without a
         * chat template, and with the options {@code chat-template}, {@code chat-template-file} and {@code no-jinja}.
         */
        public Builder describeTools(boolean describeTools) {
            return set("describe-tools", describeTools);
        }

        /**
         * Whether a model is shown the JSON schema that its answer has to match, in the last message of the user; true by
         * default. The grammar made of the schema keeps a model from writing anything else, but does not tell it what to
         * write: a small one fills the names in at random. With false a prompt stays what the template makes of it.
         */
        public Builder describeSchema(boolean describeSchema) {
            return set("describe-schema", describeSchema);
        }

        /**
         * Any option of llama-server by its long name, such as {@code "rope-scaling"}; see
         * {@link NativeLibrary#options()}.
         *
         * @param name with or without leading dashes
         * @param value a string, a number, a boolean, or a list of these to repeat the option
         */
        public Builder option(String name, Object value) {
            JsonNode json = Json.convert(value);
            if (json.isObject() || json.isNull()) {
                throw new InvalidRequestException(
                        "the value of option '" + name + "' is a string, a number, a boolean or a list, not " + json);
            }
            return set(name.replaceFirst("^-+", "").replace('_', '-'), json);
        }

        /** Told how far {@link #open()} is. */
        public Builder loadProgress(LoadProgressListener listener) {
            this.progress = listener;
            return this;
        }

        /** Replaces the native library in tests. */
        Builder bridge(NativeBridge bridge) {
            this.bridge = bridge;
            return this;
        }

        /**
         * Loads the model. Interrupting the thread abandons the load.
         *
         * @throws ModelNotFoundException if there is no such file, or no model of this name
         * @throws ModelAccessException if the hub does not hand the model out
         * @throws ModelDownloadException if the model cannot be fetched
         * @throws InvalidModelException if it is not a GGUF file that llama.cpp can run
         * @throws InvalidPlanException if the model cannot serve the KV plan
         * @throws UnknownOptionException if there is no such option
         * @throws UnsupportedOperationByModelException if an option is not possible here or with this model
         * @throws InvalidRequestException if no model or an impossible value was set
         * @throws NativeOutOfMemoryException if weights, KV cache or compute buffers do not fit
         * @throws GenerationCancelledException if a listener or an interrupt abandoned the download or the load
         * @throws NativeLibraryException if the native library cannot be loaded
         */
        public Engine open() {
            if (modelName == null && !options.has("model")) {
                throw new InvalidRequestException("no model was set");
            }
            NativeBridge library = bridge == null ? NativeLibrary.bridge() : bridge;
            byte[] json = Json.write(modelName == null ? options : found(modelName));
            LoadProgressListener listener = progress;
            Thread opener = Thread.currentThread();
            try {
                return PlatformThreads.call(
                        () -> open(library, json, fraction -> !opener.isInterrupted() && goesOn(listener, fraction)));
            } catch (NativeStatusException e) {
                throw Failures.from(e);
            }
        }

        /** The options with the model's files. */
        private ObjectNode found(ModelName name) {
            LocalModel model = localModel != null
                    ? localModel
                    : (models == null ? Models.fromEnvironment() : models).get(name, downloadProgress);
            ObjectNode found = options.deepCopy().put("model", model.file().toString());
            if (!found.has("alias")) {
                found.put("alias", name.toString());
            }
            if (model.projector().isPresent() && !found.has("mmproj") && !found.has("no-mmproj")) {
                found.put("mmproj", model.projector().get().toString());
            }
            return found;
        }

        private static Engine open(NativeBridge library, byte[] options, LoadProgressListener progress)
                throws NativeStatusException {
            NativeEngine handle = library.open(options, progress);
            try {
                return new Engine(new SharedEngine(handle), Json.read(handle.info(), EngineInfo.class));
            } catch (Throwable e) {
                handle.close();
                throw e;
            }
        }

        private static boolean goesOn(LoadProgressListener listener, float fraction) {
            try {
                return listener.onProgress(fraction);
            } catch (RuntimeException e) {
                LOG.warn("a load progress listener failed", e);
                return true;
            }
        }

        private Builder set(String option, Object value) {
            options.set(option, Json.convert(value));
            return this;
        }
    }
}
