package io.kvfold.langchain4j;

import io.kvfold.hub.ModelName;
import java.util.List;
import org.jspecify.annotations.Nullable;

/** What the builders of models that generate text have in common. Not thread-safe. */
abstract class SamplingBuilder<B extends SamplingBuilder<B>> extends EngineBackedBuilder<B> {

    final KvfoldChatRequestParameters.Builder parameters = KvfoldChatRequestParameters.builder();

    /**
     * {@code hf:owner/name[:quant|/file][@revision]} names a model on a hub in place of {@link #modelPath}: it is fetched
     * into the cache of Hugging Face's programs when the model is built, unless it is there. Any other name has to be the
     * loaded model's own, which every answer carries, and need not be set.
     */
    @Override
    public B modelName(@Nullable String modelName) {
        parameters.modelName(modelName);
        return super.modelName(modelName != null && ModelName.isName(modelName) ? modelName : null);
    }

    /** At least 0; 0 always takes the most probable token. Default 0.8. */
    public B temperature(@Nullable Double temperature) {
        parameters.temperature(temperature);
        return self();
    }

    /** In [0, 1]; 1 switches it off. Default 0.95. */
    public B topP(@Nullable Double topP) {
        parameters.topP(topP);
        return self();
    }

    /** At least 0; 0 switches it off. Default 40. */
    public B topK(@Nullable Integer topK) {
        parameters.topK(topK);
        return self();
    }

    /** See {@link KvfoldChatRequestParameters#minP()}. Default 0.05. */
    public B minP(@Nullable Double minP) {
        parameters.minP(minP);
        return self();
    }

    /** Lowers a token's logit by this for every time it was used. Default 0. */
    public B frequencyPenalty(@Nullable Double frequencyPenalty) {
        parameters.frequencyPenalty(frequencyPenalty);
        return self();
    }

    /** Lowers a token's logit by this once it was used. Default 0. */
    public B presencePenalty(@Nullable Double presencePenalty) {
        parameters.presencePenalty(presencePenalty);
        return self();
    }

    /** See {@link KvfoldChatRequestParameters#repeatPenalty()}. Default 1. */
    public B repeatPenalty(@Nullable Double repeatPenalty) {
        parameters.repeatPenalty(repeatPenalty);
        return self();
    }

    /** See {@link KvfoldChatRequestParameters#seed()}. */
    public B seed(@Nullable Integer seed) {
        parameters.seed(seed);
        return self();
    }

    /** See {@link KvfoldChatRequestParameters#grammar()}. */
    public B grammar(@Nullable String grammar) {
        parameters.grammar(grammar);
        return self();
    }

    /**
     * Another field of llama-server's request, see {@link KvfoldChatRequestParameters#options()}.
     *
     * @param value a string, a number, a boolean, a list or a map; null takes the field out again
     */
    public B requestOption(String name, @Nullable Object value) {
        parameters.option(name, value);
        return self();
    }

    /** Tokens an answer has at most, at least 1. Default: what fits the slot. */
    public B maxOutputTokens(@Nullable Integer maxOutputTokens) {
        parameters.maxOutputTokens(maxOutputTokens);
        return self();
    }

    /** Texts at which an answer ends; they are not part of it. */
    public B stopSequences(@Nullable List<String> stopSequences) {
        parameters.stopSequences(stopSequences);
        return self();
    }
}
