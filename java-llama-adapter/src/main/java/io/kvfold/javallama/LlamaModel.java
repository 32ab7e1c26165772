package io.kvfold.javallama;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import de.kherud.llama.InferenceParameters;
import de.kherud.llama.LlamaOutput;
import de.kherud.llama.LogLevel;
import de.kherud.llama.ModelParameters;
import de.kherud.llama.Pair;
import de.kherud.llama.args.LogFormat;
import io.kvfold.Engine;
import io.kvfold.NativeLibrary;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.BiConsumer;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * The twin of java-llama.cpp's {@code LlamaModel}: a program for {@code de.kherud:llama} 4.2.0 runs on Kvfold when it imports
 * this class instead. Parameters and outputs stay java-llama.cpp's; its native library is not loaded.
 *
 * <pre>{@code
 * import de.kherud.llama.InferenceParameters;
 * import de.kherud.llama.LlamaOutput;
 * import de.kherud.llama.ModelParameters;
 * import io.kvfold.javallama.LlamaModel; // was de.kherud.llama.LlamaModel
 *
 * try (LlamaModel model = new LlamaModel(new ModelParameters().setModel("model.gguf"))) {
 *     for (LlamaOutput output : model.generate(new InferenceParameters("Once upon a time"))) {
 *         System.out.print(output);
 *     }
 * }
 * }</pre>
 *
 * <p>A program that names {@code LlamaIterator} or {@code LlamaIterable} imports these from here, too.
 *
 * <p>Defaults are java-llama.cpp's: one slot, 4096 tokens of context, and a context that is shifted when an answer outgrows
 * it. What differs:
 *
 * <ul>
 *   <li>Errors are {@link io.kvfold.KvfoldException}s with a type each. An option or a parameter that llama.cpp has removed
 *       is refused by name, and so is {@code setModelUrl}.
 *   <li>{@code setHfRepo}, with {@code setHfFile} and {@code setHfToken}, takes a model from a hub
 *       ({@link io.kvfold.hub.Models}), and so does {@code setModel} with {@code hf:owner/name[:quant|/file][@revision]}.
 *   <li>A prompt that is longer than the context is refused, not cut.
 *   <li>The log goes to SLF4J's logger {@code io.kvfold.native} unless {@link #setLogger} or {@code disableLog()} says
 *       otherwise; {@code setVerbose}, {@code setLogVerbosity}, {@code enableLogPrefix} and {@code enableLogTimestamps} change
 *       nothing there.
 *   <li>{@code setUseChatTemplate} takes effect if there are messages; they then replace the prompt.
 *   <li>{@code setInputPrefix} and {@code setInputSuffix} need a model with tokens for infilling; others are refused.
 *   <li>{@link #close()} releases all memory, and a model that is never closed does not keep the JVM from exiting.
 * </ul>
 *
 * <p>Thread-safe; requests of several threads wait for a slot.
 */
public class LlamaModel implements AutoCloseable {

    private static final Logger LOG = LoggerFactory.getLogger(LlamaModel.class);

    private final Engine engine;
    private final boolean embedding;
    private final boolean reranking;

    /**
     * Loads a model.
     *
     * @throws io.kvfold.KvfoldException as {@link Engine.Builder#open()}
     */
    public LlamaModel(ModelParameters parameters) {
        this(new ModelOptions(parameters), Engine.builder());
    }

    private LlamaModel(ModelOptions options, Engine.Builder builder) {
        this(options, open(options, builder));
    }

    LlamaModel(ModelOptions options, Engine engine) {
        this.engine = engine;
        this.embedding = options.embedding();
        this.reranking = options.reranking();
    }

    private static Engine open(ModelOptions options, Engine.Builder builder) {
        options.addTo(builder);
        NativeLogSink.silence(options.silent());
        for (String name : options.consoleLog()) {
            LOG.info("--{} changes nothing: the log goes to SLF4J, or to LlamaModel.setLogger()", name);
        }
        return builder.open();
    }

    /**
     * Waits for the whole answer.
     *
     * @throws io.kvfold.KvfoldException if the request is not valid or fails
     */
    public String complete(InferenceParameters parameters) {
        CompletionRequest request = CompletionRequest.of(parameters, false, engine);
        return engine.call(request.route(), request.body()).path("content").asText();
    }

    /** The answer piece by piece; every iterator starts a generation of its own with what the parameters are then. */
    public LlamaIterable generate(InferenceParameters parameters) {
        return () -> {
            CompletionRequest request = CompletionRequest.of(parameters, true, engine);
            return new LlamaIterator(engine.start(request.route(), request.body()));
        };
    }

    /**
     * The embedding of a text, pooled as {@code setPoolingType} or the model file says and then of length 1. Without pooling
     * it is the last token's vector as it is, which has seen the whole text; java-llama.cpp gives the first token's.
     *
     * @throws IllegalStateException if the model was not opened with {@code enableEmbedding()}
     */
    public float[] embed(String prompt) {
        if (!embedding) {
            throw new IllegalStateException("embed() needs a model that was opened with enableEmbedding()");
        }
        ObjectNode body = CompletionRequest.JSON_MAPPER.createObjectNode().put("content", prompt);
        JsonNode rows = engine.call("/embeddings", body).path(0).path("embedding");
        JsonNode row = rows.path(rows.size() - 1);
        float[] vector = new float[row.size()];
        for (int i = 0; i < vector.length; i++) {
            vector[i] = (float) row.path(i).asDouble();
        }
        return vector;
    }

    /** The token ids of a text, without what the vocabulary puts around it; the text of a special token is that token. */
    public int[] encode(String prompt) {
        return engine.tokenize(prompt, false, true);
    }

    /** The text of token ids. */
    public String decode(int[] tokens) {
        return engine.detokenize(tokens);
    }

    /**
     * How well documents answer a query, in the order of the documents or from best to worst. Higher is better.
     *
     * @throws IllegalStateException if the model was not opened with {@code enableReranking()}
     */
    public List<Pair<String, Float>> rerank(boolean reRank, String query, String... documents) {
        float[] scores = scores(query, documents);
        List<Pair<String, Float>> ranked = new ArrayList<>();
        for (int i = 0; i < documents.length; i++) {
            ranked.add(new Pair<>(documents[i], scores[i]));
        }
        if (reRank) {
            ranked.sort(Comparator.comparing((Pair<String, Float> pair) -> pair.getValue())
                    .reversed());
        }
        return ranked;
    }

    /**
     * As {@link #rerank(boolean, String, String...)}: the scores are the probabilities of the output, by document; the text is
     * the query.
     */
    public LlamaOutput rerank(String query, String... documents) {
        float[] scores = scores(query, documents);
        Map<String, Float> byDocument = new LinkedHashMap<>();
        for (int i = 0; i < documents.length; i++) {
            byDocument.put(documents[i], scores[i]);
        }
        return Outputs.of(query, byDocument, true);
    }

    private float[] scores(String query, String... documents) {
        if (!reranking) {
            throw new IllegalStateException("rerank() needs a model that was opened with enableReranking()");
        }
        ObjectNode body = CompletionRequest.JSON_MAPPER.createObjectNode().put("query", query);
        ArrayNode texts = body.putArray("documents");
        for (String document : documents) {
            texts.add(document);
        }
        float[] scores = new float[documents.length];
        for (JsonNode result : engine.call("/v1/rerank", body).path("results")) {
            scores[result.path("index").asInt()] =
                    (float) result.path("relevance_score").asDouble();
        }
        return scores;
    }

    /** The prompt that the chat template makes of {@code setMessages}. */
    public String applyTemplate(InferenceParameters parameters) {
        return applyTemplate(parameters.toString());
    }

    /** As {@link #applyTemplate(InferenceParameters)}, of JSON with {@code messages}. */
    public String applyTemplate(String parametersJson) {
        return engine.applyTemplate(CompletionRequest.object(parametersJson));
    }

    /**
     * The GBNF grammar of a JSON schema, for {@code setGrammar}.
     *
     * @throws io.kvfold.InvalidRequestException if it is no schema that llama.cpp can convert
     */
    public static String jsonSchemaToGrammar(String schema) {
        return NativeLibrary.schemaToGrammar(CompletionRequest.object(schema));
    }

    /**
     * Takes the log of all models of the process, instead of SLF4J.
     *
     * @param format JSON makes every line an object with {@code timestamp}, {@code level} and {@code message}; null is TEXT
     * @param callback called from any thread; null prints lines from INFO on to standard output
     */
    public static void setLogger(@Nullable LogFormat format, @Nullable BiConsumer<LogLevel, String> callback) {
        NativeLogSink.set(format, callback);
    }

    /** Ends running generations and releases the model's memory. Further calls do nothing. */
    @Override
    public void close() {
        engine.close();
    }
}
