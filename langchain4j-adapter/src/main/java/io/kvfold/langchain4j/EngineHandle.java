package io.kvfold.langchain4j;

import com.fasterxml.jackson.databind.JsonNode;
import io.kvfold.Engine;
import io.kvfold.Generation;
import io.kvfold.KvfoldException;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.function.Supplier;

/** An engine, what is known about its model, and whether the user of this handle is the one to close it. */
record EngineHandle(Engine engine, ModelFacts model, boolean owned) implements AutoCloseable {

    static EngineHandle borrow(Engine engine) {
        return new EngineHandle(engine, Errors.translating(() -> ModelFacts.of(engine)), false);
    }

    static EngineHandle open(Engine.Builder builder) {
        Engine engine = Errors.translating(builder::open);
        try {
            return new EngineHandle(engine, Errors.translating(() -> ModelFacts.of(engine)), true);
        } catch (RuntimeException e) {
            engine.close();
            throw e;
        }
    }

    /** The single answer of {@code route}. */
    JsonNode call(String route, JsonNode body) {
        return Errors.translating(() -> engine.call(route, body));
    }

    /** As {@link #call}, on a thread of this library; cancelling the future cancels the request. */
    CompletableFuture<JsonNode> callAsync(String route, JsonNode body) {
        Generation request;
        try {
            request = engine.start(route, body);
        } catch (KvfoldException e) {
            return CompletableFuture.failedFuture(Errors.translate(e));
        }
        Supplier<JsonNode> answer = () -> {
            try (request) {
                return Objects.requireNonNull(request.next());
            }
        };
        return Threads.supply(() -> Errors.translating(answer), request::cancel);
    }

    @Override
    public void close() {
        if (owned) {
            engine.close();
        }
    }
}
