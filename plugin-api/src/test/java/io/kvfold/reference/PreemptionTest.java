package io.kvfold.reference;

import static io.kvfold.reference.AnswersTogether.GAP;
import static io.kvfold.reference.AnswersTogether.GAP_OF_FLASH_ATTENTION;
import static io.kvfold.reference.AnswersTogether.assertSame;
import static io.kvfold.reference.AnswersTogether.together;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.ContextExceededException;
import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.Generation;
import io.kvfold.InvalidRequestException;
import io.kvfold.KvBudgetExceededException;
import io.kvfold.KvCacheStats;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.RealLibrary;
import io.kvfold.reference.Shape.Architecture;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.Random;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.UnaryOperator;
import java.util.stream.IntStream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Requests that need more of the KV cache together than there is: the youngest give their cells up and compute them again
 * later, and each answer is the one that the request has alone.
 */
@Timeout(value = 10, unit = TimeUnit.MINUTES)
final class PreemptionTest {
    private static final int LAYERS = 6;
    private static final int PROMPT = 40;
    private static final int ANSWER = 120;

    /** Room for one and a half of the longest request. */
    private static final int POOL = 256;

    private static final Shape SHAPE = new Shape(Architecture.LLAMA, 96, 48, 80, 8, 4, 64, 1e-5, 10000);
    private static final ComparedModel MODEL = ComparedModel.forAnyPlan(SHAPE, LAYERS, 1);
    private static final ObjectMapper JSON = new ObjectMapper();

    @TempDir
    private static Path folder;

    @BeforeAll
    static void needsTheLibrary() {
        RealLibrary.require();
    }

    @ParameterizedTest
    @CsvSource({
        "standard, F16, ON",
        "standard, Q8_0, ON",
        "standard, F32, OFF",
        "cla:2, F16, ON",
        "cla:2, Q8_0, ON",
        "lckv:2, F16, ON",
        "lckv:2, F32, OFF",
        "yoco:32, F16, ON",
        "streaming:24, F16, ON",
        "streaming:24, Q8_0, ON",
        "lighttransfer:2;window=8;sinks=2;queries=4, F16, ON",
        "lighttransfer:2;window=8;sinks=2;queries=4, F32, OFF",
        "lighttransfer:3;window=8;sinks=2;queries=4;decide=decode, F32, OFF",
        "simlayerkv:0.6;window=8;sinks=2;queries=4, F32, OFF",
        "standard;evict=knorm:24, F16, ON",
        "cla:2;evict=keydiff:0.5;skip=0, Q8_0, ON",
        "lckv:2;evict=streaming:24, F32, OFF",
        "yoco:32;evict=lagkv:24;lag=4, F32, OFF",
        "standard;evict=snapkv:24;queries=8, F16, ON",
        "cla:2;evict=tova:24, F32, OFF",
        "standard;evict=pyramidkv:24;queries=4, F32, OFF",
        "standard;evict=observed:24, F32, OFF",
    })
    void everyAnswerIsThatOfTheRequestAlone(String plan, KvType type, FlashAttention attention) throws IOException {
        compare(
                plan,
                builder -> builder.kvCacheTypes(type, type).flashAttention(attention),
                body -> body,
                attention == FlashAttention.ON ? GAP_OF_FLASH_ATTENTION : GAP);
    }

    /** What comes back from a file is not computed again, but where a plan has yet to decide, or evicts. */
    @ParameterizedTest
    @CsvSource({
        "standard, F16, ON, true",
        "standard, Q8_0, ON, true",
        "standard, F32, OFF, true",
        "cla:2, Q8_0, ON, true",
        "lckv:2, F32, OFF, true",
        "yoco:32, F16, ON, true",
        "streaming:24, Q8_0, ON, true",
        "lighttransfer:2;window=8;sinks=2;queries=4, F16, ON, true",
        "simlayerkv:0.6;window=8;sinks=2;queries=4, F32, OFF, true",
        "standard;evict=knorm:24, F16, ON, false",
    })
    void anAnswerFromAFileIsThatOfTheRequestAlone(
            String plan, KvType type, FlashAttention attention, boolean comesFromAFile) throws IOException {
        Path swapFolder = Files.createTempDirectory(folder, "swap");
        KvCacheStats stats = compare(
                plan,
                builder -> builder.kvCacheTypes(type, type)
                        .flashAttention(attention)
                        .swapFolder(swapFolder),
                body -> body,
                attention == FlashAttention.ON ? GAP_OF_FLASH_ATTENTION : GAP);
        assertThat(stats.tokensRecomputed() == 0).as("%s", stats).isEqualTo(comesFromAFile);
        assertThat(stats.ledger().swapped()).isZero();
        assertThat(swapFolder).isEmptyDirectory();
    }

    /** They cannot be computed again, but they can come back. */
    @Test
    void answersThatLoseOlderTokensGiveWayWithAFile() throws IOException {
        UnaryOperator<Engine.Builder> shifting = builder ->
                builder.kvCacheTypes(KvType.F32, KvType.F32).swapFolder(folder).option("context-shift", true);
        List<ObjectNode> bodies = new ArrayList<>();
        for (int i = 0; i < 8; i++) {
            bodies.add(request(10 + 17 * i, 2 * POOL, i));
        }
        List<JsonNode> alone = new ArrayList<>();
        try (Engine engine = open("standard", 1, shifting)) {
            for (ObjectNode body : bodies) {
                alone.add(engine.call("/completion", body));
            }
        }
        try (Engine engine = open("standard", 4, shifting)) {
            List<JsonNode> loaded = together(engine, bodies);
            for (int i = 0; i < bodies.size(); i++) {
                assertThat(loaded.get(i).path("truncated").asBoolean()).isTrue();
                assertSame("request " + i, alone.get(i), loaded.get(i), GAP);
            }
            assertThat(engine.kvCacheStats().preemptions()).isPositive();
            assertThat(engine.kvCacheStats().tokensRecomputed()).isZero();
        }
    }

    @Test
    void aSwapFolderThatIsNoneIsRefused() {
        assertThatThrownBy(() -> open("standard", 1, builder -> builder.swapFolder(folder.resolve("nothing"))))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("swap-dir");
    }

    @Test
    void samplersGoOnWhereTheyWere() throws IOException {
        compare(
                "standard",
                PreemptionTest::exactly,
                body -> body.put("temperature", 0.8).put("repeat_penalty", 1.3),
                GAP);
    }

    @Test
    void grammarsGoOnWhereTheyWere() throws IOException {
        compare(
                "standard",
                PreemptionTest::exactly,
                body -> {
                    body.remove("ignore_eos");
                    return body.put("temperature", 0.0)
                            .put("grammar", "root ::= (\"a\" | \"b\" | \"c\" | [0-9] | \" \")+");
                },
                GAP);
    }

    @Test
    void draftsDoNotChangeAnAnswer() throws IOException {
        compare(
                "standard",
                builder -> exactly(builder).option("spec-type", "ngram-simple").option("spec-draft-n-max", 8),
                body -> body,
                GAP);
    }

    /** What the draft model has no memory for it forgets: it can only be slower for it. */
    @ParameterizedTest
    @CsvSource({"2000000, false", "2500000, true", "3500000, true", "3500000, false", "5000000, true"})
    void aDraftModelIsNoReasonWhyARequestFails(long budget, boolean swaps) throws IOException {
        Path draft = MODEL.writeForText(folder.resolve("draft.gguf"), KvPlan.standard(LAYERS));
        List<ObjectNode> bodies = new ArrayList<>();
        for (int i = 0; i < 6; i++) {
            bodies.add(request(PROMPT + i, ANSWER - 3 * i, i).put("n_probs", 0));
        }
        UnaryOperator<Engine.Builder> drafting = builder -> builder.kvCacheTypes(KvType.F32, KvType.F32)
                .kvBudget(budget)
                .option("spec-type", "draft-simple")
                .option("spec-draft-model", draft.toString());
        try (Engine engine = open(
                "standard",
                6,
                builder -> swaps ? drafting.apply(builder).swapFolder(folder) : drafting.apply(builder))) {
            List<JsonNode> alone = new ArrayList<>();
            for (ObjectNode body : bodies) {
                alone.add(engine.call("/completion", body));
            }
            List<JsonNode> loaded = together(engine, bodies);
            for (int i = 0; i < bodies.size(); i++) {
                assertThat(loaded.get(i).at("/tokens"))
                        .as("request %d", i)
                        .isEqualTo(alone.get(i).at("/tokens"));
            }
        }
    }

    /** A context shift takes tokens out of the middle of an answer, whose places a map of n-grams has noted. */
    @ParameterizedTest
    @ValueSource(strings = {"ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache"})
    void draftsGoOnWhereAnAnswerLosesItsOlderTokens(String drafts) throws IOException {
        try (Engine engine = open(
                "standard", 3, builder -> builder.option("spec-type", drafts).option("context-shift", true))) {
            List<ObjectNode> bodies = new ArrayList<>();
            for (int i = 0; i < 6; i++) {
                bodies.add(request(PROMPT, i % 2 == 0 ? 2 * POOL : ANSWER, i));
            }
            for (int i = 0; i < bodies.size(); i++) {
                JsonNode answer = engine.call("/completion", bodies.get(i));
                assertThat(answer.path("tokens_predicted").asInt()).isEqualTo(i % 2 == 0 ? 2 * POOL : ANSWER);
                assertThat(answer.path("truncated").asBoolean()).isEqualTo(i % 2 == 0);
            }
        }
    }

    /** Then their cells cannot be computed again, so that no more of them get there than have room to end. */
    @ParameterizedTest
    @CsvSource({"2, true", "7, true", "7, false"})
    void answersThatLoseOlderTokensWaitForEachOther(int slots, boolean memoryIsShort) throws IOException {
        UnaryOperator<Engine.Builder> shifting = builder -> builder.contextSize(memoryIsShort ? slots * POOL : POOL)
                .kvCacheTypes(KvType.F32, KvType.F32)
                .option("context-shift", true);
        List<ObjectNode> bodies = new ArrayList<>();
        for (int i = 0; i < 8; i++) {
            bodies.add(request(10 + 17 * i, 2 * POOL, i));
        }
        List<JsonNode> alone = new ArrayList<>();
        long ofOne;
        try (Engine engine = open("standard", 1, shifting)) {
            for (ObjectNode body : bodies) {
                alone.add(engine.call("/completion", body));
            }
            ofOne = engine.kvCacheStats().bytesAllocated() / (memoryIsShort ? slots : 1);
        }
        try (Engine engine =
                open("standard", slots, builder -> shifting.apply(builder).kvBudget(ofOne))) {
            List<JsonNode> loaded = together(engine, bodies);
            for (int i = 0; i < bodies.size(); i++) {
                assertThat(loaded.get(i).path("truncated").asBoolean()).isTrue();
                assertSame("request " + i, alone.get(i), loaded.get(i), GAP);
            }
        }
    }

    /** One that is only slow is waited for, and one that has stopped is not, although what it made cannot be computed again. */
    @ParameterizedTest
    @CsvSource({"1, true", "3, true", "3, false"})
    void answersThatLoseOlderTokensWaitForReaders(int millis, boolean unified) throws IOException {
        UnaryOperator<Engine.Builder> shifting = builder -> builder.contextSize(POOL)
                .kvCacheTypes(KvType.F32, KvType.F32)
                .option("kv-unified", unified)
                .option("context-shift", true);
        List<ObjectNode> bodies = new ArrayList<>();
        for (int i = 0; i < 3; i++) {
            bodies.add(request(10 + 17 * i, 2 * POOL, i));
        }
        List<JsonNode> alone = new ArrayList<>();
        long ofOne;
        try (Engine engine = open("standard", 1, shifting)) {
            for (ObjectNode body : bodies) {
                alone.add(engine.call("/completion", body));
            }
            ofOne = engine.kvCacheStats().bytesAllocated();
        }
        try (Engine engine =
                open("standard", 2, builder -> shifting.apply(builder).kvBudget(ofOne))) {
            List<CompletableFuture<List<Integer>>> running = new ArrayList<>();
            for (ObjectNode body : bodies) {
                running.add(CompletableFuture.supplyAsync(
                        () -> readSlowly(engine, body.deepCopy().put("stream", true), millis)));
            }
            for (int i = 0; i < bodies.size(); i++) {
                List<Integer> expected = new ArrayList<>();
                alone.get(i).path("tokens").forEach(token -> expected.add(token.asInt()));
                assertThat(running.get(i).join()).as("request %d", i).isEqualTo(expected);
            }
        }
    }

    private static List<Integer> readSlowly(Engine engine, ObjectNode body, int millis) {
        List<Integer> tokens = new ArrayList<>();
        try (Generation answer = engine.complete(body)) {
            for (JsonNode chunk = answer.next(); chunk != null; chunk = answer.next()) {
                chunk.path("tokens").forEach(token -> tokens.add(token.asInt()));
                Thread.sleep(millis);
            }
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
        return tokens;
    }

    @ParameterizedTest
    @CsvSource({"100, 20", "110, 150", "120, 150", "130, 200"})
    @Timeout(60)
    void answersThatLoseOlderTokensDoNotWaitForAReaderThatHasStopped(int percent, int prompt) throws Exception {
        UnaryOperator<Engine.Builder> shifting = builder -> builder.kvCacheTypes(KvType.F32, KvType.F32)
                .contextSize(POOL)
                .option("kv-unified-per-slot", 0)
                .option("context-shift", true);
        ObjectNode stops = request(20, 3 * POOL, 1);
        ObjectNode waits = request(prompt, 2 * POOL, 2);
        long ofOne;
        try (Engine engine = open("standard", 1, shifting)) {
            engine.call("/completion", stops);
            ofOne = engine.kvCacheStats().bytesAllocated();
        }
        try (Engine engine =
                        open("standard", 2, builder -> shifting.apply(builder).kvBudget(ofOne * percent / 100));
                Generation unread = engine.complete(stops.deepCopy().put("stream", true))) {
            for (int i = 0; i < POOL; i++) {
                assertThat(unread.next()).isNotNull();
            }
            assertThat(engine.call("/completion", waits)
                            .path("tokens_predicted")
                            .asInt())
                    .isEqualTo(2 * POOL);
            assertThatThrownBy(() -> {
                        while (unread.next() != null) {}
                    })
                    .isInstanceOf(ContextExceededException.class)
                    .hasMessageContaining("has not been read");
        }
    }

    /** Several prompts that begin at once have pages in part when there are no more, and none of them has cells to give up. */
    @ParameterizedTest
    @ValueSource(strings = {"ngram-simple", "ngram-mod"})
    @Timeout(value = 60, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
    void promptsThatBeginAtOnceFindMemoryOneAfterTheOther(String drafts) throws IOException {
        String plan = "lighttransfer:1;window=24;decide=end";
        UnaryOperator<Engine.Builder> options = builder -> exactly(builder)
                .contextSize(3 * POOL)
                .ubatchSize(16)
                .option("kv-unified", false)
                .option("spec-type", drafts);
        List<ObjectNode> bodies = List.of(request(74, 2, 1), request(138, 20, 2), request(137, 40, 3));
        long tooFew = 0;
        long least = 16 << 20;
        while (least - tooFew > 4 * 4096) {
            long budget = (least + tooFew) / 2;
            try (Engine engine = open(plan, 3, builder -> options.apply(builder).kvBudget(budget))) {
                for (ObjectNode body : bodies) {
                    engine.call("/completion", body);
                }
                least = budget;
            } catch (InvalidRequestException | KvBudgetExceededException e) {
                tooFew = budget;
            }
        }
        for (int pages = 0; pages < 60; pages += 12) {
            long budget = least + pages * 4096L;
            try (Engine engine = open(plan, 3, builder -> options.apply(builder).kvBudget(budget))) {
                for (int i = 0; i < 3; i++) {
                    assertThat(together(engine, bodies)).hasSize(3);
                }
            }
        }
    }

    /** A prompt that gives up the beginning it was given computes that, too. */
    @Test
    void whatAPromptGivesUpDoesNotCountAsCached() throws IOException {
        int[] beginning = MODEL.tokens(100, 1);
        ObjectNode first = AnswersTogether.request(beginning, 1, 1).put("cache_prompt", true);
        ObjectNode older = request(20, POOL - 30, 2).put("cache_prompt", true);
        ObjectNode younger = AnswersTogether.request(join(beginning, MODEL.tokens(100, 3)), 20, 3)
                .put("cache_prompt", true);
        UnaryOperator<Engine.Builder> options = builder -> builder.ubatchSize(1).option("kv-unified", false);
        long needed;
        try (Engine engine = open("standard", 1, options)) {
            engine.call("/completion", older);
            needed = engine.kvCacheStats().bytesCommitted();
        }
        long preemptions = 0;
        for (int percent = 100; percent < 150; percent += 10) {
            long budget = needed * percent / 100;
            try (Engine engine =
                    open("standard", 2, builder -> options.apply(builder).kvBudget(budget))) {
                engine.call("/completion", first);
                for (JsonNode each : together(engine, List.of(older, younger))) {
                    int computed = each.at("/timings/prompt_n").asInt();
                    assertThat(computed + each.at("/timings/cache_n").asInt())
                            .as("computed %d", computed)
                            .isEqualTo(each.path("tokens_evaluated").asInt());
                }
                preemptions += engine.kvCacheStats().preemptions();
            }
        }
        assertThat(preemptions).isPositive();
    }

    private static int[] join(int[] first, int[] second) {
        return IntStream.concat(IntStream.of(first), IntStream.of(second)).toArray();
    }

    /** A slot that waits for the prompt of another answer holds what an earlier request has left, and gives it up. */
    @ParameterizedTest
    @ValueSource(strings = {"ngram-map-k", "ngram-map-k4v"})
    void severalAnswersWithDraftsAfterOthers(String drafts) throws IOException {
        for (int seed = 0; seed < 6; seed++) {
            Random random = new Random(seed);
            try (Engine engine = open("standard", 3, builder -> builder.option("spec-type", drafts))) {
                for (int i = 0; i < 12; i++) {
                    int tokens = 5 + random.nextInt(100);
                    ObjectNode body =
                            request(5 + random.nextInt(110), tokens, i).put("cache_prompt", true);
                    JsonNode answer = engine.call("/completion", i % 4 == 3 ? body.put("n_cmpl", 2) : body);
                    for (JsonNode each : i % 4 == 3 ? answer : List.of(answer)) {
                        assertThat(each.path("tokens_predicted").asInt()).isEqualTo(tokens);
                    }
                }
            }
        }
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "standard",
                "streaming:24",
                "lighttransfer:2;window=8;sinks=2;queries=4",
                "standard;evict=pyramidkv:24;queries=4"
            })
    void statisticsAddUpAtEveryMoment(String plan) throws Exception {
        try (Engine engine = open(plan, 4, builder -> builder)) {
            AtomicBoolean done = new AtomicBoolean();
            CompletableFuture<Integer> looks = CompletableFuture.supplyAsync(() -> {
                int n = 0;
                for (; !done.get(); n++) {
                    assertAddsUp(engine.kvCacheStats());
                }
                return n;
            });
            List<ObjectNode> bodies = new ArrayList<>();
            for (int i = 0; i < 16; i++) {
                bodies.add(request(PROMPT + i, ANSWER - 3 * i, i));
            }
            together(engine, bodies);
            done.set(true);
            assertThat(looks.get(1, TimeUnit.MINUTES)).as("looks").isGreaterThan(10);
        }
    }

    private static void assertAddsUp(KvCacheStats stats) {
        assertThat(stats.byLayer().stream()
                        .mapToLong(KvCacheStats.Layer::bytesAllocated)
                        .sum())
                .isEqualTo(stats.bytesAllocated());
        assertThat(stats.byLayer().stream()
                        .mapToLong(KvCacheStats.Layer::bytesCommitted)
                        .sum())
                .isEqualTo(stats.bytesCommitted());
        assertThat(stats.byLayer().stream()
                        .mapToLong(KvCacheStats.Layer::bytesInUse)
                        .sum())
                .isEqualTo(stats.bytesInUse());
        assertThat(stats.byLayer())
                .allSatisfy(layer -> assertThat(layer.bytesInUse()).isLessThanOrEqualTo(layer.bytesCommitted()));
        assertThat(stats.bytesCommitted()).isLessThanOrEqualTo(stats.ledger().pages());
    }

    /** Four of six layers keep a window of what the request has. */
    @Test
    void aSlotCountsWhatItsLazyLayersKeep() throws IOException {
        try (Engine engine = open("lighttransfer:2;window=8;sinks=2;queries=4", 2, builder -> builder)) {
            engine.call("/completion", request(PROMPT, ANSWER, 1).put("cache_prompt", true));
            KvCacheStats stats = engine.kvCacheStats();
            KvCacheStats.Slot slot = stats.bySlot().stream()
                    .filter(each -> each.tokens() > 0)
                    .findFirst()
                    .orElseThrow();
            long row = stats.bytesPerToken() / LAYERS;
            assertThat(stats.lazyLayers().get(slot.slot())).hasSize(LAYERS - 2);
            assertAddsUp(stats);
            assertThat(slot.bytesInUse())
                    .isEqualTo(stats.bytesInUse())
                    .isBetween(2 * slot.tokens() * row, (2 * slot.tokens() + (LAYERS - 2) * (8 + 2 + 32)) * row);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"standard", "streaming:24"})
    void severalAnswersToAPromptOfManyWindows(String plan) throws IOException {
        try (Engine engine = open(plan, 4, builder -> builder)) {
            List<Generation> running = new ArrayList<>();
            for (int i = 0; i < 3; i++) {
                running.add(engine.complete(request(110, 40, i).put("n_cmpl", 2)));
            }
            for (Generation each : running) {
                try (each) {
                    JsonNode answers = Objects.requireNonNull(each.next());
                    assertThat(answers.isArray()).isTrue();
                    assertThat(answers)
                            .hasSize(2)
                            .allSatisfy(answer -> assertThat(
                                            answer.path("tokens_predicted").asInt())
                                    .isEqualTo(40));
                }
            }
        }
    }

    @Test
    void embeddingsDoNotWaitForEveryAnswer() throws IOException {
        try (Engine engine = open("standard", 4, builder -> builder.option("embeddings", true))) {
            List<Generation> chats = new ArrayList<>();
            for (int i = 0; i < 3; i++) {
                chats.add(engine.complete(request(10, 200, i).put("stream", true)));
                assertThat(chats.get(i).next()).isNotNull();
            }
            ObjectNode input = JSON.createObjectNode();
            for (int token : MODEL.tokens(12, 9)) {
                input.withArray("input").add(token);
            }
            assertThat(engine.call("/embeddings", input)).isNotEmpty();
            assertThat(engine.kvCacheStats().slotsBusy())
                    .as("chats that still run")
                    .isEqualTo(3);
            chats.forEach(Generation::close);
        }
    }

    @Test
    void tellsWhatItDid() throws IOException {
        try (Engine engine = open("standard", 4, builder -> builder)) {
            KvCacheStats before = engine.kvCacheStats();
            assertThat(before.preemptions()).isZero();
            together(
                    engine,
                    List.of(request(PROMPT, ANSWER, 1), request(PROMPT, ANSWER, 2), request(PROMPT, ANSWER, 3)));
            KvCacheStats after = engine.kvCacheStats();
            assertThat(after.preemptions()).isPositive();
            assertThat(after.tokensRecomputed()).isPositive();
            assertThat(after.requestsSuspended()).isZero();
        }
    }

    @Test
    void aRequestThatCannotRunAloneIsRefusedWithBothNumbers() throws IOException {
        long budget = 8L * 2 * LAYERS * 4096; // eight tokens to a page
        try (Engine engine = builder("standard", 2).kvBudget(budget).open()) {
            assertThatThrownBy(() -> engine.call("/completion", request(40, 60, 1)))
                    .isInstanceOfSatisfying(KvBudgetExceededException.class, e -> {
                        assertThat(e.limit()).hasValue(budget);
                        assertThat(e.value().orElseThrow()).isGreaterThan(budget);
                    });
            assertThat(engine.call("/completion", request(20, 10, 1))
                            .path("tokens_predicted")
                            .asInt())
                    .isEqualTo(10);
        }
    }

    /**
     * A window needs no more however long a request is, and a prompt that finds no memory for as many tokens as a batch
     * holds is computed fewer at a time.
     */
    @ParameterizedTest
    @CsvSource({
        "streaming:24, F32, 512",
        "streaming:24, F16, 512",
        "streaming:24, F16, 32",
        "streaming:100, Q8_0, 512",
        "yoco:24, F32, 512",
        "yoco:24, F16, 32",
        "lighttransfer:2;window=16;sinks=2;queries=4, F16, 512",
    })
    void whatARefusalNamesIsEnough(String plan, KvType type, int ubatch) throws IOException {
        Engine.Builder builder = builder(plan, 2).kvCacheTypes(type, type).ubatchSize(ubatch);
        long needed;
        try (Engine engine = builder.kvBudget(2L * LAYERS * 2 * 4096).open()) {
            needed = catchThrowableOfType(
                            KvBudgetExceededException.class, () -> engine.call("/completion", request(120, 100, 1)))
                    .value()
                    .orElseThrow();
        }
        try (Engine engine = builder.kvBudget(needed).open()) {
            for (int seed = 1; seed <= 2; seed++) {
                assertThat(engine.call("/completion", request(120, 100, seed))
                                .path("tokens_predicted")
                                .asInt())
                        .isEqualTo(100);
            }
            assertThat(engine.call("/completion", request(120, -1, 3))
                            .path("tokens_predicted")
                            .asInt())
                    .isGreaterThanOrEqualTo(100);
        }
    }

    /** Readers that stop, requests that are cancelled, and prompts and answers of any length, all at once. */
    @ParameterizedTest
    @ValueSource(longs = {1, 2})
    void cancelledAndUnreadRequestsTakeNothingFromOthers(long seed) throws Exception {
        Random random = new Random(seed);
        try (Engine engine = open("standard", 4, PreemptionTest::exactly)) {
            List<ObjectNode> bodies = new ArrayList<>();
            for (int i = 0; i < 24; i++) {
                bodies.add(request(5 + random.nextInt(80), 20 + random.nextInt(100), i));
            }
            List<JsonNode> alone = new ArrayList<>();
            for (ObjectNode body : bodies) {
                alone.add(engine.call("/completion", body));
            }
            Generation unread = engine.complete(request(30, 200, 99).put("stream", true));
            assertThat(unread.next()).isNotNull();
            List<Generation> running = new ArrayList<>();
            for (ObjectNode body : bodies) {
                running.add(engine.complete(body));
                if (random.nextInt(4) == 0) {
                    try (Generation cancelled =
                            engine.complete(request(60, 100, 50).put("stream", true))) {
                        cancelled.cancel();
                    }
                }
            }
            for (int i = 0; i < running.size(); i++) {
                try (Generation each = running.get(i)) {
                    assertSame(
                            "request " + i + " of seed " + seed,
                            alone.get(i),
                            Objects.requireNonNull(each.next()),
                            GAP);
                }
            }
            int more = 1;
            for (JsonNode chunk = unread.next(); chunk != null; chunk = unread.next()) {
                more++;
            }
            assertThat(more).as("parts of the answer that nobody had read").isGreaterThan(190);
            unread.close();
            assertThat(engine.kvCacheStats().requestsSuspended()).isZero();
        }
    }

    /** The second one waits for room when the first begins, and nothing else runs when that one's reader has stopped. */
    @ParameterizedTest
    @ValueSource(strings = {"standard", "streaming:24"})
    @Timeout(60)
    void aReaderThatHasStoppedDoesNotHoldUpWhoWaits(String plan) throws IOException {
        ObjectNode waits = request(120, 60, 2);
        long budget;
        String alone;
        try (Engine engine = open(plan, 1, builder -> builder)) {
            alone = engine.call("/completion", waits.put("cache_prompt", true))
                    .path("content")
                    .asText();
            budget = engine.kvCacheStats().bytesCommitted() * 15 / 10;
        }
        try (Engine engine = open(plan, 2, builder -> builder.kvBudget(budget))) {
            for (int round = 0; round < 5; round++) {
                try (Generation unread = engine.complete(request(120, 120, 1).put("stream", true))) {
                    assertThat(engine.call("/completion", waits.put("cache_prompt", false))
                                    .path("content")
                                    .asText())
                            .isEqualTo(alone);
                    assertThat(unread.next()).isNotNull();
                }
            }
        }
    }

    private static KvCacheStats compare(
            String plan, UnaryOperator<Engine.Builder> options, UnaryOperator<ObjectNode> of, double least)
            throws IOException {
        List<ObjectNode> bodies = new ArrayList<>();
        for (int i = 0; i < 8; i++) {
            bodies.add(of.apply(request(PROMPT + i, ANSWER - 3 * i, i)));
        }
        try (Engine engine = open(plan, 4, options)) {
            List<JsonNode> alone = new ArrayList<>();
            for (ObjectNode body : bodies) {
                alone.add(engine.call("/completion", body));
            }
            assertThat(engine.kvCacheStats().preemptions())
                    .as("of requests alone")
                    .isZero();
            List<JsonNode> loaded = together(engine, bodies);
            for (int i = 0; i < bodies.size(); i++) {
                assertSame(plan + ", request " + i, alone.get(i), loaded.get(i), least);
            }
            assertThat(engine.kvCacheStats().preemptions()).as("preemptions").isPositive();
            return engine.kvCacheStats();
        }
    }

    private static ObjectNode request(int prompt, int answer, int seed) {
        return AnswersTogether.request(MODEL.tokens(prompt, seed), answer, seed);
    }

    private static Engine.Builder exactly(Engine.Builder builder) {
        return builder.kvCacheTypes(KvType.F32, KvType.F32).flashAttention(FlashAttention.OFF);
    }

    private static Engine open(String plan, int slots, UnaryOperator<Engine.Builder> options) throws IOException {
        return options.apply(builder(plan, slots)).open();
    }

    private static Engine.Builder builder(String plan, int slots) throws IOException {
        KvPlan parsed = KvPlan.parse(plan, LAYERS);
        Path file = MODEL.writeForText(folder.resolve(plan.hashCode() + ".gguf"), KvPlan.of(parsed.kvLayers()));
        return Engine.builder()
                .model(file)
                .contextSize(POOL)
                .slots(slots)
                .option("kv-unified-per-slot", POOL) // so that all slots together have no more
                .threads(1)
                .ubatchSize(32)
                .flashAttention(FlashAttention.ON)
                .kvPlan(parsed);
    }
}
