package io.kvfold.langchain4j;

import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.response.ChatResponse;
import io.kvfold.Engine;
import io.kvfold.Generation;
import io.kvfold.KvCacheStats;
import io.kvfold.KvfoldException;
import io.kvfold.Session;
import java.time.Duration;
import java.util.function.Supplier;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;

/** What a chat model does with an engine, whether it streams or not. Thread-safe. */
final class ChatBackend implements AutoCloseable {

    private final EngineHandle engine;
    private final KvfoldChatRequestParameters defaults;
    private final ChatRequestMapper mapper;
    private final KvCacheStats.Rows rows;
    private final boolean returnThinking;
    private final @Nullable Duration timeout;
    private final boolean logRequests;
    private final boolean logResponses;
    private final Logger log;

    ChatBackend(ChatModelBuilder<?> builder, Logger log) {
        this.engine = builder.openEngine();
        this.rows = engine.engine().info().kv().rows();
        this.defaults = named(builder.parameters(), engine.model().name());
        this.mapper = new ChatRequestMapper(engine.model(), builder.sendThinking);
        this.returnThinking = builder.returnThinking;
        this.timeout = builder.timeout;
        this.logRequests = builder.logRequests;
        this.logResponses = builder.logResponses;
        this.log = log;
        try {
            mapper.validate(defaults);
        } catch (RuntimeException e) {
            engine.close();
            throw e;
        }
    }

    /** Listeners read the model's name off the request. */
    private static KvfoldChatRequestParameters named(KvfoldChatRequestParameters parameters, String name) {
        return parameters.modelName() != null
                ? parameters
                : KvfoldChatRequestParameters.builder()
                        .overrideWith(parameters)
                        .modelName(name)
                        .build();
    }

    KvfoldChatRequestParameters defaults() {
        return defaults;
    }

    /** Validates the request; each call is a run of its own, which starts when its first event is asked for. */
    Supplier<ChatCall> calls(ChatRequest request, boolean stream) {
        ObjectNode body = mapper.toBody(request, stream);
        ObjectNode calling = mapper.toCallingBody(request);
        Session session = request.parameters() instanceof KvfoldChatRequestParameters ours ? ours.session() : null;
        Supplier<Generation> start = () -> start(calling == null ? body : calling, session);
        return () -> new ChatCall(
                start,
                calling == null || mapper.mustCall(request)
                        ? null
                        : thinking -> start(ChatRequestMapper.after(thinking, body), session),
                () -> new Answer(engine.model().name(), returnThinking, rows::bytes),
                timeout,
                this::logResponse);
    }

    ChatCall call(ChatRequest request, boolean stream) {
        return calls(request, stream).get();
    }

    private Generation start(ObjectNode body, @Nullable Session session) {
        logRequest(body);
        return session == null ? engine.engine().chat(body) : engine.engine().chat(body, session);
    }

    private void logRequest(ObjectNode body) {
        if (!logRequests || !log.isInfoEnabled()) {
            return;
        }
        String prompt;
        try {
            prompt = engine.engine().applyTemplate(body);
        } catch (KvfoldException e) {
            prompt = "(none: " + e.getMessage() + ")";
        }
        log.info("Request to {}: {}\nPrompt:\n{}", engine.model().name(), body, prompt);
    }

    private void logResponse(ChatResponse response) {
        if (logResponses) {
            log.info("Answer of {}: {}", engine.model().name(), response);
        }
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
