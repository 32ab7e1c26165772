package io.kvfold.langchain4j;

import static dev.langchain4j.internal.InternalStreamingChatResponseHandlerUtils.onCompleteResponse;
import static dev.langchain4j.internal.InternalStreamingChatResponseHandlerUtils.onCompleteToolCall;
import static dev.langchain4j.internal.InternalStreamingChatResponseHandlerUtils.onPartialResponse;
import static dev.langchain4j.internal.InternalStreamingChatResponseHandlerUtils.onPartialThinking;
import static dev.langchain4j.internal.InternalStreamingChatResponseHandlerUtils.onPartialToolCall;
import static dev.langchain4j.internal.InternalStreamingChatResponseHandlerUtils.withLoggingExceptions;
import static dev.langchain4j.spi.ServiceHelper.loadFactories;

import dev.langchain4j.exception.RateLimitException;
import dev.langchain4j.model.chat.Capability;
import dev.langchain4j.model.chat.StreamingChatModel;
import dev.langchain4j.model.chat.listener.ChatModelListener;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.response.ChatModelStreamingEvent;
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.CompleteToolCall;
import dev.langchain4j.model.chat.response.PartialResponse;
import dev.langchain4j.model.chat.response.PartialThinking;
import dev.langchain4j.model.chat.response.PartialToolCall;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import io.kvfold.Engine;
import io.kvfold.langchain4j.spi.KvfoldStreamingChatModelBuilderFactory;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Executor;
import java.util.concurrent.Flow.Publisher;
import java.util.concurrent.RejectedExecutionException;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * A {@link StreamingChatModel} over a GGUF model in this process.
 *
 * <p>Thread-safe. A request that is wrong in itself is refused with an exception in the caller's thread; everything later
 * reaches the handler. One thread of this library calls a handler, one call at a time. {@code StreamingHandle.cancel()},
 * from any thread, stops the request during prefill as well as decode; a callback that runs meanwhile on the other
 * thread ends, and none follows.
 *
 * <p>The publisher starts to generate with the first demand, takes no further chunk from the engine while there is none, and
 * holds no thread meanwhile. The engine decodes some tens of tokens ahead of a slow subscriber or handler; then the slot
 * pauses until they are taken, and others go on. A paused slot is occupied: cancel a subscription that is given up.
 *
 * <p>Exceptions are those of {@link KvfoldChatModel}.
 */
public class KvfoldStreamingChatModel implements StreamingChatModel, AutoCloseable {

    private static final Logger LOG = LoggerFactory.getLogger(KvfoldStreamingChatModel.class);

    private final ChatBackend backend;
    private final Executor executor;
    private final List<ChatModelListener> listeners;
    private final Set<Capability> supportedCapabilities;

    /** Builds a model; opens an engine unless the builder lends one. */
    public KvfoldStreamingChatModel(Builder builder) {
        this.backend = new ChatBackend(builder, LOG);
        this.executor = builder.executor == null ? Threads.REQUESTS : builder.executor;
        this.listeners = builder.listeners;
        this.supportedCapabilities = builder.supportedCapabilities;
    }

    /** A new builder, or a framework's own. */
    public static Builder builder() {
        for (KvfoldStreamingChatModelBuilderFactory factory :
                loadFactories(KvfoldStreamingChatModelBuilderFactory.class)) {
            return factory.get();
        }
        return new Builder();
    }

    @Override
    public void doChat(ChatRequest request, StreamingChatResponseHandler handler) {
        ChatCall call = backend.call(request, true);
        try {
            executor.execute(() -> stream(call, handler));
        } catch (RejectedExecutionException e) {
            withLoggingExceptions(() -> handler.onError(new RateLimitException("the executor is full", e)));
        }
    }

    private static void stream(ChatCall call, StreamingChatResponseHandler handler) {
        try (call) {
            Object event = call.nextEvent();
            while (event != null) {
                deliver(event, handler, call);
                event = call.isCancelled() ? null : call.nextEvent();
            }
        } catch (Throwable e) { // an error of a handler as well, or whoever waits for the answer would wait for ever
            if (!call.isCancelled()) {
                withLoggingExceptions(() -> handler.onError(e));
            }
        }
    }

    private static void deliver(Object event, StreamingChatResponseHandler handler, ChatCall call) {
        if (event instanceof PartialResponse partial) {
            onPartialResponse(handler, partial.text(), call);
        } else if (event instanceof PartialThinking partial) {
            onPartialThinking(handler, partial.text(), call);
        } else if (event instanceof PartialToolCall partial) {
            onPartialToolCall(handler, partial, call);
        } else if (event instanceof CompleteToolCall complete) {
            onCompleteToolCall(handler, complete);
        } else if (event instanceof ChatResponse response) {
            onCompleteResponse(handler, response);
        }
    }

    @Override
    public Publisher<ChatModelStreamingEvent> doChat(ChatRequest request) {
        return new ChatPublisher(backend.calls(request, true), executor);
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
        return "KvfoldStreamingChatModel[" + backend + "]";
    }

    /** Builder of {@link KvfoldStreamingChatModel}; null and unset leave the engine's default. Not thread-safe. */
    public static class Builder extends ChatModelBuilder<Builder> {

        private @Nullable Executor executor;

        /** An empty builder; public so that a framework can extend it. */
        public Builder() {}

        /** Runs one task per request for as long as it takes. Default: daemon threads of this library. */
        public Builder executor(@Nullable Executor executor) {
            this.executor = executor;
            return this;
        }

        /**
         * Opens the engine unless one is lent.
         *
         * @throws IllegalArgumentException if neither an engine nor a model is set, or both
         * @throws dev.langchain4j.exception.LangChain4jException as {@link KvfoldChatModel} documents
         */
        public KvfoldStreamingChatModel build() {
            return new KvfoldStreamingChatModel(this);
        }
    }
}
