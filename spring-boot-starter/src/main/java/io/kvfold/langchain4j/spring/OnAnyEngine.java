package io.kvfold.langchain4j.spring;

import io.kvfold.Engine;
import io.kvfold.langchain4j.KvfoldEmbeddingModel;
import io.kvfold.langchain4j.KvfoldScoringModel;
import org.springframework.boot.autoconfigure.condition.AnyNestedCondition;
import org.springframework.boot.autoconfigure.condition.ConditionalOnBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnSingleCandidate;

/** There is the shared engine, or a model that may have one of its own. */
final class OnAnyEngine extends AnyNestedCondition {

    OnAnyEngine() {
        super(ConfigurationPhase.REGISTER_BEAN);
    }

    @ConditionalOnSingleCandidate(Engine.class)
    static final class Shared {}

    @ConditionalOnBean(KvfoldEmbeddingModel.class)
    static final class Embedding {}

    @ConditionalOnBean(KvfoldScoringModel.class)
    static final class Scoring {}
}
