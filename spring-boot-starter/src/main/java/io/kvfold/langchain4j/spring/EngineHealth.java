package io.kvfold.langchain4j.spring;

import io.kvfold.Engine;
import io.kvfold.EngineInfo;
import io.kvfold.KvCacheStats;
import io.kvfold.KvfoldException;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * The health of an engine, for the health indicators of Spring Boot 3 and 4.
 *
 * @param failure why the engine is down; null if it is up, or has not been loaded yet
 */
record EngineHealth(
        boolean loaded,
        Map<String, Object> details,
        @Nullable Exception failure) {

    static EngineHealth of(LoadedEngine loaded) {
        Engine engine = loaded.get();
        if (engine == null) {
            return new EngineHealth(false, Map.of("engine", "not loaded yet"), null);
        }
        EngineInfo info = engine.info();
        Map<String, Object> details = new LinkedHashMap<>();
        details.put("model", info.model().path());
        details.put("architecture", info.model().architecture());
        details.put("contextSize", info.context().size());
        details.put("kvPlan", info.context().kvPlan());
        try {
            KvCacheStats kv = engine.kvCacheStats();
            details.put("kvCacheBytes", kv.bytesAllocated());
            details.put("slots", kv.slots());
            details.put("slotsBusy", kv.slotsBusy());
            details.put("requestsWaiting", kv.requestsWaiting());
            return new EngineHealth(true, details, null);
        } catch (KvfoldException e) {
            return new EngineHealth(true, details, e);
        }
    }
}
