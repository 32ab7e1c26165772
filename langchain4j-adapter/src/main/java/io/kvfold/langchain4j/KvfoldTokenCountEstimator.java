package io.kvfold.langchain4j;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.langchain4j.data.message.ChatMessage;
import dev.langchain4j.exception.InvalidRequestException;
import dev.langchain4j.model.TokenCountEstimator;
import io.kvfold.Engine;
import java.util.List;

/**
 * Counts tokens with the model's own tokenizer and chat template, so the counts are exact and not estimates. Runs nothing
 * through the model. Thread-safe.
 *
 * <p>Some templates refuse messages that no conversation starts with, such as an answer without its question; a count of
 * such messages is that of their bare JSON content, an upper bound of a few tokens.
 */
public final class KvfoldTokenCountEstimator implements TokenCountEstimator {

    private final EngineHandle engine;
    private final ChatRequestMapper mapper;

    /** Counts with {@code engine}'s model; the caller keeps ownership of the engine. */
    public KvfoldTokenCountEstimator(Engine engine) {
        this.engine = EngineHandle.borrow(engine);
        this.mapper = new ChatRequestMapper(this.engine.model(), false);
    }

    /** Tokens of a text by itself, without what a vocabulary or a template puts around it. */
    @Override
    public int estimateTokenCountInText(String text) {
        return Errors.translating(() -> engine.engine().tokenize(text, false, false)).length;
    }

    /** Tokens of one message with what the template puts around it. */
    @Override
    public int estimateTokenCountInMessage(ChatMessage message) {
        return count(List.of(message), false);
    }

    /** Tokens of the prompt that these messages become, the beginning of the answer included. */
    @Override
    public int estimateTokenCountInMessages(Iterable<ChatMessage> messages) {
        return messages.iterator().hasNext() ? count(messages, true) : 0;
    }

    private int count(Iterable<ChatMessage> messages, boolean addGenerationPrompt) {
        ObjectNode body = ChatRequestMapper.JSON_MAPPER.createObjectNode();
        body.set("messages", mapper.messages(messages));
        body.put("add_generation_prompt", addGenerationPrompt);
        try {
            return engine.call("/v1/chat/completions/input_tokens", body)
                    .path("input_tokens")
                    .asInt();
        } catch (InvalidRequestException e) {
            return estimateTokenCountInText(body.path("messages").toString());
        }
    }
}
