package io.kvfold.langchain4j;

import static dev.langchain4j.spi.ServiceHelper.loadFactories;

import dev.langchain4j.model.chat.Capability;
import dev.langchain4j.model.chat.ChatModel;
import dev.langchain4j.model.chat.listener.ChatModelListener;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.response.ChatResponse;
import io.kvfold.Engine;
import io.kvfold.langchain4j.spi.KvfoldChatModelBuilderFactory;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.function.Supplier;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A {@link ChatModel} over a GGUF model in this process.
 *
 * <pre>{@code
 * try (KvfoldChatModel model = KvfoldChatModel.builder().modelPath("model.gguf").build()) {
 *     String answer = model.chat("What is the capital of Germany?");
 * }
 * }</pre>
 *
 * <p>Thread-safe; requests run side by side in the engine's slots, and wait for one where all are taken. A model that
 * opened its engine closes it with {@link #close()}.
 *
 * <p>Messages are rendered with the chat template in the GGUF file. A file without one gets llama.cpp's default, ChatML. To
 * a template that does not describe tools the engine adds a description ({@link Engine.Builder#describeTools}); where it
 * does not, as for a file without a template, the model refuses requests with tools. A template that knows no switch for
 * thinking ignores {@link Builder#enableThinking}.
 *
 * <p>With tools and a JSON response format in one request the model is first asked with the tools alone; once its answer
 * begins with something else than a call it is asked for JSON, from the same prompt and what it has thought until then. Usage is
 * that of the answer returned.
 *
 * <p>Throws LangChain4j's exceptions: {@code ModelNotFoundException} from {@link Builder#build()} for a file that is
 * missing or no usable GGUF file, {@code AuthenticationException} and {@code InternalServerException} from there for a model
 * that a hub does not hand out or that cannot be fetched, {@code InvalidRequestException} for a prompt that is longer than a slot and for a
 * grammar, a schema or messages the model cannot take, {@code UnsupportedFeatureException} for what no request to this
 * model may hold, {@code RateLimitException} when the queue is full, {@code TimeoutException} after the timeout,
 * {@code InternalServerException} when decoding fails, {@code NonRetriableException} when the engine is closed or the
 * native library does not load, and {@link java.util.concurrent.CancellationException} when the waiting thread is
 * interrupted.
 */
public class KvfoldChatModel implements ChatModel, AutoCloseable {

    private static final Logger LOG = LoggerFactory.getLogger(KvfoldChatModel.class);

    private final ChatBackend backend;
    private final List<ChatModelListener> listeners;
    private final Set<Capability> supportedCapabilities;

    /** Builds a model; opens an engine unless the builder lends one. */
    public KvfoldChatModel(Builder builder) {
        this.backend = new ChatBackend(builder, LOG);
        this.listeners = builder.listeners;
        this.supportedCapabilities = builder.supportedCapabilities;
    }

    /** A new builder, or a framework's own. */
    public static Builder builder() {
        for (KvfoldChatModelBuilderFactory factory : loadFactories(KvfoldChatModelBuilderFactory.class)) {
            return factory.get();
        }
        return new Builder();
    }

    @Override
    public ChatResponse doChat(ChatRequest request) {
        try (ChatCall call = backend.call(request, false)) {
            return call.await();
        }
    }

    /** Runs the request on a thread of this library; cancelling the future cancels the request. */
    @Override
    public CompletableFuture<ChatResponse> doChatAsync(ChatRequest request) {
        ChatCall call;
        try {
            call = backend.call(request, false);
        } catch (RuntimeException e) {
            return CompletableFuture.failedFuture(e);
        }
        Supplier<ChatResponse> answer = () -> {
            try (call) {
                return call.await();
            }
        };
        return Threads.supply(answer, call::cancel);
    }

    @Override
    public KvfoldChatRequestParameters defaultRequestParameters() {
        return backend.defaults();
    }

    @Override
    public List<ChatModelListener> listeners() {
        return listeners;
    }

    @Override
    public Set<Capability> supportedCapabilities() {
        return supportedCapabilities;
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
        return "KvfoldChatModel[" + backend + "]";
    }

    /** Builder of {@link KvfoldChatModel}; null and unset leave the engine's default. Not thread-safe. */
    public static class Builder extends ChatModelBuilder<Builder> {

        /** An empty builder; public so that a framework can extend it. */
        public Builder() {}

        /**
         * Opens the engine unless one is lent.
         *
         * @throws IllegalArgumentException if neither an engine nor a model is set, or both
         * @throws dev.langchain4j.exception.LangChain4jException as the class documents
         */
        public KvfoldChatModel build() {
            return new KvfoldChatModel(this);
        }
    }
}
