package io.kvfold.langchain4j.spring;

import io.kvfold.Engine;
import io.kvfold.EngineInfo;
import io.kvfold.KvCacheStats;
import io.kvfold.KvfoldException;
import java.util.LinkedHashMap;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * The health of the application's engines, for the health indicators of Spring Boot 3 and 4.
 *
 * @param loaded whether any of them is
 * @param failure why one of them is down; null if all are up, or none has been loaded yet
 */
record EngineHealth(
        boolean loaded,
        Map<String, Object> details,
        @Nullable Exception failure) {

    static EngineHealth of(LoadedEngines loaded) {
        Map<String, Engine> engines = loaded.all();
        if (engines.isEmpty()) {
            return new EngineHealth(false, Map.of("engine", "not loaded yet"), null);
        }
        Map<String, Object> details = new LinkedHashMap<>();
        Exception failure = null;
        for (Map.Entry<String, Engine> entry : engines.entrySet()) {
            Map<String, Object> own = details;
            if (!entry.getKey().equals(LoadedEngines.SHARED)) {
                own = new LinkedHashMap<>();
                details.put(entry.getKey(), own);
            }
            try {
                describe(entry.getValue(), own);
            } catch (KvfoldException e) {
                failure = failure == null ? e : failure;
            }
        }
        return new EngineHealth(true, details, failure);
    }

    private static void describe(Engine engine, Map<String, Object> details) {
        EngineInfo info = engine.info();
        details.put("model", info.model().path());
        details.put("architecture", info.model().architecture());
        details.put("contextSize", info.context().sizePerSlot());
        details.put("kvPlan", info.context().kvPlan());
        KvCacheStats kv = engine.kvCacheStats();
        details.put("kvCacheBytes", kv.bytesAllocated());
        details.put("kvCacheBytesCommitted", kv.bytesCommitted());
        details.put("slots", kv.slots());
        details.put("slotsBusy", kv.slotsBusy());
        details.put("requestsWaiting", kv.requestsWaiting());
        details.put("requestsSuspended", kv.requestsSuspended());
    }
}
