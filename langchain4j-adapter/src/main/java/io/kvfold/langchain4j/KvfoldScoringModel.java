package io.kvfold.langchain4j;

import static dev.langchain4j.internal.CompletableFutureUtils.propagateCancellation;
import static dev.langchain4j.spi.ServiceHelper.loadFactories;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.langchain4j.data.segment.TextSegment;
import dev.langchain4j.model.output.Response;
import dev.langchain4j.model.output.TokenUsage;
import dev.langchain4j.model.scoring.ScoringModel;
import dev.langchain4j.model.scoring.request.ScoringRequest;
import dev.langchain4j.model.scoring.response.ScoringResponse;
import io.kvfold.Engine;
import io.kvfold.langchain4j.spi.KvfoldScoringModelBuilderFactory;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CompletableFuture;

/**
 * A reranker over a GGUF model in this process: scores how well texts answer a query; higher is better, and only scores
 * of one model compare.
 *
 * <p>An engine that is lent must have been opened with option {@code reranking}. A file that is no reranker is refused with
 * an {@code UnsupportedFeatureException}. Thread-safe; exceptions are those of {@link KvfoldChatModel}.
 */
public class KvfoldScoringModel implements ScoringModel, AutoCloseable {

    private static final String ROUTE = "/v1/rerank";

    private final EngineHandle engine;

    /** Builds a model; opens an engine unless the builder lends one. */
    public KvfoldScoringModel(Builder builder) {
        this.engine = builder.openEngine("reranking");
    }

    /** A new builder, or a framework's own. */
    public static Builder builder() {
        for (KvfoldScoringModelBuilderFactory factory : loadFactories(KvfoldScoringModelBuilderFactory.class)) {
            return factory.get();
        }
        return new Builder();
    }

    @Override
    public Response<List<Double>> scoreAll(List<TextSegment> segments, String query) {
        if (segments.isEmpty()) {
            return Response.from(List.of());
        }
        List<String> texts = segments.stream().map(TextSegment::text).toList();
        JsonNode answer = engine.call(ROUTE, body(texts, query));
        return Response.from(scores(answer, texts.size()), usage(answer));
    }

    /** Runs the request on a thread of this library; cancelling the future cancels the request. */
    @Override
    public CompletableFuture<ScoringResponse> doScoreAsync(ScoringRequest request) {
        try {
            Errors.checkModelName(request.modelName(), engine.model().name());
        } catch (RuntimeException e) {
            return CompletableFuture.failedFuture(e);
        }
        int size = request.documents().size();
        CompletableFuture<JsonNode> answer = engine.callAsync(ROUTE, body(request.documents(), request.query()));
        CompletableFuture<ScoringResponse> response = answer.thenApply(json -> ScoringResponse.builder()
                .scores(scores(json, size))
                .modelName(engine.model().name())
                .tokenUsage(usage(json))
                .build());
        propagateCancellation(response, answer);
        return response;
    }

    private static ObjectNode body(List<String> documents, String query) {
        ObjectNode body = ChatRequestMapper.JSON_MAPPER.createObjectNode().put("query", query);
        ArrayNode array = body.putArray("documents");
        documents.forEach(array::add);
        return body;
    }

    /** The scores in the order of the documents; the engine sorts them by score. */
    private static List<Double> scores(JsonNode answer, int size) {
        Double[] scores = new Double[size];
        for (JsonNode result : answer.path("results")) {
            scores[result.path("index").asInt()] =
                    result.path("relevance_score").asDouble();
        }
        return Arrays.asList(scores);
    }

    private static TokenUsage usage(JsonNode answer) {
        return new TokenUsage(answer.path("usage").path("prompt_tokens").asInt());
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

    /** Builder of {@link KvfoldScoringModel}; null and unset leave the engine's default. Not thread-safe. */
    public static class Builder extends EngineBackedBuilder<Builder> {

        /** An empty builder; public so that a framework can extend it. */
        public Builder() {}

        /**
         * Opens the engine unless one is lent.
         *
         * @throws IllegalArgumentException if neither an engine nor a model is set, or both
         */
        public KvfoldScoringModel build() {
            return new KvfoldScoringModel(this);
        }
    }
}
