package io.kvfold.langchain4j.spring;

import io.kvfold.Engine;
import org.jspecify.annotations.Nullable;
import org.springframework.beans.factory.config.ConfigurableListableBeanFactory;

/** The application's engine, for those who watch it and must not be the reason why it is loaded. */
final class LoadedEngine {

    private final ConfigurableListableBeanFactory beans;

    LoadedEngine(ConfigurableListableBeanFactory beans) {
        this.beans = beans;
    }

    /** Null while it has not been loaded. */
    @Nullable
    Engine get() {
        for (String name : beans.getBeanNamesForType(Engine.class, false, false)) {
            if (beans.getSingleton(name) instanceof Engine engine) {
                return engine;
            }
        }
        return null;
    }
}
