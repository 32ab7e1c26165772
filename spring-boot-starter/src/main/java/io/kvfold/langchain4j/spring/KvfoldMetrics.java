package io.kvfold.langchain4j.spring;

import io.kvfold.Engine;
import io.kvfold.KvCacheStats;
import io.kvfold.KvfoldException;
import io.kvfold.TokenStats;
import io.micrometer.core.instrument.FunctionCounter;
import io.micrometer.core.instrument.Gauge;
import io.micrometer.core.instrument.MeterRegistry;
import io.micrometer.core.instrument.binder.MeterBinder;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;
import java.util.function.ToDoubleFunction;
import org.jspecify.annotations.Nullable;

/**
 * Meters of an engine:
 *
 * <table>
 *   <caption>Meters</caption>
 *   <tr><td>{@code kvfold.kv.allocated}</td><td>bytes of the KV cache</td></tr>
 *   <tr><td>{@code kvfold.kv.committed}</td><td>bytes of it that take memory</td></tr>
 *   <tr><td>{@code kvfold.kv.used}</td><td>bytes of it that hold tokens, of finished requests as well</td></tr>
 *   <tr><td>{@code kvfold.kv.budget}, {@code kvfold.kv.promised}</td><td>bytes that keys and values may take, NaN if
 *   nothing limits them, and what of them is set aside for requests</td></tr>
 *   <tr><td>{@code kvfold.kv.held}, tag {@code type}</td><td>bytes that count against that: {@code pages},
 *   {@code checkpoints}, {@code states}; and {@code swapped}, which lies in files and does not count</td></tr>
 *   <tr><td>{@code kvfold.kv.cells}, {@code kvfold.kv.cells.used}</td><td>the same in tokens</td></tr>
 *   <tr><td>{@code kvfold.slots}, {@code kvfold.slots.busy}</td><td>requests that can be and that are decoded</td></tr>
 *   <tr><td>{@code kvfold.requests.waiting}</td><td>requests that wait for a slot or for room in the cache</td></tr>
 *   <tr><td>{@code kvfold.requests.suspended}</td><td>requests that gave their cells up and wait to go on</td></tr>
 *   <tr><td>{@code kvfold.preemptions}, {@code kvfold.tokens.recomputed}</td><td>how often that happened, and the tokens that
 *   were computed again because of it</td></tr>
 *   <tr><td>{@code kvfold.prefix.prompts}, {@code kvfold.prefix.hits}, {@code kvfold.prefix.tokens}</td><td>prompts that could
 *   begin with what another request had computed, those that did, and their tokens that were not computed again</td></tr>
 *   <tr><td>{@code kvfold.kv.saved}</td><td>bytes that would be there once more if requests shared none</td></tr>
 *   <tr><td>{@code kvfold.tokens}, tag {@code type}</td><td>{@code prompt}, {@code prompt.cached}, {@code generated}</td></tr>
 *   <tr><td>{@code kvfold.seconds}, tag {@code type}</td><td>time spent on {@code prompt} and {@code generated}</td></tr>
 *   <tr><td>{@code kvfold.tokens.per.second}, tag {@code type}</td><td>average since the engine was opened</td></tr>
 * </table>
 *
 * <p>All have the tag {@code engine}: {@code shared}, or {@code embedding} or {@code scoring} for engines that these models
 * have for themselves.
 *
 * <p>A scrape asks the engine once. Values are NaN, and counters 0, while there is no engine or it is closed.
 */
public final class KvfoldMetrics implements MeterBinder {

    private static final String ENGINE = "engine";
    private static final String TYPE = "type";
    private static final String PROMPT = "prompt";
    private static final String PROMPT_CACHED = "prompt.cached";
    private static final String GENERATED = "generated";

    private static final long MAX_AGE = TimeUnit.SECONDS.toNanos(1);

    private record Snapshot(
            long time, @Nullable KvCacheStats kv, @Nullable TokenStats tokens) {}

    private final Supplier<@Nullable Engine> engine;
    private final String name;
    private @Nullable Snapshot latest;

    /**
     * @param engine the engine to watch, or null as long as there is none
     * @param name the value of the tag {@code engine}
     */
    public KvfoldMetrics(Supplier<@Nullable Engine> engine, String name) {
        this.engine = engine;
        this.name = name;
    }

    @Override
    public void bindTo(MeterRegistry registry) {
        gauge(registry, "kvfold.kv.allocated", "bytes", "Size of the KV cache", KvCacheStats::bytesAllocated);
        gauge(registry, "kvfold.kv.committed", "bytes", "KV cache that takes memory", KvCacheStats::bytesCommitted);
        gauge(registry, "kvfold.kv.used", "bytes", "KV cache that holds tokens", KvCacheStats::bytesInUse);
        gauge(
                registry,
                "kvfold.kv.budget",
                "bytes",
                "Memory the KV cache may take",
                kv -> kv.bytesBudget() == null ? Double.NaN : kv.bytesBudget());
        gauge(registry, "kvfold.kv.promised", "bytes", "KV memory set aside for requests", KvCacheStats::bytesPromised);
        held(registry, "pages", KvCacheStats.Ledger::pages);
        held(registry, "checkpoints", KvCacheStats.Ledger::checkpoints);
        held(registry, "swapped", KvCacheStats.Ledger::swapped);
        held(registry, "states", KvCacheStats.Ledger::states);
        gauge(registry, "kvfold.kv.cells", "tokens", "Tokens the KV cache can hold", KvCacheStats::cells);
        gauge(registry, "kvfold.kv.cells.used", "tokens", "Tokens the KV cache holds", KvCacheStats::cellsUsed);
        gauge(registry, "kvfold.slots", "requests", "Requests that can be decoded", KvCacheStats::slots);
        gauge(registry, "kvfold.slots.busy", "requests", "Requests being decoded", KvCacheStats::slotsBusy);
        gauge(registry, "kvfold.requests.waiting", "requests", "Requests waiting", KvCacheStats::requestsWaiting);
        gauge(registry, "kvfold.requests.suspended", "requests", "Requests suspended", KvCacheStats::requestsSuspended);
        count(registry, "kvfold.preemptions", "requests", KvCacheStats::preemptions);
        count(registry, "kvfold.tokens.recomputed", "tokens", KvCacheStats::tokensRecomputed);
        count(registry, "kvfold.prefix.prompts", "requests", kv -> kv.prefixes().prompts());
        count(registry, "kvfold.prefix.hits", "requests", kv -> kv.prefixes().hits());
        count(registry, "kvfold.prefix.tokens", "tokens", kv -> kv.prefixes().tokensShared());
        gauge(
                registry,
                "kvfold.kv.saved",
                "bytes",
                "KV cache that would be there once more if requests shared none",
                kv -> kv.prefixes().bytesSaved());

        counter(registry, "kvfold.tokens", PROMPT, "tokens", TokenStats::promptTokens);
        counter(registry, "kvfold.tokens", PROMPT_CACHED, "tokens", TokenStats::promptTokensCached);
        counter(registry, "kvfold.tokens", GENERATED, "tokens", TokenStats::generatedTokens);
        counter(registry, "kvfold.seconds", PROMPT, "seconds", TokenStats::promptSeconds);
        counter(registry, "kvfold.seconds", GENERATED, "seconds", TokenStats::generationSeconds);

        rate(registry, PROMPT, tokens -> tokens.promptTokens() / tokens.promptSeconds());
        rate(registry, GENERATED, tokens -> tokens.generatedTokens() / tokens.generationSeconds());
    }

    private void gauge(
            MeterRegistry registry,
            String name,
            String unit,
            String description,
            ToDoubleFunction<KvCacheStats> value) {
        Gauge.builder(name, this, metrics -> {
                    KvCacheStats kv = metrics.snapshot().kv();
                    return kv == null ? Double.NaN : value.applyAsDouble(kv);
                })
                .tag(ENGINE, this.name)
                .baseUnit(unit)
                .description(description)
                .register(registry);
    }

    private void count(MeterRegistry registry, String name, String unit, ToDoubleFunction<KvCacheStats> value) {
        FunctionCounter.builder(name, this, metrics -> {
                    KvCacheStats kv = metrics.snapshot().kv();
                    return kv == null ? 0 : value.applyAsDouble(kv);
                })
                .tag(ENGINE, this.name)
                .baseUnit(unit)
                .register(registry);
    }

    private void held(MeterRegistry registry, String type, ToDoubleFunction<KvCacheStats.Ledger> value) {
        Gauge.builder("kvfold.kv.held", this, metrics -> {
                    KvCacheStats kv = metrics.snapshot().kv();
                    return kv == null ? Double.NaN : value.applyAsDouble(kv.ledger());
                })
                .tag(ENGINE, this.name)
                .tag(TYPE, type)
                .baseUnit("bytes")
                .description("Memory that keys and values take")
                .register(registry);
    }

    private void counter(
            MeterRegistry registry, String name, String type, String unit, ToDoubleFunction<TokenStats> value) {
        FunctionCounter.builder(name, this, metrics -> {
                    TokenStats tokens = metrics.snapshot().tokens();
                    return tokens == null ? 0 : value.applyAsDouble(tokens);
                })
                .tag(ENGINE, this.name)
                .tag(TYPE, type)
                .baseUnit(unit)
                .register(registry);
    }

    private void rate(MeterRegistry registry, String type, ToDoubleFunction<TokenStats> value) {
        Gauge.builder("kvfold.tokens.per.second", this, metrics -> {
                    TokenStats tokens = metrics.snapshot().tokens();
                    return tokens == null ? Double.NaN : value.applyAsDouble(tokens);
                })
                .tag(ENGINE, this.name)
                .tag(TYPE, type)
                .description("Average since the engine was opened")
                .register(registry);
    }

    private synchronized Snapshot snapshot() {
        Snapshot known = latest;
        long now = System.nanoTime();
        if (known == null || now - known.time() > MAX_AGE) {
            known = ask(now);
            latest = known;
        }
        return known;
    }

    private Snapshot ask(long now) {
        Engine asked = engine.get();
        if (asked == null) {
            return new Snapshot(now, null, null);
        }
        try {
            return new Snapshot(now, asked.kvCacheStats(), asked.tokenStats());
        } catch (KvfoldException e) { // closed
            return new Snapshot(now, null, null);
        }
    }
}
