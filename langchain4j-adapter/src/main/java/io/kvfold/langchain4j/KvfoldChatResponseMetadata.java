package io.kvfold.langchain4j;

import dev.langchain4j.model.chat.response.ChatResponseMetadata;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/** What an answer cost, beside LangChain4j's common metadata. Immutable. */
public final class KvfoldChatResponseMetadata extends ChatResponseMetadata {

    private final @Nullable Double inputTokensPerSecond;
    private final @Nullable Double outputTokensPerSecond;
    private final long kvCacheBytes;

    private KvfoldChatResponseMetadata(Builder builder) {
        super(builder);
        this.inputTokensPerSecond = builder.inputTokensPerSecond;
        this.outputTokensPerSecond = builder.outputTokensPerSecond;
        this.kvCacheBytes = builder.kvCacheBytes;
    }

    /** Prefill speed over the prompt tokens that were not cached, in tokens per second; null if not measured. */
    public @Nullable Double inputTokensPerSecond() {
        return inputTokensPerSecond;
    }

    /** Decode speed in tokens per second; null if not measured. */
    public @Nullable Double outputTokensPerSecond() {
        return outputTokensPerSecond;
    }

    /**
     * Bytes of KV cache that prompt and answer occupy when the answer ends, under the engine's KV plan: a layer that keeps a
     * window counts no more than that; of layers that may turn out lazy as many count so as the plan says, and none if it
     * gives a threshold.
     */
    public long kvCacheBytes() {
        return kvCacheBytes;
    }

    @Override
    public KvfoldTokenUsage tokenUsage() {
        return (KvfoldTokenUsage) super.tokenUsage();
    }

    @Override
    public Builder toBuilder() {
        Builder builder = new Builder();
        toBuilder(builder);
        return builder.inputTokensPerSecond(inputTokensPerSecond)
                .outputTokensPerSecond(outputTokensPerSecond)
                .kvCacheBytes(kvCacheBytes);
    }

    @Override
    public boolean equals(@Nullable Object other) {
        return super.equals(other)
                && other instanceof KvfoldChatResponseMetadata that
                && Objects.equals(inputTokensPerSecond, that.inputTokensPerSecond)
                && Objects.equals(outputTokensPerSecond, that.outputTokensPerSecond)
                && kvCacheBytes == that.kvCacheBytes;
    }

    @Override
    public int hashCode() {
        return Objects.hash(super.hashCode(), inputTokensPerSecond, outputTokensPerSecond, kvCacheBytes);
    }

    @Override
    public String toString() {
        return "KvfoldChatResponseMetadata{id=" + id() + ", modelName=" + modelName() + ", tokenUsage=" + tokenUsage()
                + ", finishReason=" + finishReason() + ", inputTokensPerSecond=" + inputTokensPerSecond
                + ", outputTokensPerSecond=" + outputTokensPerSecond + ", kvCacheBytes=" + kvCacheBytes + '}';
    }

    /** A new, empty builder. */
    public static Builder builder() {
        return new Builder();
    }

    /** Builder of {@link KvfoldChatResponseMetadata}. Not thread-safe. */
    public static final class Builder extends ChatResponseMetadata.Builder<Builder> {

        private @Nullable Double inputTokensPerSecond;
        private @Nullable Double outputTokensPerSecond;
        private long kvCacheBytes;

        /** See {@link KvfoldChatResponseMetadata#inputTokensPerSecond()}. */
        public Builder inputTokensPerSecond(@Nullable Double inputTokensPerSecond) {
            this.inputTokensPerSecond = inputTokensPerSecond;
            return this;
        }

        /** See {@link KvfoldChatResponseMetadata#outputTokensPerSecond()}. */
        public Builder outputTokensPerSecond(@Nullable Double outputTokensPerSecond) {
            this.outputTokensPerSecond = outputTokensPerSecond;
            return this;
        }

        /** See {@link KvfoldChatResponseMetadata#kvCacheBytes()}. */
        public Builder kvCacheBytes(long kvCacheBytes) {
            this.kvCacheBytes = kvCacheBytes;
            return this;
        }

        @Override
        public KvfoldChatResponseMetadata build() {
            return new KvfoldChatResponseMetadata(this);
        }
    }
}
