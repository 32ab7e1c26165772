package io.kvfold.langchain4j;

import dev.langchain4j.model.chat.request.ChatRequest;
import io.kvfold.Session;
import io.kvfold.SessionStore;
import java.util.function.BiFunction;

/** Keeps the KV states of the conversations of an AI service. */
public final class KvfoldSessions {

    private KvfoldSessions() {}

    /**
     * Gives each request the session that belongs to its chat memory, so that a conversation is not prefilled again after
     * other conversations have had its slot, or in another process:
     *
     * <pre>{@code
     * AiServices.builder(Assistant.class)
     *         .chatModel(model)
     *         .chatMemoryProvider(memories)
     *         .chatRequestTransformer(KvfoldSessions.byMemoryId(SessionStore.directory(Path.of("sessions"))))
     *         .build();
     * }</pre>
     *
     * @param store asked for the memory id's {@code toString()}
     */
    public static BiFunction<ChatRequest, Object, ChatRequest> byMemoryId(SessionStore store) {
        return (request, memoryId) -> request.toBuilder()
                .parameters(KvfoldChatRequestParameters.builder()
                        .overrideWith(request.parameters())
                        .session(Session.of(store, memoryId.toString()))
                        .build())
                .build();
    }
}
