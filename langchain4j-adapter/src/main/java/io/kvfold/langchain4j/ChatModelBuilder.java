package io.kvfold.langchain4j;

import dev.langchain4j.model.chat.Capability;
import dev.langchain4j.model.chat.listener.ChatModelListener;
import dev.langchain4j.model.chat.request.ChatRequestParameters;
import dev.langchain4j.model.chat.request.ResponseFormat;
import io.kvfold.Session;
import java.time.Duration;
import java.util.List;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/** What the builders of the two chat models have in common. Not thread-safe. */
abstract class ChatModelBuilder<B extends ChatModelBuilder<B>> extends SamplingBuilder<B> {

    @Nullable
    ChatRequestParameters defaultRequestParameters;

    boolean returnThinking;
    boolean sendThinking;

    @Nullable
    Duration timeout;

    boolean logRequests;
    boolean logResponses;
    List<ChatModelListener> listeners = List.of();
    Set<Capability> supportedCapabilities = Set.of(Capability.RESPONSE_FORMAT_JSON_SCHEMA);

    /** Parameters of every request that does not set its own; a setter of this builder takes precedence over them. */
    public B defaultRequestParameters(@Nullable ChatRequestParameters parameters) {
        this.defaultRequestParameters = parameters;
        return self();
    }

    /** Text by default; JSON with or without a schema is enforced by a grammar. */
    public B responseFormat(@Nullable ResponseFormat responseFormat) {
        parameters.responseFormat(responseFormat);
        return self();
    }

    /** See {@link KvfoldChatRequestParameters#parallelToolCalls()}. */
    public B parallelToolCalls(@Nullable Boolean parallelToolCalls) {
        parameters.parallelToolCalls(parallelToolCalls);
        return self();
    }

    /** See {@link KvfoldChatRequestParameters#session()}. */
    public B session(@Nullable Session session) {
        parameters.session(session);
        return self();
    }

    /** See {@link KvfoldChatRequestParameters#enableThinking()}. */
    public B enableThinking(@Nullable Boolean enableThinking) {
        parameters.enableThinking(enableThinking);
        return self();
    }

    /** Whether an answer carries the model's thinking; it is never part of the text. Default false. */
    public B returnThinking(@Nullable Boolean returnThinking) {
        this.returnThinking = Boolean.TRUE.equals(returnThinking);
        return self();
    }

    /** Whether the thinking of earlier answers is sent back to the model. Default false. */
    public B sendThinking(@Nullable Boolean sendThinking) {
        this.sendThinking = Boolean.TRUE.equals(sendThinking);
        return self();
    }

    /** How long a request may take, waiting for a slot included; then it ends with a TimeoutException. Default: no limit. */
    public B timeout(@Nullable Duration timeout) {
        this.timeout = timeout;
        return self();
    }

    /** Whether to log each request with its rendered prompt, at level INFO. Default false. */
    public B logRequests(@Nullable Boolean logRequests) {
        this.logRequests = Boolean.TRUE.equals(logRequests);
        return self();
    }

    /** Whether to log each answer, at level INFO. Default false. */
    public B logResponses(@Nullable Boolean logResponses) {
        this.logResponses = Boolean.TRUE.equals(logResponses);
        return self();
    }

    /** Told of every request, answer and error. */
    public B listeners(@Nullable List<ChatModelListener> listeners) {
        this.listeners = listeners == null ? List.of() : List.copyOf(listeners);
        return self();
    }

    /** As {@link #listeners(List)}. */
    public B listeners(ChatModelListener... listeners) {
        return listeners(List.of(listeners));
    }

    /** What AI services may rely on. Default: JSON schemas as response format. */
    public B supportedCapabilities(@Nullable Set<Capability> supportedCapabilities) {
        this.supportedCapabilities = supportedCapabilities == null
                ? Set.of(Capability.RESPONSE_FORMAT_JSON_SCHEMA)
                : Set.copyOf(supportedCapabilities);
        return self();
    }

    /** As {@link #supportedCapabilities(Set)}. */
    public B supportedCapabilities(Capability... supportedCapabilities) {
        return supportedCapabilities(Set.of(supportedCapabilities));
    }

    KvfoldChatRequestParameters parameters() {
        KvfoldChatRequestParameters own = parameters.build();
        return defaultRequestParameters == null ? own : own.defaultedBy(defaultRequestParameters);
    }
}
