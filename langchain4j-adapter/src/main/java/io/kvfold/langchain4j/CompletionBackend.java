package io.kvfold.langchain4j;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.langchain4j.model.output.FinishReason;
import dev.langchain4j.model.output.Response;
import io.kvfold.Engine;
import io.kvfold.Generation;
import java.util.function.Consumer;

/** What a language model does with an engine, whether it streams or not. Thread-safe. */
final class CompletionBackend implements AutoCloseable {

    private final EngineHandle engine;
    private final KvfoldChatRequestParameters parameters;

    CompletionBackend(SamplingBuilder<?> builder) {
        this.engine = builder.openEngine();
        this.parameters = builder.parameters.build();
        try {
            new ChatRequestMapper(engine.model(), false).validate(parameters);
        } catch (RuntimeException e) {
            engine.close();
            throw e;
        }
    }

    /** Starts the continuation of a prompt, which need not have been waited for. */
    Generation start(String prompt, boolean stream) {
        ObjectNode body = ChatRequestMapper.JSON_MAPPER
                .createObjectNode()
                .put("prompt", prompt)
                .put("stream", stream);
        ChatRequestMapper.putSampling(body, parameters);
        ChatRequestMapper.putOptions(body, parameters);
        return Errors.translating(() -> engine.engine().complete(body));
    }

    /** Waits for the end of a continuation and hands out its parts, if it is streamed. */
    static Response<String> finish(Generation generation, Consumer<String> parts) {
        return Errors.translating(() -> {
            StringBuilder text = new StringBuilder();
            Response<String> response = null;
            for (JsonNode chunk = generation.next(); chunk != null; chunk = generation.next()) {
                String part = chunk.path("content").asText();
                if (!part.isEmpty()) {
                    text.append(part);
                    parts.accept(part);
                }
                if (chunk.path("stop").asBoolean()) {
                    response = Response.from(text.toString(), usage(chunk), finishReason(chunk));
                }
            }
            if (response == null) {
                throw new IllegalStateException("the continuation ended without its last chunk");
            }
            return response;
        });
    }

    private static KvfoldTokenUsage usage(JsonNode last) {
        return new KvfoldTokenUsage(
                last.path("tokens_evaluated").asInt(),
                last.path("timings").path("cache_n").asInt(),
                last.path("tokens_predicted").asInt());
    }

    private static FinishReason finishReason(JsonNode last) {
        return switch (last.path("stop_type").asText()) {
            case "eos", "word" -> FinishReason.STOP;
            case "limit" -> FinishReason.LENGTH;
            default -> FinishReason.OTHER;
        };
    }

    Engine engine() {
        return engine.engine();
    }

    @Override
    public void close() {
        engine.close();
    }

    @Override
    public String toString() {
        return engine.engine().toString();
    }
}
