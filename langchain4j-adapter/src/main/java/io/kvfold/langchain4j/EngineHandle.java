package io.kvfold.langchain4j;

import com.fasterxml.jackson.databind.JsonNode;
import io.kvfold.Engine;
import io.kvfold.EngineInfo;
import io.kvfold.Generation;
import io.kvfold.KvfoldException;
import java.nio.file.Path;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;

/** An engine and whether the model that uses it is the one to close it. */
record EngineHandle(Engine engine, boolean owned) implements AutoCloseable {

    /** The GGUF file's {@code general.name}, or its file name without the extension where it has none. */
    String modelName() {
        EngineInfo.Model model = engine.info().model();
        String name = model.name();
        if (name != null && !name.isBlank()) {
            return name;
        }
        Path file = Path.of(model.path()).getFileName();
        return file == null ? model.path() : file.toString().replaceFirst("\\.gguf$", "");
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
        CompletableFuture<JsonNode> future = new CompletableFuture<>();
        future.whenComplete((answer, error) -> {
            if (future.isCancelled()) {
                request.cancel();
            }
        });
        Threads.REQUESTS.execute(() -> {
            try (request) {
                future.complete(Objects.requireNonNull(request.next()));
            } catch (RuntimeException e) {
                future.completeExceptionally(Errors.translate(e));
            }
        });
        return future;
    }

    @Override
    public void close() {
        if (owned) {
            engine.close();
        }
    }
}
