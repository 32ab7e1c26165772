package io.kvfold.reference;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.EngineClosedException;
import io.kvfold.FlashAttention;
import io.kvfold.Generation;
import io.kvfold.GenerationCancelledException;
import io.kvfold.InvalidRequestException;
import io.kvfold.KvBudgetExceededException;
import io.kvfold.KvCacheStats;
import io.kvfold.KvPlan;
import io.kvfold.QueueFullException;
import io.kvfold.RealLibrary;
import io.kvfold.UnsupportedOperationByModelException;
import io.kvfold.reference.Shape.Architecture;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Requests that share a budget of KV memory: who waits, who is refused, and that nothing that runs ends for another. */
final class KvBudgetTest {
    private static final int LAYERS = 4;

    /** A key row of 8 heads of 128 in f16: two tokens to a page, so that requests of these sizes fill whole pages. */
    private static final Shape SHAPE = new Shape(Architecture.LLAMA, 96, 48, 80, 8, 8, 128, 1e-5, 10000);

    private static final long TOKEN = 2L * LAYERS * 8 * 128 * 2;

    /** Sinks, a window of 100 and one more, and a batch of 32, in pages of two cells. */
    private static final long WINDOW_CELLS = 4 + 100 + 1 + 32 + 1;

    @TempDir
    private static Path folder;

    private static final ComparedModel MODEL = ComparedModel.forAnyPlan(SHAPE, LAYERS, 1);

    @BeforeAll
    static void needsTheLibrary() {
        RealLibrary.require();
    }

    @ParameterizedTest
    @CsvSource({"true, true", "true, false", "false, true", "false, false"})
    void fortyRequestsFinishOnABudgetForThree(boolean unified, boolean keepPrompts) throws IOException {
        long budget = 3 * 64 * TOKEN;
        try (Engine engine = builder("standard", 6)
                .option("kv-unified", unified)
                .kvBudget(budget)
                .open()) {
            List<Generation> running = new ArrayList<>();
            for (int i = 0; i < 40; i++) {
                running.add(engine.complete(request(40 - i % 7, 24 + i % 7, i).put("cache_prompt", keepPrompts)));
            }
            AtomicBoolean done = new AtomicBoolean();
            CompletableFuture<KvCacheStats> peak = CompletableFuture.supplyAsync(() -> {
                KvCacheStats most = engine.kvCacheStats();
                while (!done.get()) {
                    KvCacheStats now = engine.kvCacheStats();
                    assertThat(now.bytesCommitted()).isLessThanOrEqualTo(budget);
                    assertThat(now.bytesPromised()).isLessThanOrEqualTo(budget);
                    assertThat(now.slotsBusy()).isLessThanOrEqualTo(3);
                    assertThat(now.bySlot()) // read one after the other while the worker goes on
                            .allSatisfy(slot -> assertThat(slot.bytesPromised()).isLessThanOrEqualTo(64 * TOKEN));
                    most = now.bytesCommitted() > most.bytesCommitted() ? now : most;
                }
                return most;
            });
            for (int i = 0; i < running.size(); i++) {
                try (Generation generation = running.get(i)) {
                    JsonNode answer = generation.next();
                    assertThat(answer).isNotNull();
                    assertThat(answer.path("tokens_predicted").asInt()).isEqualTo(24 + i % 7);
                }
            }
            done.set(true);
            assertThat(peak.join().bytesCommitted())
                    .as("memory that was used at most")
                    .isGreaterThan(budget / 2);
            assertThat(peak.join().bytesBudget()).isEqualTo(budget);
            KvCacheStats after = engine.kvCacheStats();
            assertThat(after.bytesPromised()).isZero();
            assertThat(after.bySlot())
                    .allSatisfy(slot -> assertThat(slot.bytesPromised()).isZero());
            assertThat(after.requestsWaiting()).isZero();
            assertThat(after.bytesCommitted()).isLessThanOrEqualTo(keepPrompts ? budget : 0);
        }
    }

    @Test
    void refusesAtOnceWhatCanNeverFitWithBothNumbers() throws IOException {
        long budget = 64 * TOKEN;
        try (Engine engine = builder("standard", 2).kvBudget(budget).open();
                Generation running = engine.complete(request(10, 54, 1).put("stream", true))) {
            assertThat(running.next()).isNotNull();
            for (ObjectNode request : List.of(request(40, 25, 2), request(65, 1, 3), request(65, -1, 4))) {
                assertThatThrownBy(() -> engine.call("/completion", request))
                        .isInstanceOfSatisfying(KvBudgetExceededException.class, e -> {
                            assertThat(e.value().orElse(0)).isBetween(65 * TOKEN, 66 * TOKEN);
                            assertThat(e.limit()).hasValue(budget);
                            assertThat(e).hasMessageContaining("of prompt").hasMessageContaining("kv-budget");
                        });
            }
            assertThat(generated(running)).isEqualTo(54);
        }
    }

    @Test
    void doesNotOpenWithABudgetThatNoTokenFits() {
        assertThatThrownBy(() -> builder("standard", 1).kvBudget(4096).open())
                .isInstanceOfSatisfying(InvalidRequestException.class, e -> {
                    assertThat(e.value()).hasValue(4096);
                    assertThat(e.limit()).hasValue(2L * LAYERS * 4096);
                });
        assertThatThrownBy(() -> builder("standard", 1).kvBudget(0).open()).isInstanceOf(InvalidRequestException.class);
        assertThatThrownBy(() -> builder("standard", 1)
                        .kvBudget(1 << 20)
                        .option("cache-ram", 10)
                        .open())
                .isInstanceOf(UnsupportedOperationByModelException.class)
                .hasMessageContaining("cache-ram");
    }

    @Test
    void anAnswerWithoutALimitHasItsShareWhoeverComesAndMoreIfNobodyDoes() throws IOException {
        long budget = 120 * TOKEN;
        int share = 120 / 3;
        try (Engine engine = builder("standard", 3).kvBudget(budget).open()) {
            try (Generation alone = engine.complete(endless(10, 1))) {
                // all that the budget has but the last token, whose keys nobody asks for
                assertThat(generated(alone)).isBetween(109, 111);
            }
            try (Generation first = engine.complete(endless(10, 2))) {
                assertThat(first.next()).isNotNull();
                List<Generation> newcomers = new ArrayList<>();
                for (int i = 0; i < 6; i++) {
                    newcomers.add(engine.complete(request(20, 20, i)));
                }
                assertThat(generated(first)).isGreaterThanOrEqualTo(share - 1);
                for (Generation newcomer : newcomers) {
                    JsonNode answer = newcomer.next();
                    assertThat(answer).isNotNull();
                    assertThat(answer.path("tokens_predicted").asInt()).isEqualTo(20);
                    newcomer.close();
                }
            }
        }
    }

    @Test
    void aRequestThatWaitsCanBeCancelledAndDoesNotHoldUpTheNext() throws Exception {
        long budget = 600 * TOKEN;
        try (Engine engine = builder("standard", 4).kvBudget(budget).maxQueue(2).open();
                Generation running = engine.complete(request(10, 500, 1).put("stream", true))) {
            assertThat(running.next()).isNotNull();
            Generation large = engine.complete(request(10, 400, 2).put("stream", true));
            awaitWaiting(engine, 1); // requests come to the queue by threads of their own
            Generation small = engine.complete(request(10, 20, 3));
            awaitWaiting(engine, 2);
            assertThatThrownBy(() -> engine.complete(request(1, 1, 4)))
                    .isInstanceOfSatisfying(QueueFullException.class, e -> {
                        assertThat(e.value()).hasValue(2);
                        assertThat(e.limit()).hasValue(2);
                    });
            large.cancel();
            assertThatThrownBy(large::next).isInstanceOf(GenerationCancelledException.class);
            JsonNode answer = small.next(); // which fits besides the one that runs
            assertThat(answer).isNotNull();
            assertThat(answer.path("tokens_predicted").asInt()).isEqualTo(20);
            large.close();
            small.close();
            assertThat(engine.kvCacheStats().requestsWaiting()).isZero();
            assertThat(engine.kvCacheStats().bytesPromised()).isEqualTo(510 * TOKEN);
        }
    }

    @Test
    void closingEndsWhatWaits() throws Exception {
        Engine engine = builder("standard", 4).kvBudget(600 * TOKEN).open();
        Generation running = engine.complete(request(10, 500, 1).put("stream", true));
        Generation waiting = engine.complete(request(10, 400, 2));
        awaitWaiting(engine, 1);
        engine.close();
        assertThatThrownBy(waiting::next).isInstanceOf(EngineClosedException.class);
        running.close();
        waiting.close();
    }

    @Test
    void aQueueOfNoneRefusesWhatWouldHaveToWaitForMemory() throws IOException {
        try (Engine engine =
                        builder("standard", 4).kvBudget(64 * TOKEN).maxQueue(0).open();
                Generation running = engine.complete(request(10, 54, 1).put("stream", true))) {
            assertThat(running.next()).isNotNull();
            assertThatThrownBy(() -> engine.call("/completion", request(10, 10, 2)))
                    .isInstanceOfSatisfying(
                            QueueFullException.class, e -> assertThat(e.limit()).hasValue(0));
            assertThat(generated(running)).isEqualTo(54);
        }
    }

    @Test
    void lazyLayersCostTheirWindowOnly() throws IOException {
        // 600 tokens: 2 layers of them all, 2 of a window
        long needed = TOKEN / LAYERS * (2 * 600 + 2 * WINDOW_CELLS);
        assertThat(needed).isLessThan(600 * TOKEN);
        KvPlan plan = KvPlan.parse("0_1s_2_3s;window=100;sinks=4");
        try (Engine engine = builder(plan.toString(), 1).kvBudget(needed).open()) {
            ObjectNode kept = request(590, 10, 1).put("cache_prompt", true);
            assertThat(engine.call("/completion", kept).path("tokens_predicted").asInt())
                    .isEqualTo(10);
            KvCacheStats stats = engine.kvCacheStats();
            assertThat(stats.bytesCommitted()).isLessThanOrEqualTo(needed);
            assertThat(stats.byLayer()).extracting(KvCacheStats.Layer::layer).containsExactly(0, 1, 2, 3);
            assertThat(stats.byLayer().get(1).bytesCommitted())
                    .isBetween(TOKEN / LAYERS * 105, TOKEN / LAYERS * WINDOW_CELLS);
            assertThat(stats.byLayer().get(0).bytesCommitted()).isBetween(TOKEN / LAYERS * 598, TOKEN / LAYERS * 600);
            assertThat(stats.byLayer().stream()
                            .mapToLong(KvCacheStats.Layer::bytesInUse)
                            .sum())
                    .isEqualTo(stats.bytesInUse());
            assertThat(stats.bySlot().get(0).bytesInUse()).isEqualTo(stats.bytesInUse());
            assertThatThrownBy(() -> engine.call("/completion", request(640, 10, 1)))
                    .isInstanceOf(KvBudgetExceededException.class);
        }
    }

    /** Whatever a plan will decide, until it does a token takes what it takes without it. */
    @ParameterizedTest
    @CsvSource({"300, 400", "900, 600"})
    void layersThatAreNotDecidedTakeMemoryOnce(int prompt, int window) throws IOException {
        KvPlan plan = KvPlan.parse("standard;window=" + window + ";sinks=4;full=2;queries=8;decide=end", LAYERS);
        try (Engine engine =
                builder("standard", 1).kvPlan(plan).option("ctx-checkpoints", 0).open()) {
            long most = 0;
            try (Generation generation =
                    engine.complete(request(prompt, 4, 1).put("stream", true).put("return_progress", true))) {
                for (JsonNode chunk = generation.next(); chunk != null; chunk = generation.next()) {
                    most = Math.max(most, engine.kvCacheStats().bytesCommitted());
                }
            }
            long pages = 2L * LAYERS * 4096;
            assertThat(most).isBetween(TOKEN, (prompt + 4) * TOKEN + pages);
        }
    }

    /** 2 of 4 layers stay full. At the end of the prompt all are in the full cache, at the end of the answer in one each. */
    @ParameterizedTest
    @CsvSource({"end", "early", "decode"})
    void layersThatTurnOutLazyAreNotPromisedTwice(String decide) throws IOException {
        int prompt = 300;
        int all = 900;
        long row = TOKEN / LAYERS;
        long onePage =
                4 * row; // of keys and of values of two layers, for the newest token in the other cache; two to a page
        long needed = 2 * all * row + 2 * WINDOW_CELLS * row + 2 * onePage;
        assertThat(needed).isBetween(LAYERS * prompt * row, LAYERS * (all + WINDOW_CELLS) * row * 2 / 3);
        KvPlan plan = KvPlan.parse("standard;window=100;sinks=4;full=2;queries=8;decide=" + decide, LAYERS);
        try (Engine engine = builder("standard", 1)
                .kvPlan(plan)
                .kvBudget(needed)
                .option("ctx-checkpoints", 0)
                .open()) {
            long most = 0;
            try (Generation generation =
                    engine.complete(request(prompt, all - prompt, 1).put("stream", true))) {
                for (JsonNode chunk = generation.next(); chunk != null; chunk = generation.next()) {
                    KvCacheStats now = engine.kvCacheStats();
                    assertThat(now.bytesPromised()).isIn(0L, needed);
                    most = Math.max(most, now.bytesCommitted());
                }
            }
            System.out.printf("decide=%s: %d bytes committed at most, %d promised%n", decide, most, needed);
            assertThat(most).isBetween(needed * 9 / 10, needed);
            assertThat(engine.kvCacheStats().lazyLayers().get(0)).isEmpty(); // given back
            // which needs no room for a batch, if it is computed one by one
            assertThatThrownBy(() -> engine.call("/completion", request(prompt, all - prompt + 34, 1)))
                    .isInstanceOfSatisfying(
                            KvBudgetExceededException.class,
                            e -> assertThat(e.value().orElse(0)).isBetween(needed + 1, needed + 4 * row));
        }
    }

    /** Rows so small that pages are shared by layers, and what is rounded up for each answer can be more than there is at all. */
    @ParameterizedTest
    @CsvSource({
        "standard, 1",
        "standard, 2",
        "standard, 4",
        "cla:2, 2",
        "cla:2, 4",
        "streaming:64, 2",
        "streaming:64, 4",
        "standard;window=64;sinks=4;full=1;queries=8, 2",
        "standard;window=64;sinks=4;full=1;queries=8, 4"
    })
    void whatARefusalNamesIsEnoughForSeveralAnswers(String plan, int answers) throws IOException {
        Shape narrow = new Shape(Architecture.LLAMA, 96, 48, 80, 8, 2, 16, 1e-5, 10000);
        ComparedModel model = ComparedModel.forAnyPlan(narrow, LAYERS, 1);
        Path file = model.writeForText(folder.resolve("narrower.gguf"), KvPlan.standard(LAYERS));
        Random random = new Random(answers);
        for (int round = 0; round < 16; round++) {
            int tokens = List.of(280, 400, 1000).get(round % 3);
            int prompt = 130 + random.nextInt(tokens - 140);
            Engine.Builder builder = Engine.builder()
                    .model(file)
                    .kvPlan(KvPlan.parse(plan, LAYERS))
                    .contextSize(tokens)
                    .slots(4)
                    .threads(1)
                    .ubatchSize(List.of(8, 64).get(round % 2))
                    .flashAttention(FlashAttention.ON)
                    .option("admission", "reserve");
            ObjectNode request = request(prompt, 1 + random.nextInt(Math.min(80, tokens - prompt - 1)), round)
                    .put("n_cmpl", answers);
            long needed;
            try (Engine engine = builder.kvBudget(64 * 1024).open()) {
                needed = catchThrowableOfType(KvBudgetExceededException.class, () -> complete(engine, request))
                        .value()
                        .orElseThrow();
            }
            try (Engine engine = builder.kvBudget(needed).open()) {
                JsonNode all = complete(engine, request);
                assertThat(answers == 1 ? List.of(all) : all)
                        .as("with %d bytes", needed)
                        .hasSize(answers)
                        .allSatisfy(answer -> assertThat(
                                        answer.path("tokens_predicted").asInt())
                                .isEqualTo(request.path("n_predict").asInt()));
            }
        }
    }

    /** Answers to one prompt, each in a stream of its own: one without memory for a copy computes the prompt again. */
    @ParameterizedTest
    @CsvSource({"preempt, 100", "preempt, 140", "preempt, 512", "reserve, 140", "reserve, 512"})
    void severalAnswersTakeTheirOwnCellsOnly(String admission, int tokens) throws IOException {
        try (Engine engine = builder("standard", 4)
                .option("kv-unified", false)
                .option("admission", admission)
                .kvBudget(tokens * TOKEN)
                .open()) {
            ObjectNode request = request(40, 24, 1).put("temperature", 0);
            String alone = complete(engine, request).path("content").asText();
            try (Generation before = engine.complete(request(20, 30, 2));
                    Generation several = engine.complete(request.deepCopy().put("n_cmpl", 2));
                    Generation after = engine.complete(request(30, 20, 3))) {
                assertThat(answer(before).path("tokens_predicted").asInt()).isEqualTo(30);
                assertThat(answer(several))
                        .hasSize(2)
                        .allSatisfy(answer ->
                                assertThat(answer.path("content").asText()).isEqualTo(alone));
                assertThat(answer(after).path("tokens_predicted").asInt()).isEqualTo(20);
            }
            assertThat(engine.kvCacheStats().bytesCommitted()).isZero();
        }
    }

    /** Rows so small that a page holds many: each stream's first token takes as many pages as a short answer. */
    @ParameterizedTest
    @CsvSource({"standard", "cla:2", "streaming:64"})
    void promptsThatBeginTogetherInStreamsOfTheirOwnDoNotAllFail(String plan) throws IOException {
        Shape narrow = new Shape(Architecture.LLAMA, 96, 48, 80, 8, 4, 64, 1e-5, 10000);
        ComparedModel model = ComparedModel.forAnyPlan(narrow, LAYERS, 1);
        Path file = model.writeForText(folder.resolve("narrow.gguf"), KvPlan.standard(LAYERS));
        Engine.Builder builder = Engine.builder()
                .model(file)
                .kvPlan(KvPlan.parse(plan, LAYERS))
                .contextSize(256)
                .slots(4)
                .threads(1)
                .option("kv-unified", false)
                .option("ubatch-size", 32)
                .flashAttention(FlashAttention.ON);
        long alone;
        String expected;
        try (Engine engine = builder.open()) {
            expected = complete(engine, request(10, 6, 1).put("temperature", 0).put("cache_prompt", true))
                    .path("content")
                    .asText();
            alone = engine.kvCacheStats().bytesCommitted();
        }
        try (Engine engine = builder.kvBudget(alone * 13 / 10).open()) {
            for (int round = 0; round < 5; round++) {
                List<Generation> running = new ArrayList<>();
                for (int i = 0; i < 6; i++) {
                    running.add(engine.complete(request(10, 6, 1).put("temperature", 0)));
                }
                for (Generation each : running) {
                    assertThat(answer(each).path("content").asText()).isEqualTo(expected);
                    each.close();
                }
            }
        }
    }

    private static JsonNode complete(Engine engine, ObjectNode request) {
        try (Generation generation = engine.complete(request)) {
            return answer(generation);
        }
    }

    private static JsonNode answer(Generation generation) {
        JsonNode answer = generation.next();
        assertThat(answer).isNotNull();
        return answer;
    }

    private static void awaitWaiting(Engine engine, int requests) throws InterruptedException {
        long end = System.nanoTime() + TimeUnit.MINUTES.toNanos(1);
        while (engine.kvCacheStats().requestsWaiting() < requests) {
            assertThat(System.nanoTime()).as("%s", engine.kvCacheStats()).isLessThan(end);
            Thread.sleep(5);
        }
    }

    /** Tokens of a streamed answer in all, of which some may have been read. */
    private static int generated(Generation generation) {
        JsonNode last = null;
        for (JsonNode chunk = generation.next(); chunk != null; chunk = generation.next()) {
            last = chunk;
        }
        assertThat(last).isNotNull();
        assertThat(last.path("stop_type").asText()).isEqualTo("limit");
        return last.path("tokens_predicted").asInt();
    }

    private static ObjectNode endless(int prompt, int seed) {
        return request(prompt, -1, seed).put("stream", true);
    }

    private static ObjectNode request(int prompt, int answer, int seed) {
        ObjectNode body = new ObjectMapper()
                .createObjectNode()
                .put("n_predict", answer)
                .put("ignore_eos", true)
                .put("cache_prompt", false);
        for (int token : MODEL.tokens(prompt, seed)) {
            body.withArray("prompt").add(token);
        }
        return body;
    }

    private static Engine.Builder builder(String plan, int slots) throws IOException {
        KvPlan parsed = KvPlan.parse(plan, LAYERS);
        Path file = MODEL.writeForText(folder.resolve(plan.hashCode() + ".gguf"), parsed);
        return Engine.builder()
                .model(file)
                .contextSize(1024)
                .slots(slots)
                .threads(1)
                .ubatchSize(32)
                .flashAttention(FlashAttention.ON)
                .option("admission", "reserve")
                .kvPlan(parsed);
    }
}
