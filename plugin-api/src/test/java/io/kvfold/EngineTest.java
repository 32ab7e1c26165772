package io.kvfold;

import static io.kvfold.ScriptedEngine.chunk;
import static io.kvfold.ScriptedEngine.fail;
import static io.kvfold.ScriptedEngine.hang;
import static io.kvfold.ScriptedEngine.refuse;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.internal.NativeStatus;
import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

@Timeout(20)
class EngineTest {

    private static final ObjectNode BODY = JsonNodeFactory.instance.objectNode().put("stream", true);

    @Test
    void pullsChunksUntilTheLast() {
        ScriptedEngine scripted = ScriptedEngine.answering("{\"n\":1}", "{\"n\":\"zwei – 二\"}");
        try (Engine engine = scripted.open();
                Generation generation = engine.chat(BODY)) {
            assertThat(next(generation).path("n").asInt()).isEqualTo(1);
            assertThat(next(generation).path("n").asText()).isEqualTo("zwei – 二");
            assertThat(generation.next()).isNull();
            assertThat(generation.next()).isNull();
        }
        assertThat(scripted.lastRequest().route()).isEqualTo("/v1/chat/completions");
        assertThat(scripted.lastRequest().body()).isEqualTo(BODY);
        assertThat(scripted.lastRequest().isCancelled()).isFalse();
        assertThat(scripted.lastRequest().closes()).isEqualTo(1);
        assertThat(scripted.closes()).isEqualTo(1);
    }

    @Test
    void reportsWhatTheEngineIs() {
        try (Engine engine = ScriptedEngine.answering().open()) {
            EngineInfo info = engine.info();
            assertThat(info.model().headsKv()).isEqualTo(2);
            assertThat(info.model().tokens().eos()).isEqualTo(2);
            assertThat(info.context().kvTypeV()).isEqualTo(KvType.Q8_0);
            assertThat(info.offload().buffers()).containsExactly(new EngineInfo.Buffers("CPU", 4000, 131072, 1048576));
            assertThat(info.toString())
                    .contains("scripted (llama, all F32): 1,000 parameters, 3.9 KiB, 2 layers")
                    .contains("0 of 3 layers offloaded")
                    .contains("CPU: weights 3.9 KiB, KV cache 128.0 KiB, compute 1.0 MiB");
            assertThat(engine.kvCacheStats())
                    .isEqualTo(new KvCacheStats(
                            512,
                            12,
                            2,
                            2,
                            256,
                            131072,
                            8192,
                            3072,
                            65536L,
                            new KvCacheStats.Ledger(8192, 512, 256, 128),
                            4096,
                            4,
                            1,
                            0,
                            0,
                            0,
                            0,
                            new KvCacheStats.Prefixes(8, 6, 300, 1, 40, 10240),
                            0,
                            List.of(new KvCacheStats.Layer(1, 256, 20L, false, 131072, 8192, 3072)),
                            List.of(new KvCacheStats.Slot(2, true, 12, 3072, 4096)),
                            List.of(),
                            new KvCacheStats.Evictions(
                                    2, 0.5, 4096, List.of(new KvCacheStats.Evictions.LayerRows(1, 64, 16)))));
        }
    }

    @Test
    void takesNamesThatTheFileDoesNotHaveAsNull() {
        ScriptedEngine scripted = ScriptedEngine.answering();
        ((ObjectNode) scripted.info().path("model")).putNull("name");
        ((ObjectNode) scripted.info().path("model").path("tokens")).putNull("bos");
        try (Engine engine = scripted.open()) {
            assertThat(engine.info().model().name()).isNull();
            assertThat(engine.info().model().tokens().bos()).isNull();
            assertThat(engine.info().toString()).startsWith("scripted.gguf (llama");
        }
    }

    @Test
    void closesTheNativeEngineIfItsFactsCannotBeRead() {
        ScriptedEngine scripted = ScriptedEngine.answering();
        scripted.info().remove("context");
        assertThatThrownBy(scripted::open)
                .isInstanceOf(InternalEngineException.class)
                .hasMessageContaining("EngineInfo")
                .hasMessageContaining("context");
        assertThat(scripted.closes()).isEqualTo(1);
    }

    @Test
    void handsOutLogitsPieceByPiece() {
        try (Engine engine = ScriptedEngine.answering().open()) {
            Map<Integer, Float> seen = new TreeMap<>();
            engine.evaluate(new int[] {1, 2, 3, 4, 5}, 1, (position, logits) -> {
                assertThat(logits.tokens()).isLessThanOrEqualTo(ScriptedEngine.UBATCH);
                for (int row = 0; row < logits.tokens(); row++) {
                    seen.put(position + row, logits.get(row, 7));
                }
            });
            assertThat(seen).isEqualTo(Map.of(1, 107f, 2, 207f, 3, 307f, 4, 407f));
        }
    }

    @Test
    void endsAnEvaluationWithWhatItsListenerThrows() {
        try (Engine engine = ScriptedEngine.answering().open()) {
            List<Integer> positions = new ArrayList<>();
            IllegalStateException enough = new IllegalStateException("enough");
            assertThatThrownBy(() -> engine.evaluate(new int[5], 0, (position, logits) -> {
                        positions.add(position);
                        throw enough;
                    }))
                    .isSameAs(enough);
            assertThat(positions).containsExactly(0);
        }
    }

    @Test
    void handsOptionsOverUnderTheNamesOfLlamaServer() {
        ScriptedEngine scripted = ScriptedEngine.answering();
        scripted.builder()
                .model(Path.of("m.gguf"))
                .contextSize(1024)
                .slots(2)
                .ubatchSize(64)
                .batchSize(128)
                .threads(3)
                .gpuLayers(0)
                .flashAttention(FlashAttention.OFF)
                .kvCacheTypes(KvType.F32, KvType.Q4_0)
                .kvPlan(KvPlan.parse("0_0"))
                .maxQueue(7)
                .kvBudget(3L << 40)
                .option("--rope_freq_base", 10000.5)
                .option("lora", List.of("a", "b"))
                .option("mlock", true)
                .option("ctx_size", 2048)
                .open()
                .close();
        assertThat(scripted.openedWith().get(0))
                .isEqualTo(Json.convert(Map.ofEntries(
                        Map.entry("model", "m.gguf"),
                        Map.entry("ctx-size", 2048),
                        Map.entry("parallel", 2),
                        Map.entry("ubatch-size", 64),
                        Map.entry("batch-size", 128),
                        Map.entry("threads", 3),
                        Map.entry("n-gpu-layers", 0),
                        Map.entry("flash-attn", "off"),
                        Map.entry("cache-type-k", "f32"),
                        Map.entry("cache-type-v", "q4_0"),
                        Map.entry("kv-plan", "0_0"),
                        Map.entry("max-queue", 7),
                        Map.entry("kv-budget", 3L << 40),
                        Map.entry("rope-freq-base", 10000.5),
                        Map.entry("lora", List.of("a", "b")),
                        Map.entry("mlock", true))));
    }

    @Test
    void refusesToOpenWithoutAModelOrWithAnOptionThatIsNoValue() {
        assertThatThrownBy(() -> Engine.builder().open())
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("no model");
        assertThatThrownBy(() -> Engine.builder().option("ctx-size", Map.of("a", 1)))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("ctx-size");
    }

    @Test
    void followsTheLoadAndAbandonsItWhenTheListenerSaysSo() {
        ScriptedEngine scripted = ScriptedEngine.answering();
        List<Float> seen = new ArrayList<>();
        scripted.builder().model(Path.of("m")).loadProgress(seen::add).open().close();
        assertThat(seen).containsExactly(0f, 0.5f, 1f);
        assertThatThrownBy(() -> scripted.builder()
                        .model(Path.of("m"))
                        .loadProgress(fraction -> fraction < 0.5f)
                        .open())
                .isInstanceOf(GenerationCancelledException.class);
    }

    @Test
    void loadsOnWhenTheListenerFails() {
        ScriptedEngine.answering()
                .builder()
                .model(Path.of("m"))
                .loadProgress(fraction -> {
                    throw new IllegalStateException("on purpose");
                })
                .open()
                .close();
    }

    @Test
    void abandonsTheLoadWhenItsThreadIsInterrupted() {
        Thread.currentThread().interrupt();
        try {
            assertThatThrownBy(() -> ScriptedEngine.answering().open())
                    .isInstanceOf(GenerationCancelledException.class);
        } finally {
            assertThat(Thread.interrupted()).isTrue();
        }
    }

    @ParameterizedTest
    @CsvSource({
        "-1, InvalidRequestException",
        "-2, UnknownOptionException",
        "-3, ModelNotFoundException",
        "-4, InvalidModelException",
        "-5, InvalidPlanException",
        "-6, ContextExceededException",
        "-7, QueueFullException",
        "-8, NativeOutOfMemoryException",
        "-9, GenerationCancelledException",
        "-10, EngineClosedException",
        "-11, UnsupportedOperationByModelException",
        "-14, KvBudgetExceededException",
        "-100, InternalEngineException",
        "-77, InternalEngineException"
    })
    void throwsTheExceptionOfEachStatusWithItsNumbers(int status, String type) {
        ScriptedEngine scripted = new ScriptedEngine((route, body) -> List.of(fail(status, "no", 5000, 4096)));
        try (Engine engine = scripted.open()) {
            KvfoldException e = (KvfoldException) catchThrowable(() -> engine.call("/completion", BODY));
            assertThat(e.getClass().getSimpleName()).isEqualTo(type);
            assertThat(e).hasMessage("no");
            assertThat(e.value()).hasValue(5000);
            assertThat(e.limit()).hasValue(4096);
        }
        assertThatThrownBy(() ->
                        ScriptedEngine.answering().failingToOpen(status, "no").open())
                .isInstanceOfSatisfying(KvfoldException.class, e -> {
                    assertThat(e.getClass().getSimpleName()).isEqualTo(type);
                    assertThat(e.value()).isEmpty();
                    assertThat(e.limit()).isEmpty();
                });
    }

    @Test
    void endsAfterAFailure() {
        try (Engine engine = new ScriptedEngine((route, body) ->
                                List.of(chunk("1"), fail(NativeStatus.ERROR_INTERNAL, "no"), chunk("2")))
                        .open();
                Generation generation = engine.complete(BODY)) {
            assertThat(next(generation).asInt()).isEqualTo(1);
            assertThatThrownBy(generation::next).isInstanceOf(InternalEngineException.class);
            assertThat(generation.next()).isNull();
        }
    }

    @Test
    void refusesARequestAtOnceWhenTheQueueIsFull() {
        try (Engine engine = new ScriptedEngine(
                        (route, body) -> List.of(refuse(NativeStatus.ERROR_QUEUE_FULL, "full", 256, 256)))
                .open()) {
            assertThatThrownBy(() -> engine.chat(BODY)).isInstanceOf(QueueFullException.class);
        }
    }

    @Test
    void refusesABodyThatIsNoObject() {
        try (Engine engine = ScriptedEngine.answering().open()) {
            assertThatThrownBy(() -> engine.chat(JsonNodeFactory.instance.textNode("hello")))
                    .isInstanceOf(InvalidRequestException.class)
                    .hasMessageContaining("not string");
        }
    }

    @Test
    void turnsTextIntoTokensAndBack() {
        ScriptedEngine scripted = new ScriptedEngine((route, body) -> List.of(chunk(
                switch (route) {
                    case "/tokenize" -> "{\"tokens\": [1, 2, 3]}";
                    case "/detokenize" -> "{\"content\": \"abc\"}";
                    case "/apply-template" -> "{\"prompt\": \"<user>hi\"}";
                    default -> throw new AssertionError(route);
                })));
        try (Engine engine = scripted.open()) {
            assertThat(engine.tokenize("abc", true, false)).containsExactly(1, 2, 3);
            assertThat(scripted.lastRequest().body())
                    .isEqualTo(Json.convert(Map.of("content", "abc", "add_special", true, "parse_special", false)));
            assertThat(engine.detokenize(1, 2, 3)).isEqualTo("abc");
            assertThat(scripted.lastRequest().body()).isEqualTo(Json.convert(Map.of("tokens", List.of(1, 2, 3))));
            assertThat(engine.applyTemplate(BODY)).isEqualTo("<user>hi");
        }
    }

    @Test
    void givesTheLogitsOfEveryPosition() {
        try (Engine engine = ScriptedEngine.answering().open()) {
            Logits logits = engine.evaluate(5, 6, 7);
            assertThat(logits.tokens()).isEqualTo(3);
            assertThat(logits.vocabularySize()).isEqualTo(32);
            assertThat(logits.get(2, 31)).isEqualTo(231f);
            FloatBuffer row = logits.row(1);
            assertThat(row.remaining()).isEqualTo(32);
            assertThat(row.get(4)).isEqualTo(104f);
            assertThat(row.isReadOnly()).isTrue();
            float[] copy = new float[40];
            logits.copyRow(1, copy);
            assertThat(copy).startsWith(100f, 101f).endsWith(131f, 0, 0, 0, 0, 0, 0, 0, 0);
            assertThatThrownBy(() -> logits.row(3)).isInstanceOf(IndexOutOfBoundsException.class);
            assertThatThrownBy(() -> logits.get(0, 32)).isInstanceOf(IndexOutOfBoundsException.class);
        }
    }

    @Test
    void refusesMoreLogitsThanFitOneBuffer() {
        ScriptedEngine scripted = ScriptedEngine.answering();
        ((ObjectNode) scripted.info().path("model")).put("vocabulary_size", 152_000);
        try (Engine engine = scripted.open()) {
            assertThatThrownBy(() -> engine.evaluate(new int[3533]))
                    .isInstanceOfSatisfying(InvalidRequestException.class, e -> {
                        assertThat(e.value()).hasValue(3533);
                        assertThat(e.limit()).hasValue(3532);
                    });
            assertThatThrownBy(engine::evaluate).isInstanceOf(InvalidRequestException.class);
        }
    }

    @Test
    void closesOnceHoweverOftenItIsClosed() {
        ScriptedEngine scripted = ScriptedEngine.answering("{}");
        Engine engine = scripted.open();
        assertThat(engine.isOpen()).isTrue();
        engine.close();
        engine.close();
        assertThat(engine.isOpen()).isFalse();
        assertThat(scripted.closes()).isEqualTo(1);
    }

    @Test
    void guardsEveryUseAfterClose() {
        Engine engine = ScriptedEngine.answering("{}").open();
        engine.close();
        List<Runnable> uses = List.of(
                () -> engine.chat(BODY),
                () -> engine.complete(BODY),
                () -> engine.call("/props", BODY),
                () -> engine.tokenize("a", false, false),
                () -> engine.detokenize(1),
                () -> engine.applyTemplate(BODY),
                () -> engine.evaluate(1),
                engine::kvCacheStats,
                engine::retain);
        assertThat(uses).allSatisfy(use -> assertThatThrownBy(use::run).isInstanceOf(EngineClosedException.class));
        assertThat(engine.info().model().layers()).isEqualTo(2);
        assertThat(engine.toString()).contains("closed");
    }

    @Test
    void staysOpenUntilItsLastOwnerCloses() {
        ScriptedEngine scripted = ScriptedEngine.answering("{}");
        Engine first = scripted.open();
        Engine second = first.retain();
        Engine third = second.retain();
        first.close();
        first.close();
        assertThatThrownBy(first::kvCacheStats).isInstanceOf(EngineClosedException.class);
        assertThat(second.call("/props", BODY).isObject()).isTrue();
        second.close();
        assertThat(third.isOpen()).isTrue();
        assertThat(third.kvCacheStats().slots()).isEqualTo(4);
        assertThat(scripted.closes()).isZero();
        third.close();
        assertThat(scripted.closes()).isEqualTo(1);
    }

    @Test
    void endsTheGenerationsOfEightThreadsWhenItCloses() throws Exception {
        ScriptedEngine scripted = new ScriptedEngine((route, body) -> List.of(hang()));
        Engine engine = scripted.open();
        ExecutorService threads = Executors.newFixedThreadPool(8);
        try {
            List<Future<Throwable>> ends = new ArrayList<>();
            for (int i = 0; i < 8; i++) {
                ends.add(threads.submit(() -> catchThrowable(() -> engine.call("/completion", BODY))));
            }
            while (scripted.threadsWaiting() < 8) {
                Thread.sleep(1);
            }
            engine.close();
            for (Future<Throwable> end : ends) {
                assertThat(end.get(5, TimeUnit.SECONDS)).isInstanceOf(EngineClosedException.class);
            }
        } finally {
            threads.shutdownNow();
        }
        assertThat(scripted.closes()).isEqualTo(1);
        assertThat(scripted.requests())
                .allSatisfy(request -> assertThat(request.closes()).isEqualTo(1));
    }

    @Test
    void closesOnceWhileManyThreadsOpenAndCloseRequests() throws Exception {
        for (int round = 0; round < 50; round++) {
            ScriptedEngine scripted = ScriptedEngine.answering("{}", "{}");
            Engine engine = scripted.open();
            ExecutorService threads = Executors.newFixedThreadPool(8);
            try {
                List<Future<Throwable>> ends = new ArrayList<>();
                for (int i = 0; i < 8; i++) {
                    boolean closes = i % 4 == 0;
                    ends.add(threads.submit(() -> catchThrowable(() -> {
                        for (int n = 0; ; n++) {
                            if (closes && n == 20) {
                                engine.close();
                            }
                            engine.call("/completion", BODY);
                        }
                    })));
                }
                for (Future<Throwable> end : ends) {
                    assertThat(end.get(10, TimeUnit.SECONDS)).isInstanceOf(EngineClosedException.class);
                }
            } finally {
                threads.shutdownNow();
            }
            assertThat(scripted.closes()).isEqualTo(1);
            assertThat(scripted.requests())
                    .allSatisfy(request -> assertThat(request.closes()).isEqualTo(1));
        }
    }

    @Test
    void waitsWithItsCloseForACallThatIsInside() throws Exception {
        CountDownLatch inside = new CountDownLatch(1);
        CountDownLatch leave = new CountDownLatch(1);
        ScriptedEngine scripted = new ScriptedEngine((route, body) -> {
            inside.countDown();
            leave.await();
            return List.of();
        });
        Engine engine = scripted.open();
        ExecutorService threads = Executors.newCachedThreadPool();
        try {
            Future<?> call = threads.submit(() -> engine.chat(BODY).close());
            inside.await();
            Future<?> close = threads.submit(engine::close);
            assertThatThrownBy(() -> close.get(100, TimeUnit.MILLISECONDS)).isInstanceOf(TimeoutException.class);
            assertThat(scripted.closes()).isZero();
            leave.countDown();
            call.get(5, TimeUnit.SECONDS);
            close.get(5, TimeUnit.SECONDS);
            assertThat(scripted.closes()).isEqualTo(1);
        } finally {
            threads.shutdownNow();
        }
    }

    @Test
    void isClosedByTheCollectorWhenNobodyDid() throws Exception {
        ScriptedEngine scripted = ScriptedEngine.answering("{}", "{}");
        Generation generation = scripted.open().chat(BODY);
        System.gc();
        Thread.sleep(50);
        assertThat(scripted.closes()).as("its generation is in use").isZero();
        assertThat(generation.next()).isNotNull();
        generation = null;
        for (long end = System.nanoTime() + Duration.ofSeconds(10).toNanos();
                (scripted.closes() == 0 || !scripted.lastRequest().isClosed()) && System.nanoTime() < end; ) {
            System.gc();
            Thread.sleep(10);
        }
        assertThat(scripted.closes()).isEqualTo(1);
        assertThat(scripted.lastRequest().closes()).isEqualTo(1);
    }

    private static JsonNode next(Generation generation) {
        JsonNode chunk = generation.next();
        assertThat(chunk).isNotNull();
        return java.util.Objects.requireNonNull(chunk);
    }
}
