package io.kvfold.langchain4j;

import static dev.langchain4j.spi.ServiceHelper.loadFactories;

import dev.langchain4j.model.language.LanguageModel;
import dev.langchain4j.model.output.Response;
import io.kvfold.Engine;
import io.kvfold.Generation;
import io.kvfold.langchain4j.spi.KvfoldLanguageModelBuilderFactory;

/**
 * A {@link LanguageModel} over a GGUF model in this process: continues a prompt as it is, without a chat template.
 *
 * <p>Thread-safe. The token usage is a {@link KvfoldTokenUsage}. Exceptions are those of {@link KvfoldChatModel}.
 */
public class KvfoldLanguageModel implements LanguageModel, AutoCloseable {

    private final CompletionBackend backend;

    /** Builds a model; opens an engine unless the builder lends one. */
    public KvfoldLanguageModel(Builder builder) {
        this.backend = new CompletionBackend(builder);
    }

    /** A new builder, or a framework's own. */
    public static Builder builder() {
        for (KvfoldLanguageModelBuilderFactory factory : loadFactories(KvfoldLanguageModelBuilderFactory.class)) {
            return factory.get();
        }
        return new Builder();
    }

    @Override
    public Response<String> generate(String prompt) {
        try (Generation generation = backend.start(prompt, false)) {
            return CompletionBackend.finish(generation, part -> {});
        }
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
        return "KvfoldLanguageModel[" + backend + "]";
    }

    /** Builder of {@link KvfoldLanguageModel}; null and unset leave the engine's default. Not thread-safe. */
    public static class Builder extends SamplingBuilder<Builder> {

        /** An empty builder; public so that a framework can extend it. */
        public Builder() {}

        /**
         * Opens the engine unless one is lent.
         *
         * @throws IllegalArgumentException if neither an engine nor a model is set, or both
         * @throws dev.langchain4j.exception.LangChain4jException as {@link KvfoldChatModel} documents
         */
        public KvfoldLanguageModel build() {
            return new KvfoldLanguageModel(this);
        }
    }
}
