package io.kvfold.langchain4j;

import dev.langchain4j.model.chat.request.ChatRequestParameters;
import dev.langchain4j.model.chat.request.DefaultChatRequestParameters;
import io.kvfold.Session;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * LangChain4j's common request parameters and the ones that only llama.cpp has. Immutable; a parameter that is null or
 * empty leaves the choice to the model's defaults, and after those to the engine's.
 */
public final class KvfoldChatRequestParameters extends DefaultChatRequestParameters {

    /** No parameter set. */
    public static final KvfoldChatRequestParameters EMPTY = builder().build();

    private final @Nullable Integer seed;
    private final @Nullable Double minP;
    private final @Nullable Double repeatPenalty;
    private final @Nullable Boolean parallelToolCalls;
    private final @Nullable Boolean enableThinking;
    private final @Nullable String grammar;
    private final @Nullable Session session;
    private final @Nullable String cacheSalt;
    private final Map<String, Object> options;

    private KvfoldChatRequestParameters(Builder builder) {
        super(builder);
        this.seed = builder.seed;
        this.minP = builder.minP;
        this.repeatPenalty = builder.repeatPenalty;
        this.parallelToolCalls = builder.parallelToolCalls;
        this.enableThinking = builder.enableThinking;
        this.grammar = builder.grammar;
        this.session = builder.session;
        this.cacheSalt = builder.cacheSalt;
        this.options = Map.copyOf(builder.options);
    }

    /** Seed of the sampler, at least 0; null draws one per request. */
    public @Nullable Integer seed() {
        return seed;
    }

    /** Least probability of a candidate token relative to the most probable one, in [0, 1]; 0 switches it off. */
    public @Nullable Double minP() {
        return minP;
    }

    /** Factor by which logits of recently used tokens are lowered, above 0; 1 switches it off. */
    public @Nullable Double repeatPenalty() {
        return repeatPenalty;
    }

    /**
     * Whether one answer may hold several tool calls. Null follows the model's chat template, and is false for a template
     * that does not know tools.
     */
    public @Nullable Boolean parallelToolCalls() {
        return parallelToolCalls;
    }

    /** Whether a model that can think before it answers does so; null follows the model's chat template. */
    public @Nullable Boolean enableThinking() {
        return enableThinking;
    }

    /**
     * A grammar in llama.cpp's GBNF notation that the answer must match. Not together with tools or a JSON response
     * format, which are grammars themselves.
     */
    public @Nullable String grammar() {
        return grammar;
    }

    /**
     * The conversation that the request continues, whose KV state is kept between requests and processes; null keeps none.
     * See {@link KvfoldSessions} for AI services.
     */
    public @Nullable Session session() {
        return session;
    }

    /**
     * Whose request it is, where an engine serves several tenants: what the KV cache holds of a prompt is shared with requests
     * of an equal salt only, so that no tenant can tell from the time to a first token or from {@code cachedInputTokenCount} what
     * another one has asked. Null is a salt of its own, of all requests that give none.
     */
    public @Nullable String cacheSalt() {
        return cacheSalt;
    }

    /** Other fields of llama-server's request by their names, such as {@code cache_prompt} or {@code logit_bias}. */
    public Map<String, Object> options() {
        return options;
    }

    @Override
    public KvfoldChatRequestParameters overrideWith(ChatRequestParameters that) {
        return builder().overrideWith(this).overrideWith(that).build();
    }

    @Override
    public KvfoldChatRequestParameters defaultedBy(ChatRequestParameters that) {
        return builder().overrideWith(that).overrideWith(this).build();
    }

    @Override
    public boolean equals(@Nullable Object other) {
        return super.equals(other)
                && other instanceof KvfoldChatRequestParameters that
                && Objects.equals(seed, that.seed)
                && Objects.equals(minP, that.minP)
                && Objects.equals(repeatPenalty, that.repeatPenalty)
                && Objects.equals(parallelToolCalls, that.parallelToolCalls)
                && Objects.equals(enableThinking, that.enableThinking)
                && Objects.equals(grammar, that.grammar)
                && Objects.equals(session, that.session)
                && Objects.equals(cacheSalt, that.cacheSalt)
                && options.equals(that.options);
    }

    @Override
    public int hashCode() {
        return Objects.hash(
                super.hashCode(),
                seed,
                minP,
                repeatPenalty,
                parallelToolCalls,
                enableThinking,
                grammar,
                session,
                cacheSalt,
                options);
    }

    @Override
    public String toString() {
        return "KvfoldChatRequestParameters{common=" + super.toString() + ", seed=" + seed + ", minP=" + minP
                + ", repeatPenalty=" + repeatPenalty + ", parallelToolCalls=" + parallelToolCalls
                + ", enableThinking=" + enableThinking + ", grammar=" + grammar + ", session=" + session
                + ", cacheSalt=" + cacheSalt + ", options=" + options + '}';
    }

    /** A new, empty builder. */
    public static Builder builder() {
        return new Builder();
    }

    /** Builder of {@link KvfoldChatRequestParameters}. Not thread-safe. */
    public static final class Builder extends DefaultChatRequestParameters.Builder<Builder> {

        private @Nullable Integer seed;
        private @Nullable Double minP;
        private @Nullable Double repeatPenalty;
        private @Nullable Boolean parallelToolCalls;
        private @Nullable Boolean enableThinking;
        private @Nullable String grammar;
        private @Nullable Session session;
        private @Nullable String cacheSalt;
        private final Map<String, Object> options = new LinkedHashMap<>();

        @Override
        public Builder overrideWith(ChatRequestParameters parameters) {
            super.overrideWith(parameters);
            if (parameters instanceof KvfoldChatRequestParameters ours) {
                seed = ours.seed != null ? ours.seed : seed;
                minP = ours.minP != null ? ours.minP : minP;
                repeatPenalty = ours.repeatPenalty != null ? ours.repeatPenalty : repeatPenalty;
                parallelToolCalls = ours.parallelToolCalls != null ? ours.parallelToolCalls : parallelToolCalls;
                enableThinking = ours.enableThinking != null ? ours.enableThinking : enableThinking;
                grammar = ours.grammar != null ? ours.grammar : grammar;
                session = ours.session != null ? ours.session : session;
                cacheSalt = ours.cacheSalt != null ? ours.cacheSalt : cacheSalt;
                options.putAll(ours.options);
            }
            return this;
        }

        /** See {@link KvfoldChatRequestParameters#seed()}. */
        public Builder seed(@Nullable Integer seed) {
            this.seed = seed;
            return this;
        }

        /** See {@link KvfoldChatRequestParameters#minP()}. */
        public Builder minP(@Nullable Double minP) {
            this.minP = minP;
            return this;
        }

        /** See {@link KvfoldChatRequestParameters#repeatPenalty()}. */
        public Builder repeatPenalty(@Nullable Double repeatPenalty) {
            this.repeatPenalty = repeatPenalty;
            return this;
        }

        /** See {@link KvfoldChatRequestParameters#parallelToolCalls()}. */
        public Builder parallelToolCalls(@Nullable Boolean parallelToolCalls) {
            this.parallelToolCalls = parallelToolCalls;
            return this;
        }

        /** See {@link KvfoldChatRequestParameters#enableThinking()}. */
        public Builder enableThinking(@Nullable Boolean enableThinking) {
            this.enableThinking = enableThinking;
            return this;
        }

        /** See {@link KvfoldChatRequestParameters#grammar()}. */
        public Builder grammar(@Nullable String grammar) {
            this.grammar = grammar;
            return this;
        }

        /** See {@link KvfoldChatRequestParameters#session()}. */
        public Builder session(@Nullable Session session) {
            this.session = session;
            return this;
        }

        /** See {@link KvfoldChatRequestParameters#cacheSalt()}. */
        public Builder cacheSalt(@Nullable String cacheSalt) {
            this.cacheSalt = cacheSalt;
            return this;
        }

        /**
         * See {@link KvfoldChatRequestParameters#options()}.
         *
         * @param value anything that is JSON: a string, a number, a boolean, a list or a map; null takes the field out again
         */
        public Builder option(String name, @Nullable Object value) {
            if (value == null) {
                options.remove(name);
            } else {
                options.put(name, value);
            }
            return this;
        }

        @Override
        public KvfoldChatRequestParameters build() {
            return new KvfoldChatRequestParameters(this);
        }
    }
}
