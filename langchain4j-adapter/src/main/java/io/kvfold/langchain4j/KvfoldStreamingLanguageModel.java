package io.kvfold.langchain4j;

import static dev.langchain4j.internal.InternalStreamingChatResponseHandlerUtils.withLoggingExceptions;
import static dev.langchain4j.spi.ServiceHelper.loadFactories;

import dev.langchain4j.model.StreamingResponseHandler;
import dev.langchain4j.model.language.StreamingLanguageModel;
import dev.langchain4j.model.output.Response;
import io.kvfold.Engine;
import io.kvfold.Generation;
import io.kvfold.langchain4j.spi.KvfoldStreamingLanguageModelBuilderFactory;

/**
 * A {@link StreamingLanguageModel} over a GGUF model in this process: continues a prompt as it is, without a chat template.
 *
 * <p>Thread-safe. A full queue is refused with an exception in the caller's thread; everything later reaches the handler,
 * which one thread of this library calls. A handler that throws ends its request, and is told of its own exception. The
 * token usage is a {@link KvfoldTokenUsage}. Exceptions are those of {@link KvfoldChatModel}.
 */
public class KvfoldStreamingLanguageModel implements StreamingLanguageModel, AutoCloseable {

    private final CompletionBackend backend;

    /** Builds a model; opens an engine unless the builder lends one. */
    public KvfoldStreamingLanguageModel(Builder builder) {
        this.backend = new CompletionBackend(builder);
    }

    /** A new builder, or a framework's own. */
    public static Builder builder() {
        for (KvfoldStreamingLanguageModelBuilderFactory factory :
                loadFactories(KvfoldStreamingLanguageModelBuilderFactory.class)) {
            return factory.get();
        }
        return new Builder();
    }

    @Override
    public void generate(String prompt, StreamingResponseHandler<String> handler) {
        Generation started = backend.start(prompt, true);
        Threads.REQUESTS.execute(() -> {
            try (Generation generation = started) {
                Response<String> response = CompletionBackend.finish(generation, handler::onNext);
                handler.onComplete(response);
            } catch (RuntimeException e) {
                withLoggingExceptions(() -> handler.onError(e));
            }
        });
    }

    /** The engine behind this model, to look at its KV cache or to share it with other models; not to be closed here. */
    public Engine engine() {
        return backend.engine();
    }

    /** Closes the engine if this model opened it, which ends running requests. Idempotent, from any thread. */
    @Override
    public void close() {
        backend.close();
    }

    @Override
    public String toString() {
        return "KvfoldStreamingLanguageModel[" + backend + "]";
    }

    /** Builder of {@link KvfoldStreamingLanguageModel}; null and unset leave the engine's default. Not thread-safe. */
    public static class Builder extends SamplingBuilder<Builder> {

        /** An empty builder; public so that a framework can extend it. */
        public Builder() {}

        /**
         * Opens the engine unless one is lent.
         *
         * @throws IllegalArgumentException if neither an engine nor a model is set, or both
         * @throws dev.langchain4j.exception.LangChain4jException as {@link KvfoldChatModel} documents
         */
        public KvfoldStreamingLanguageModel build() {
            return new KvfoldStreamingLanguageModel(this);
        }
    }
}
