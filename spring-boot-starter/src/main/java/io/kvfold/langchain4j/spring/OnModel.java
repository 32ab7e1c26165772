package io.kvfold.langchain4j.spring;

import org.springframework.boot.autoconfigure.condition.AnyNestedCondition;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;

/** A model is named, by a path or by its name on a hub. */
abstract class OnModel extends AnyNestedCondition {

    private static final String PATH = "model-path";
    private static final String NAME = "model-name";

    private OnModel() {
        super(ConfigurationPhase.REGISTER_BEAN);
    }

    /** Of the shared engine. */
    static final class OfEngine extends OnModel {
        private static final String PREFIX = KvfoldProperties.PREFIX + ".engine";

        @ConditionalOnProperty(prefix = PREFIX, name = PATH)
        static final class Path {}

        @ConditionalOnProperty(prefix = PREFIX, name = NAME)
        static final class Name {}
    }

    /** Of the embedding model's own engine. */
    static final class OfEmbeddingModel extends OnModel {
        private static final String PREFIX = KvfoldProperties.PREFIX + ".embedding-model";

        @ConditionalOnProperty(prefix = PREFIX, name = PATH)
        static final class Path {}

        @ConditionalOnProperty(prefix = PREFIX, name = NAME)
        static final class Name {}
    }

    /** Of the scoring model's engine. */
    static final class OfScoringModel extends OnModel {
        private static final String PREFIX = KvfoldProperties.PREFIX + ".scoring-model";

        @ConditionalOnProperty(prefix = PREFIX, name = PATH)
        static final class Path {}

        @ConditionalOnProperty(prefix = PREFIX, name = NAME)
        static final class Name {}
    }
}
