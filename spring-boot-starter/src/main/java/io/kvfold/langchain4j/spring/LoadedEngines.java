package io.kvfold.langchain4j.spring;

import io.kvfold.Engine;
import io.kvfold.langchain4j.KvfoldEmbeddingModel;
import io.kvfold.langchain4j.KvfoldScoringModel;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;
import org.springframework.beans.factory.config.ConfigurableListableBeanFactory;

/** The application's engines, for those who watch them and must not be the reason why they are loaded. */
final class LoadedEngines {

    /** The one that the chat models share. */
    static final String SHARED = "shared";

    static final String EMBEDDING = "embedding";
    static final String SCORING = "scoring";

    private final ConfigurableListableBeanFactory beans;

    LoadedEngines(ConfigurableListableBeanFactory beans) {
        this.beans = beans;
    }

    /** Those that are loaded, by name; an engine that a model shares counts as {@link #SHARED} alone. */
    Map<String, Engine> all() {
        Map<String, Engine> engines = new LinkedHashMap<>();
        for (String name : new String[] {SHARED, EMBEDDING, SCORING}) {
            Engine engine = get(name);
            if (engine != null && !engines.containsValue(engine)) {
                engines.put(name, engine);
            }
        }
        return engines;
    }

    /** One of them; null while it has not been loaded. */
    @Nullable
    Engine get(String name) {
        return switch (name) {
            case SHARED -> find(Engine.class, engine -> engine);
            case EMBEDDING -> find(KvfoldEmbeddingModel.class, KvfoldEmbeddingModel::engine);
            case SCORING -> find(KvfoldScoringModel.class, KvfoldScoringModel::engine);
            default -> throw new IllegalArgumentException(name);
        };
    }

    private <T> @Nullable Engine find(Class<T> type, Function<T, Engine> engine) {
        for (String name : beans.getBeanNamesForType(type, false, false)) {
            Object bean = beans.getSingleton(name);
            if (type.isInstance(bean)) {
                return engine.apply(type.cast(bean));
            }
        }
        return null;
    }
}
