package io.kvfold.langchain4j;

import com.fasterxml.jackson.databind.JsonNode;
import dev.langchain4j.agent.tool.ToolExecutionRequest;
import dev.langchain4j.data.message.AiMessage;
import dev.langchain4j.exception.InternalServerException;
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.PartialResponse;
import dev.langchain4j.model.chat.response.PartialThinking;
import dev.langchain4j.model.output.FinishReason;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.function.Consumer;
import java.util.function.LongUnaryOperator;
import org.jspecify.annotations.Nullable;

/**
 * One answer while it is read from llama-server's chunks. A {@code chat.completion} that comes whole is read like a single
 * chunk, so that both ways give the same answer. Not thread-safe.
 */
final class Answer {

    private static final byte[] TEXT_START =
            utf8("{\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\"");
    private static final byte[] TEXT_END = utf8("\"}}],\"created\":");

    private final String modelName;
    private final boolean returnThinking;
    private final LongUnaryOperator kvBytes;
    private final StringBuilder text = new StringBuilder();
    private final StringBuilder thinking = new StringBuilder();
    private final ToolCalls toolCalls = new ToolCalls();
    private String id = "";
    private boolean thought;
    private @Nullable FinishReason finishReason;
    private @Nullable JsonNode usage;
    private @Nullable JsonNode timings;

    /** @param kvBytes what the keys and values of so many tokens take */
    Answer(String modelName, boolean returnThinking, LongUnaryOperator kvBytes) {
        this.modelName = modelName;
        this.returnThinking = returnThinking;
        this.kvBytes = kvBytes;
    }

    /** Takes over the thinking of an answer in whose place this one comes; thinking once more is not told. */
    Answer after(Answer other) {
        thinking.append(other.thinking);
        thought = !thinking.isEmpty();
        return this;
    }

    /** Takes the next chunk, JSON in UTF-8, and hands what is new in it to {@code events}. */
    void accept(byte[] chunk, Consumer<Object> events) {
        String newText = plainText(chunk);
        if (newText != null) {
            addText(newText, events);
            return;
        }
        try {
            accept(ChatRequestMapper.JSON_MAPPER.readTree(chunk), events);
        } catch (IOException e) {
            throw new InternalServerException("the engine's chunk is not JSON: " + e.getMessage(), e);
        }
    }

    /**
     * The text of a chunk that holds a text and nothing else that is new, as almost every token's does, if it is written the
     * way llama-server writes it and without escapes; else null. Parsing such a chunk allocates ten times as much.
     */
    static @Nullable String plainText(byte[] chunk) {
        int start = TEXT_START.length;
        if (chunk.length < start || !Arrays.equals(chunk, 0, start, TEXT_START, 0, start)) {
            return null;
        }
        int end = start;
        while (end < chunk.length && chunk[end] != '"' && chunk[end] != '\\') {
            end++;
        }
        int after = end + TEXT_END.length;
        return after <= chunk.length && Arrays.equals(chunk, end, after, TEXT_END, 0, TEXT_END.length)
                ? new String(chunk, start, end - start, StandardCharsets.UTF_8)
                : null;
    }

    private void addText(String newText, Consumer<Object> events) {
        if (!newText.isEmpty()) {
            text.append(newText);
            events.accept(new PartialResponse(newText));
        }
    }

    private void accept(JsonNode chunk, Consumer<Object> events) {
        id = chunk.path("id").asText(id);
        usage = chunk.hasNonNull("usage") ? chunk.get("usage") : usage;
        timings = chunk.hasNonNull("timings") ? chunk.get("timings") : timings;
        for (JsonNode choice : chunk.path("choices")) {
            accept(choice.has("delta") ? choice.get("delta") : choice.path("message"), events, choice);
        }
    }

    private void accept(JsonNode delta, Consumer<Object> events, JsonNode choice) {
        String newThinking = delta.path("reasoning_content").asText("");
        if (!thought && !newThinking.isEmpty()) {
            thinking.append(newThinking);
            if (returnThinking) {
                events.accept(new PartialThinking(newThinking));
            }
        }
        addText(delta.path("content").asText(""), events);
        int position = 0;
        for (JsonNode call : delta.path("tool_calls")) {
            toolCalls.accept(call, position++, events);
        }
        if (choice.hasNonNull("finish_reason")) {
            finishReason = finishReason(choice.get("finish_reason").asText());
            if (finishReason == FinishReason.LENGTH) {
                toolCalls.dropUnfinished();
            }
            toolCalls.complete(events);
        }
    }

    /** What the model has thought so far, also where that is not returned. */
    String thinking() {
        return thinking.toString();
    }

    boolean hasToolCalls() {
        return !toolCalls.isEmpty();
    }

    boolean hasText() {
        return !text.toString().isBlank();
    }

    /** The whole answer, after its last chunk. */
    ChatResponse toResponse() {
        if (finishReason == null || usage == null) {
            throw new IllegalStateException("the answer ended without a finish reason or without its token usage");
        }
        List<ToolExecutionRequest> requests = toolCalls.requests();
        AiMessage message = AiMessage.builder()
                .text(text.isEmpty() && !requests.isEmpty() ? null : text.toString()) // a call alone has no text
                .thinking(thinking.isEmpty() || !returnThinking ? null : thinking.toString())
                .toolExecutionRequests(requests)
                .build();
        return ChatResponse.builder()
                .aiMessage(message)
                .metadata(metadata(usage, finishReason))
                .build();
    }

    private KvfoldChatResponseMetadata metadata(JsonNode usage, FinishReason finishReason) {
        int prompt = usage.path("prompt_tokens").asInt();
        int cached = usage.path("prompt_tokens_details").path("cached_tokens").asInt();
        int generated = usage.path("completion_tokens").asInt();
        return KvfoldChatResponseMetadata.builder()
                .id(id)
                .modelName(modelName)
                .tokenUsage(new KvfoldTokenUsage(prompt, cached, generated))
                .finishReason(finishReason)
                .inputTokensPerSecond(speed("prompt_per_second"))
                .outputTokensPerSecond(speed("predicted_per_second"))
                .kvCacheBytes(kvBytes.applyAsLong(prompt + (long) generated))
                .build();
    }

    private static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private @Nullable Double speed(String key) {
        return timings != null && timings.hasNonNull(key) ? timings.get(key).asDouble() : null;
    }

    private static FinishReason finishReason(String reason) {
        return switch (reason) {
            case "stop" -> FinishReason.STOP;
            case "length" -> FinishReason.LENGTH;
            case "tool_calls" -> FinishReason.TOOL_EXECUTION;
            default -> FinishReason.OTHER;
        };
    }
}
