package io.kvfold.langchain4j;

import static dev.langchain4j.internal.CompletableFutureUtils.propagateCancellation;
import static dev.langchain4j.spi.ServiceHelper.loadFactories;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.langchain4j.data.embedding.Embedding;
import dev.langchain4j.exception.InternalServerException;
import dev.langchain4j.exception.InvalidRequestException;
import dev.langchain4j.model.embedding.DimensionAwareEmbeddingModel;
import dev.langchain4j.model.embedding.listener.EmbeddingModelListener;
import dev.langchain4j.model.embedding.request.EmbeddingInput;
import dev.langchain4j.model.embedding.request.EmbeddingInputType;
import dev.langchain4j.model.embedding.request.EmbeddingParameter;
import dev.langchain4j.model.embedding.request.EmbeddingRequest;
import dev.langchain4j.model.embedding.request.EmbeddingRequestParameters;
import dev.langchain4j.model.embedding.response.EmbeddingResponse;
import dev.langchain4j.model.output.TokenUsage;
import io.kvfold.Engine;
import io.kvfold.langchain4j.spi.KvfoldEmbeddingModelBuilderFactory;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.BooleanSupplier;
import org.jspecify.annotations.Nullable;

/**
 * An embedding model over a GGUF model in this process. The texts of one request share batches of the engine; vectors
 * have Euclidean length 1. A text must fit the engine's ubatch if the model attends in both directions.
 *
 * <p>An engine that is lent must have been opened with option {@code embeddings}. Thread-safe; exceptions are those of
 * {@link KvfoldChatModel}.
 */
public class KvfoldEmbeddingModel extends DimensionAwareEmbeddingModel implements AutoCloseable {

    private static final String ROUTE = "/v1/embeddings";
    private static final int MOST_INPUTS = 2048; // of one request to an engine

    private final EngineHandle engine;
    private final @Nullable String queryPrefix;
    private final @Nullable String documentPrefix;
    private final List<EmbeddingModelListener> listeners;

    /** Builds a model; opens an engine unless the builder lends one. */
    public KvfoldEmbeddingModel(Builder builder) {
        this.engine = builder.openEngine("embeddings");
        this.queryPrefix = builder.queryPrefix;
        this.documentPrefix = builder.documentPrefix;
        this.listeners = builder.listeners;
        if (engine.owned()) {
            tryOut();
        }
    }

    /** A model whose file does not say how to pool fails now and not with the first text. */
    private void tryOut() {
        try {
            ObjectNode body = ChatRequestMapper.JSON_MAPPER.createObjectNode();
            body.putArray("input").add("a");
            engine.call(ROUTE, body);
        } catch (InvalidRequestException e) {
            engine.close();
            throw explained(e);
        } catch (RuntimeException e) {
            engine.close();
            throw e;
        }
    }

    /** A new builder, or a framework's own. */
    public static Builder builder() {
        for (KvfoldEmbeddingModelBuilderFactory factory : loadFactories(KvfoldEmbeddingModelBuilderFactory.class)) {
            return factory.get();
        }
        return new Builder();
    }

    @Override
    public EmbeddingResponse doEmbed(EmbeddingRequest request) {
        try {
            return embed(request, () -> false);
        } catch (InvalidRequestException e) {
            throw explained(e);
        }
    }

    /** In as many requests to the engine as it takes. */
    private EmbeddingResponse embed(EmbeddingRequest request, BooleanSupplier cancelled) {
        List<EmbeddingInput> inputs = request.inputs();
        List<Embedding> embeddings = new ArrayList<>();
        TokenUsage usage = new TokenUsage(0);
        for (int from = 0; from < inputs.size(); from += MOST_INPUTS) {
            if (cancelled.getAsBoolean()) {
                throw new CancellationException("the request was cancelled");
            }
            List<EmbeddingInput> part = inputs.subList(from, Math.min(from + MOST_INPUTS, inputs.size()));
            EmbeddingResponse response = response(engine.call(ROUTE, body(request, part)));
            embeddings.addAll(response.embeddings());
            usage = TokenUsage.sum(usage, response.tokenUsage());
        }
        return EmbeddingResponse.builder()
                .embeddings(embeddings)
                .modelName(engine.model().name())
                .tokenUsage(usage)
                .build();
    }

    /** llama-server's message is about its own API, and names no way out. */
    private static InvalidRequestException explained(InvalidRequestException error) {
        String message = error.getMessage();
        return message != null && message.startsWith("Pooling type 'none'")
                ? new InvalidRequestException(
                        "the model's file does not say how the vectors of a text's tokens become one: set pooling to"
                                + " mean, cls or last",
                        error)
                : error;
    }

    /** Runs the request on a thread of this library; cancelling the future cancels the request. */
    @Override
    public CompletableFuture<EmbeddingResponse> doEmbedAsync(EmbeddingRequest request) {
        if (request.inputs().size() > MOST_INPUTS) {
            AtomicBoolean cancelled = new AtomicBoolean();
            return Threads.supply(() -> embed(request, cancelled::get), () -> cancelled.set(true));
        }
        ObjectNode body;
        try {
            body = body(request, request.inputs());
        } catch (RuntimeException e) {
            return CompletableFuture.failedFuture(e);
        }
        CompletableFuture<JsonNode> answer = engine.callAsync(ROUTE, body);
        CompletableFuture<EmbeddingResponse> response = answer.handle((json, error) -> {
            if (error == null) {
                return response(json);
            }
            Throwable cause = error instanceof CompletionException ? error.getCause() : error;
            throw new CompletionException(
                    cause instanceof InvalidRequestException invalid ? explained(invalid) : cause);
        });
        propagateCancellation(response, answer);
        return response;
    }

    private ObjectNode body(EmbeddingRequest request, List<EmbeddingInput> texts) {
        Errors.checkModelName(request.modelName(), engine.model().name());
        String prefix = prefix(request.inputType());
        ObjectNode body = ChatRequestMapper.JSON_MAPPER.createObjectNode();
        ArrayNode inputs = body.putArray("input");
        for (EmbeddingInput input : texts) {
            inputs.add(prefix + input.text());
        }
        return body.put("encoding_format", "base64");
    }

    private String prefix(@Nullable EmbeddingInputType type) {
        String prefix = type == null ? null : type == EmbeddingInputType.QUERY ? queryPrefix : documentPrefix;
        return prefix == null ? "" : prefix;
    }

    private EmbeddingResponse response(JsonNode answer) {
        JsonNode data = answer.path("data");
        List<@Nullable Embedding> embeddings = new ArrayList<>(Collections.nCopies(data.size(), null));
        for (JsonNode element : data) {
            embeddings.set(element.path("index").asInt(), Embedding.from(vector(element.path("embedding"))));
        }
        return EmbeddingResponse.builder()
                .embeddings(embeddings)
                .modelName(engine.model().name())
                .tokenUsage(new TokenUsage(
                        answer.path("usage").path("prompt_tokens").asInt()))
                .build();
    }

    /** Little-endian float32 in base64. */
    private static float[] vector(JsonNode base64) {
        byte[] bytes;
        try {
            bytes = base64.binaryValue();
        } catch (IOException e) {
            throw new InternalServerException("the engine's embedding is not base64", e);
        }
        float[] vector = new float[bytes.length / Float.BYTES];
        ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(vector);
        return vector;
    }

    /** The model's own name, and the input type if there is a prefix for one. */
    @Override
    public Set<EmbeddingParameter<?>> supportedParameters() {
        Set<EmbeddingParameter<?>> supported = new HashSet<>(Set.of(EmbeddingRequestParameters.MODEL_NAME));
        if (queryPrefix != null || documentPrefix != null) {
            supported.add(EmbeddingRequestParameters.INPUT_TYPE);
        }
        return supported;
    }

    @Override
    public List<EmbeddingModelListener> listeners() {
        return listeners;
    }

    @Override
    public String modelName() {
        return engine.model().name();
    }

    /** The engine behind this model, to look at its KV cache or to share it with other models; not to be closed here. */
    public Engine engine() {
        return engine.engine();
    }

    /** Closes the engine if this model opened it. Idempotent, from any thread. */
    @Override
    public void close() {
        engine.close();
    }

    /** Builder of {@link KvfoldEmbeddingModel}; null and unset leave the engine's default. Not thread-safe. */
    public static class Builder extends EngineBackedBuilder<Builder> {

        private @Nullable String queryPrefix;
        private @Nullable String documentPrefix;
        private List<EmbeddingModelListener> listeners = List.of();

        /** An empty builder; public so that a framework can extend it. */
        public Builder() {}

        /** How the vectors of a text's tokens become one: mean, cls or last. Default: what the GGUF file says. */
        public Builder pooling(@Nullable String pooling) {
            return engineOption("pooling", pooling);
        }

        /** Put before a text whose input type is QUERY, as the model's card asks for, e.g. {@code "query: "}. */
        public Builder queryPrefix(@Nullable String queryPrefix) {
            this.queryPrefix = queryPrefix;
            return this;
        }

        /** Put before a text whose input type is DOCUMENT. */
        public Builder documentPrefix(@Nullable String documentPrefix) {
            this.documentPrefix = documentPrefix;
            return this;
        }

        /** Told of every request, answer and error. */
        public Builder listeners(@Nullable List<EmbeddingModelListener> listeners) {
            this.listeners = listeners == null ? List.of() : List.copyOf(listeners);
            return this;
        }

        /**
         * Opens the engine unless one is lent.
         *
         * @throws IllegalArgumentException if neither an engine nor a model is set, or both
         */
        public KvfoldEmbeddingModel build() {
            return new KvfoldEmbeddingModel(this);
        }
    }
}
