package io.kvfold.langchain4j.spring;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.ObjectMapper;
import dev.langchain4j.model.chat.request.ResponseFormat;
import dev.langchain4j.model.chat.request.ResponseFormatType;
import io.kvfold.FlashAttention;
import io.kvfold.KvType;
import io.kvfold.langchain4j.KvfoldChatRequestParameters;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;
import org.springframework.boot.context.properties.ConfigurationProperties;
import org.springframework.boot.context.properties.bind.DefaultValue;
import org.springframework.util.unit.DataSize;

/**
 * The properties under {@code langchain4j.kvfold}. What is not set has the default of the builder that it is handed to.
 *
 * @param engine the engine that the models share
 * @param chatModel the chat model over the engine
 * @param streamingChatModel the streaming chat model over the engine
 * @param languageModel the language model over the engine
 * @param embeddingModel the embedding model, over the engine or one of its own
 * @param scoringModel the scoring model, over an engine of its own
 */
@ConfigurationProperties(KvfoldProperties.PREFIX)
public record KvfoldProperties(
        @DefaultValue Engine engine,
        @DefaultValue ChatModel chatModel,
        @DefaultValue ChatModel streamingChatModel,
        @DefaultValue LanguageModel languageModel,
        @DefaultValue EmbeddingModel embeddingModel,
        @DefaultValue ScoringModel scoringModel) {

    static final String PREFIX = "langchain4j.kvfold";

    private static final ObjectMapper JSON = new ObjectMapper().enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS);

    /**
     * Options of the engine.
     *
     * @param modelPath the GGUF file; there is an engine only if this or the name is set
     * @param modelName a model on a hub instead, hf:owner/name[:quant|/file][@revision]; fetched unless it is cached
     * @param contextSize tokens that one request may use; by default what the model was trained with
     * @param slots requests decoded side by side; 4 by default
     * @param maxQueue requests that may wait for a slot; 256 by default
     * @param threads CPU threads; by default one per physical core
     * @param gpuLayers layers to keep on a GPU; by default as many as there are
     * @param rpcServers hosts that hold layers, host:port; none by default
     * @param ubatchSize tokens computed at once; 512 by default
     * @param batchSize tokens handed to a decode at most; the ubatch size by default
     * @param flashAttention on, off or auto; auto by default
     * @param kvCacheTypeK how keys are stored, such as q8_0; f16 by default
     * @param kvCacheTypeV how values are stored, such as q8_0; f16 by default
     * @param kvPlan which layer reads whose keys and values; by default what the model file says
     * @param describeTools whether tools are described to a model whose chat template does not; true by default
     * @param describeSchema whether a model is shown the JSON schema of its answer; true by default
     * @param kvBudget memory that keys and values may take, such as 512MB; requests wait for theirs; 60% of what is free by
     *     default, for which nothing waits
     * @param memoryReserve memory that keys and values leave free, such as 1GB; by default 256MB, or 3% of what there is
     * @param options any other option of the engine by llama-server's long name
     */
    public record Engine(
            @Nullable String modelPath,
            @Nullable String modelName,
            @Nullable Integer contextSize,
            @Nullable Integer slots,
            @Nullable Integer maxQueue,
            @Nullable Integer threads,
            @Nullable Integer gpuLayers,
            @DefaultValue List<String> rpcServers,
            @Nullable Integer ubatchSize,
            @Nullable Integer batchSize,
            @Nullable FlashAttention flashAttention,
            @Nullable KvType kvCacheTypeK,
            @Nullable KvType kvCacheTypeV,
            @Nullable String kvPlan,
            @Nullable Boolean describeTools,
            @Nullable Boolean describeSchema,
            @Nullable DataSize kvBudget,
            @Nullable DataSize memoryReserve,
            @DefaultValue Map<String, String> options) {}

    /**
     * Options of a chat model; parameters are those of requests that do not set their own.
     *
     * @param enabled whether there is this model; true by default
     * @param temperature at least 0; 0 always takes the most probable token; 0.8 by default
     * @param topP in [0, 1]; 1 switches it off; 0.95 by default
     * @param topK at least 0; 0 switches it off; 40 by default
     * @param minP least probability of a token relative to the best one; 0.05 by default
     * @param frequencyPenalty lowers a token's logit by this for every time it was used; 0 by default
     * @param presencePenalty lowers a token's logit by this once it was used; 0 by default
     * @param repeatPenalty divides the logit of a token that was used; 1 by default
     * @param seed of the sampler; random by default
     * @param maxOutputTokens tokens an answer has at most; by default what fits the slot
     * @param stopSequences texts at which an answer ends
     * @param responseFormat text or json; text by default
     * @param grammar what answers must match, in llama.cpp's GBNF notation
     * @param requestOptions other fields of llama-server's request by their names, such as cache_prompt; a value that is JSON is
     *     taken as that, any other as text
     * @param parallelToolCalls whether an answer may call several tools
     * @param enableThinking whether the chat template asks the model to think, where it knows such a switch
     * @param returnThinking whether an answer carries the model's thinking; false by default
     * @param sendThinking whether the thinking of earlier answers is sent back to the model; false by default
     * @param timeout how long a request may take, waiting for a slot included; no limit by default
     * @param logRequests whether to log requests with their rendered prompts; false by default
     * @param logResponses whether to log answers; false by default
     */
    public record ChatModel(
            @DefaultValue("true") boolean enabled,
            @Nullable Double temperature,
            @Nullable Double topP,
            @Nullable Integer topK,
            @Nullable Double minP,
            @Nullable Double frequencyPenalty,
            @Nullable Double presencePenalty,
            @Nullable Double repeatPenalty,
            @Nullable Integer seed,
            @Nullable Integer maxOutputTokens,
            @DefaultValue List<String> stopSequences,
            @Nullable ResponseFormatType responseFormat,
            @Nullable String grammar,
            @DefaultValue Map<String, String> requestOptions,
            @Nullable Boolean parallelToolCalls,
            @Nullable Boolean enableThinking,
            @Nullable Boolean returnThinking,
            @Nullable Boolean sendThinking,
            @Nullable Duration timeout,
            @Nullable Boolean logRequests,
            @Nullable Boolean logResponses) {

        KvfoldChatRequestParameters requestParameters() {
            KvfoldChatRequestParameters.Builder parameters = KvfoldChatRequestParameters.builder()
                    .temperature(temperature)
                    .topP(topP)
                    .topK(topK)
                    .minP(minP)
                    .frequencyPenalty(frequencyPenalty)
                    .presencePenalty(presencePenalty)
                    .repeatPenalty(repeatPenalty)
                    .seed(seed)
                    .maxOutputTokens(maxOutputTokens)
                    .stopSequences(stopSequences)
                    .responseFormat(
                            responseFormat == null
                                    ? null
                                    : ResponseFormat.builder()
                                            .type(responseFormat)
                                            .build())
                    .grammar(grammar)
                    .parallelToolCalls(parallelToolCalls)
                    .enableThinking(enableThinking);
            requestOptions.forEach((name, value) -> parameters.option(name, jsonOrText(value)));
            return parameters.build();
        }

        private static Object jsonOrText(String value) {
            try {
                return JSON.readValue(value, Object.class);
            } catch (JsonProcessingException e) {
                return value;
            }
        }
    }

    /**
     * Options of the language model, which continues a text as it is. Those not described here are as in a chat model.
     *
     * @param enabled whether there is this model; false by default
     */
    public record LanguageModel(
            @DefaultValue("false") boolean enabled,
            @Nullable Double temperature,
            @Nullable Double topP,
            @Nullable Integer topK,
            @Nullable Double minP,
            @Nullable Double repeatPenalty,
            @Nullable Integer seed,
            @Nullable Integer maxOutputTokens,
            @DefaultValue List<String> stopSequences) {}

    /**
     * Options of the embedding model.
     *
     * @param modelPath the GGUF file of an engine of its own; there is an embedding model if this or the name is set
     * @param modelName a model on a hub instead, hf:owner/name[:quant|/file][@revision]; fetched unless it is cached
     * @param enabled whether the shared engine embeds texts, too, if there is neither; false by default
     * @param contextSize tokens that one text may have, in its own engine
     * @param threads CPU threads of its own engine
     * @param gpuLayers layers of its own engine to keep on a GPU
     * @param ubatchSize tokens that a text may have where its vector is a mean or of the first token; the context by default
     * @param pooling mean, cls or last; by default what the model file says
     * @param queryPrefix put before a text to be embedded as a query
     * @param documentPrefix put before a text to be embedded as a document
     * @param options any other option of its own engine by llama-server's long name
     */
    public record EmbeddingModel(
            @Nullable String modelPath,
            @Nullable String modelName,
            @DefaultValue("false") boolean enabled,
            @Nullable Integer contextSize,
            @Nullable Integer threads,
            @Nullable Integer gpuLayers,
            @Nullable Integer ubatchSize,
            @Nullable String pooling,
            @Nullable String queryPrefix,
            @Nullable String documentPrefix,
            @DefaultValue Map<String, String> options) {

        boolean onSharedEngine() {
            return enabled && modelPath == null && modelName == null;
        }
    }

    /**
     * Options of the scoring model.
     *
     * @param modelPath the GGUF file of a reranker; there is a scoring model only if this or the name is set
     * @param modelName a model on a hub instead, hf:owner/name[:quant|/file][@revision]; fetched unless it is cached
     * @param contextSize tokens that one text may have
     * @param threads CPU threads
     * @param gpuLayers layers to keep on a GPU
     * @param ubatchSize tokens that query and document may have together; the context by default
     * @param options any other option of its engine by llama-server's long name
     */
    public record ScoringModel(
            @Nullable String modelPath,
            @Nullable String modelName,
            @Nullable Integer contextSize,
            @Nullable Integer threads,
            @Nullable Integer gpuLayers,
            @Nullable Integer ubatchSize,
            @DefaultValue Map<String, String> options) {}
}
