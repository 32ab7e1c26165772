package io.kvfold.reference;

import static io.kvfold.reference.AnswersTogether.GAP;
import static io.kvfold.reference.AnswersTogether.GAP_OF_FLASH_ATTENTION;
import static io.kvfold.reference.AnswersTogether.assertSame;
import static io.kvfold.reference.AnswersTogether.together;
import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.Generation;
import io.kvfold.KvCacheStats;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.RealLibrary;
import io.kvfold.Session;
import io.kvfold.SessionStore;
import io.kvfold.reference.Shape.Architecture;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Requests that begin alike: what they have in common is computed once, and each answer is the one that the request has alone. */
@Timeout(value = 10, unit = TimeUnit.MINUTES)
final class PrefixSharingTest {
    private static final int LAYERS = 6;
    private static final int COMMON = 400;
    private static final int OWN = 16;
    private static final int ANSWER = 24;
    private static final int UBATCH = 64;

    private static final Shape SHAPE = new Shape(Architecture.LLAMA, 96, 48, 80, 8, 4, 64, 1e-5, 10000);
    private static final ComparedModel MODEL = ComparedModel.forAnyPlan(SHAPE, LAYERS, 1);

    @TempDir
    private static Path folder;

    @BeforeAll
    static void needsTheLibrary() {
        RealLibrary.require();
    }

    @ParameterizedTest
    @CsvSource({
        "standard, F16, ON, 8",
        "standard, F16, ON, 32",
        "standard, F32, OFF, 8",
        "standard, Q8_0, ON, 8",
        "cla:2, F16, ON, 8",
        "lckv:2, F16, ON, 8",
        "yoco:32, F16, ON, 8",
        "streaming:24, F16, ON, 8",
        "streaming:24, F16, ON, 32",
        "lighttransfer:2;window=8;sinks=2;queries=4, F32, OFF, 8",
        "lighttransfer:3;window=8;sinks=2;queries=4;decide=decode, F32, OFF, 8",
        "simlayerkv:0.6;window=8;sinks=2;queries=4, F32, OFF, 8",
    })
    void manyRequestsComputeTheirBeginningOnce(String plan, KvType type, FlashAttention attention, int count)
            throws IOException {
        List<ObjectNode> bodies = IntStream.range(0, count)
                .mapToObj(i -> AnswersTogether.request(prompt(COMMON, OWN, i), ANSWER, 0))
                .toList();
        List<JsonNode> alone = new ArrayList<>();
        try (Engine engine = builder(plan, 2)
                .kvCacheTypes(type, type)
                .flashAttention(attention)
                .open()) {
            for (ObjectNode body : bodies) {
                alone.add(engine.call("/completion", body));
            }
            assertThat(engine.kvCacheStats().prefixes().prompts()).isZero();
        }
        try (Engine engine = builder(plan, count)
                .kvCacheTypes(type, type)
                .flashAttention(attention)
                .open()) {
            JsonNode shared = engine.call("/completion", atOnce(shareable(bodies)));
            assertThat(shared).hasSize(count);
            for (int i = 0; i < count; i++) {
                assertSame(
                        plan + ", request " + i,
                        alone.get(i),
                        shared.get(i),
                        attention == FlashAttention.ON ? GAP_OF_FLASH_ATTENTION : GAP);
            }
            assertThat(engine.tokenStats().promptTokens())
                    .as("tokens computed")
                    .isLessThanOrEqualTo(COMMON + (long) count * OWN + UBATCH);
            KvCacheStats stats = engine.kvCacheStats();
            assertThat(stats.prefixes().prompts()).isEqualTo(count);
            assertThat(stats.prefixes().hits()).isEqualTo(count - 1);
            assertThat(stats.prefixes().tokensShared()).isBetween((count - 1L) * COMMON, (count - 1L) * (COMMON + 1));
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"standard", "cla:2", "lckv:2"})
    void whatTheyShareIsThereOnce(String plan) throws IOException {
        int count = 8;
        try (Engine engine = builder(plan, count).open()) {
            KvCacheStats stats = statsWhileAllAnswer(engine, count);
            long tokens =
                    stats.bySlot().stream().mapToLong(KvCacheStats.Slot::tokens).sum();
            assertThat(stats.cellsUsed()).isLessThanOrEqualTo(tokens - (count - 1L) * COMMON + count);
            assertThat(stats.prefixes().cellsShared()).isGreaterThanOrEqualTo((count - 1L) * COMMON);
            assertThat(stats.prefixes().bytesSaved()).isEqualTo(stats.prefixes().cellsShared() * stats.bytesPerToken());
        }
    }

    /** A page holds 42 keys of this model, and what a request adds to the beginning is less than half of that. */
    @ParameterizedTest
    @CsvSource({
        "standard, F16, 8",
        "standard, F16, 32",
        "standard, Q8_0, 32",
        "cla:2, F16, 32",
        "lckv:2, F16, 32",
        "yoco:32, F16, 32",
        "streaming:32, F16, 32",
        "lighttransfer:3;window=600;sinks=2;queries=4, F16, 32",
        "simlayerkv:0.6;window=32;sinks=2;queries=4, F16, 32",
    })
    void pagesHoldWhatManyRequestsAdd(String plan, KvType type, int count) throws IOException {
        try (Engine engine = builder(plan, count).kvCacheTypes(type, type).open()) {
            KvCacheStats stats = statsWhileAllAnswer(engine, count);
            long caches = plan.contains(":") && !plan.startsWith("cla") && !plan.startsWith("lckv") ? 2 : 1;
            long lastPages = caches * stats.layersWithStorage() * 2 * 4096;
            assertThat(stats.bytesCommitted())
                    .as("of %d in use", stats.bytesInUse())
                    .isBetween(stats.bytesInUse(), stats.bytesInUse() * 11 / 10 + lastPages);
        }
    }

    @Test
    void requestsOfDifferentSaltsShareNothing() throws IOException {
        try (Engine engine = builder("standard", 4).open()) {
            for (String salt : List.of("a", "b", "a")) {
                engine.call(
                        "/completion",
                        shareable(AnswersTogether.request(prompt(COMMON, OWN, 1), 4, 1))
                                .put("cache_salt", salt));
            }
            assertThat(engine.tokenStats().promptTokens()).isEqualTo(2L * (COMMON + OWN) + 1);
            engine.call("/completion", shareable(AnswersTogether.request(prompt(COMMON, OWN, 1), 4, 1)));
            assertThat(engine.tokenStats().promptTokens()).isEqualTo(3L * (COMMON + OWN) + 1);
        }
    }

    /** Where nothing is shared, because it is switched off or beside a draft model. */
    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void norDoTheyFindWhatASlotHasKeptOfAnother(boolean drafts) throws IOException {
        Engine.Builder builder = builder("standard", 1);
        if (drafts) {
            Path draft = MODEL.writeForText(folder.resolve("draft.gguf"), KvPlan.standard(LAYERS));
            builder.option("spec-type", "draft-simple").option("spec-draft-model", draft.toString());
        } else {
            builder.option("prefix-sharing", false);
        }
        try (Engine engine = builder.open()) {
            ObjectNode body = shareable(AnswersTogether.request(prompt(COMMON, OWN, 1), 4, 1));
            for (String salt : List.of("a", "a", "b")) {
                engine.call("/completion", body.deepCopy().put("cache_salt", salt));
            }
            assertThat(engine.tokenStats().promptTokens()).isEqualTo(2L * (COMMON + OWN) + 1);
        }
    }

    /** Each loses tokens of its own copy, as it does alone. Where the last queries decide, each computes these itself. */
    @ParameterizedTest
    @CsvSource({
        "standard;evict=knorm:100;skip=0, 2",
        "cla:2;evict=keydiff:0.4;at=chunk:96, 2",
        "standard;evict=streaming:100;at=chunk:64, 2",
        "standard;evict=snapkv:100;queries=32, 32",
        "cla:2;evict=tova:300, 2",
        "standard;evict=keydiff:100;at=chunk:64;answer=8, 2",
    })
    void requestsThatLoseTokensComputeWhatTheyHaveInCommonOnce(String plan, int queries) throws IOException {
        int count = 4;
        List<ObjectNode> bodies = IntStream.range(0, count)
                .mapToObj(i -> shareable(AnswersTogether.request(prompt(COMMON, OWN, i), ANSWER, 0)))
                .toList();
        List<JsonNode> alone = new ArrayList<>();
        for (ObjectNode body : bodies) {
            try (Engine engine = exact(plan, 1).open()) {
                alone.add(engine.call("/completion", body));
            }
        }
        try (Engine engine = exact(plan, count).contextSize(4096).open()) {
            JsonNode answers = engine.call("/completion", atOnce(bodies));
            for (int i = 0; i < count; i++) {
                assertSame(plan + ", request " + i, alone.get(i), answers.path(i), GAP);
            }
            assertThat(engine.kvCacheStats().prefixes().hits()).isEqualTo(count - 1);
            assertThat(engine.tokenStats().promptTokens())
                    .isLessThanOrEqualTo(COMMON + OWN + (count - 1L) * Math.max(OWN, queries));
            assertThat(engine.kvCacheStats().evictions().prompts()).isEqualTo(count);
        }
    }

    /** All queries of a prompt decide, so that each has to compute them. */
    @Test
    void nothingIsSharedWhereAllQueriesDecide() throws IOException {
        try (Engine engine = exact("standard;evict=observed:100", 2).open()) {
            engine.call(
                    "/completion",
                    atOnce(IntStream.range(0, 2)
                            .mapToObj(i -> shareable(AnswersTogether.request(prompt(COMMON, OWN, i), 4, 0)))
                            .toList()));
            assertThat(engine.kvCacheStats().prefixes().hits()).isZero();
            assertThat(engine.tokenStats().promptTokens()).isEqualTo(2L * (COMMON + OWN));
        }
    }

    /** There is no room for the whole prompts of two, and for the beginning and the rest of all. */
    @Test
    void requestsBeginTogetherIfWhatTheyDoNotShareFits() throws IOException {
        int count = 4;
        try (Engine engine = builder("standard", count)
                .contextSize(768)
                .option("kv-unified-per-slot", 768)
                .open()) {
            JsonNode answers = engine.call(
                    "/completion",
                    atOnce(IntStream.range(0, count)
                            .mapToObj(i -> shareable(AnswersTogether.request(prompt(COMMON, OWN, i), ANSWER, i)))
                            .toList()));
            assertThat(answers).extracting(each -> each.path("id_slot").asInt()).doesNotHaveDuplicates();
            assertThat(engine.tokenStats().promptTokens()).isEqualTo(COMMON + (long) count * OWN);
            assertThat(engine.kvCacheStats().preemptions()).isZero();
        }
    }

    /** Nothing of it is gone, so that it is shared anywhere, where layers decide within their prompt as far as all of it is alike. */
    @ParameterizedTest
    @ValueSource(strings = {"streaming:64", "yoco:64", "lighttransfer:1", "simlayerkv:0.6"})
    void whatIsNoLongerThanAWindowIsSharedToo(String plan) throws IOException {
        int count = 4;
        int common = 50;
        List<ObjectNode> bodies = IntStream.range(0, count)
                .mapToObj(i -> AnswersTogether.request(prompt(common, OWN, i), 4, 0))
                .toList();
        List<JsonNode> alone = new ArrayList<>();
        try (Engine engine = builder(plan, 1).open()) {
            for (ObjectNode body : bodies) {
                alone.add(engine.call("/completion", body));
            }
        }
        try (Engine engine = builder(plan, count).open()) {
            JsonNode answers = engine.call("/completion", atOnce(shareable(bodies)));
            for (int i = 0; i < count; i++) {
                assertSame(plan + ", request " + i, alone.get(i), answers.get(i), GAP_OF_FLASH_ATTENTION);
            }
            assertThat(engine.kvCacheStats().prefixes().hits()).isEqualTo(count - 1);
            assertThat(engine.tokenStats().promptTokens()).isEqualTo(common + (long) count * OWN);
        }
    }

    /** The last of them begin when the first ones have gone on beyond the window, or have decided which layers are lazy. */
    @ParameterizedTest
    @ValueSource(
            strings = {
                "standard",
                "streaming:24",
                "yoco:32",
                "lighttransfer:2;window=8;sinks=2;queries=4",
                "lighttransfer:2;window=500",
                "simlayerkv:0.6;window=8;sinks=2;queries=4"
            })
    void requestsThatWaitForASlotBeginThereToo(String plan) throws IOException {
        int count = 24;
        List<ObjectNode> bodies = IntStream.range(0, count)
                .mapToObj(i -> AnswersTogether.request(prompt(COMMON, OWN, i), ANSWER, 0))
                .toList();
        List<JsonNode> alone = new ArrayList<>();
        try (Engine engine = builder(plan, 1).open()) {
            for (ObjectNode body : bodies) {
                alone.add(engine.call("/completion", body));
            }
        }
        try (Engine engine = builder(plan, 4).open()) {
            JsonNode answers = engine.call("/completion", atOnce(shareable(bodies)));
            for (int i = 0; i < count; i++) {
                assertSame(plan + ", request " + i, alone.get(i), answers.get(i), GAP_OF_FLASH_ATTENTION);
            }
            assertThat(engine.tokenStats().promptTokens())
                    .as("tokens computed")
                    .isLessThanOrEqualTo(COMMON + (long) count * OWN + UBATCH);
        }
    }

    /** In one slot, each question as long as it likes; the second one, or each if nothing is shared, goes on from a checkpoint. */
    @ParameterizedTest
    @CsvSource({
        "standard, true",
        "streaming:64, true",
        "yoco:64, true",
        "streaming:64, false",
        "yoco:64, false",
        "lighttransfer:1;window=8;sinks=2;queries=4, false"
    })
    void questionsAboutOneDocumentComputeItOnce(String plan, boolean sharing) throws IOException {
        int[] document = MODEL.tokens(COMMON, 7);
        // of a question longer than a ubatch one more checkpoint is made, and the oldest goes
        int[] lengths = sharing ? new int[] {4, 40, 2, 100, 1, 30} : new int[] {4, 40, 2, 30, 1, 50};
        List<ObjectNode> bodies = new ArrayList<>();
        for (int i = 0; i < lengths.length; i++) {
            int[] question = MODEL.tokens(lengths[i], 900 + i);
            question[0] = i;
            bodies.add(AnswersTogether.request(join(document, question), ANSWER, 0));
        }
        List<JsonNode> alone = new ArrayList<>();
        try (Engine engine = builder(plan, 1).open()) {
            for (ObjectNode body : bodies) {
                alone.add(engine.call("/completion", body));
            }
        }
        try (Engine engine = builder(plan, 1).option("prefix-sharing", sharing).open()) {
            for (int i = 0; i < lengths.length; i++) {
                long before = engine.tokenStats().promptTokens();
                JsonNode answer = engine.call("/completion", shareable(bodies.get(i)));
                assertSame(plan + ", question " + i, alone.get(i), answer, GAP_OF_FLASH_ATTENTION);
                long computed = engine.tokenStats().promptTokens() - before;
                if (i == 0) {
                    assertThat(computed).isEqualTo(COMMON + lengths[i]);
                } else {
                    // a quarter of a ubatch before the end, and a token that is computed again
                    assertThat(computed)
                            .as("question %d", i)
                            .isLessThanOrEqualTo(lengths[i] + (sharing && i > 1 ? 1 : UBATCH / 4 + 1));
                }
            }
        }
    }

    /** Another prompt in the same slot: the same again, its beginning, or what departs from it shortly before its end. */
    @ParameterizedTest
    @ValueSource(
            strings = {
                "streaming:24",
                "streaming:64",
                "yoco:64",
                "lighttransfer:1;window=64;sinks=2;queries=4",
                "lighttransfer:2;window=20;sinks=1;queries=4;decide=end",
                "lighttransfer:2;window=20;sinks=1;queries=4;decide=decode",
                "simlayerkv:0.3;window=32;sinks=2;queries=8",
                "simlayerkv:0.24;window=32;sinks=2;queries=8;decide=end",
                "simlayerkv:0.26;window=32;sinks=2;queries=8;decide=end",
                "simlayerkv:0.28;window=32;sinks=2;queries=8;decide=end",
                "simlayerkv:0.24;window=32;sinks=2;queries=8;decide=decode",
                "simlayerkv:0.26;window=32;sinks=2;queries=8;decide=decode",
                "simlayerkv:0.28;window=32;sinks=2;queries=8;decide=decode"
            })
    void aPromptThatLeavesTheOneBeforeAnswersAsAlone(String plan) throws IOException {
        int[] first = MODEL.tokens(150, 7);
        List<ObjectNode> bodies = new ArrayList<>();
        for (int fewer = 0; fewer < 24; fewer++) {
            int[] beginning = Arrays.copyOf(first, first.length - fewer);
            bodies.add(AnswersTogether.request(beginning, 8, 0));
            if (fewer > 0) {
                int[] other = MODEL.tokens(5, 70 + fewer);
                other[0] = (first[first.length - fewer] + 1) % SHAPE.vocabulary();
                bodies.add(AnswersTogether.request(join(beginning, other), 8, 0));
            }
        }
        List<JsonNode> alone = new ArrayList<>();
        try (Engine engine = exact(plan, 1).open()) {
            for (ObjectNode body : bodies) {
                alone.add(engine.call("/completion", body));
            }
        }
        try (Engine engine = exact(plan, 1).open()) {
            for (int i = 0; i < bodies.size(); i++) {
                engine.call("/completion", shareable(AnswersTogether.request(first, i % 3 == 0 ? 1 : 8, 0)));
                JsonNode answer = engine.call("/completion", shareable(bodies.get(i)));
                assertSame(plan + ", request " + i, alone.get(i), answer, GAP);
            }
        }
    }

    /** Of a conversation of six turns some are asked otherwise: only what follows is computed. */
    @ParameterizedTest
    @ValueSource(strings = {"standard", "streaming:64", "yoco:64", "lighttransfer:2;window=8;sinks=2;queries=4"})
    void aTurnThatIsAskedOtherwiseIsComputedAlone(String plan) throws IOException {
        int turns = 6;
        int[] conversation = MODEL.tokens(100, 7);
        List<int[]> beginnings = new ArrayList<>();
        try (Engine engine = builder(plan, 1).open()) {
            for (int turn = 0; turn < turns; turn++) {
                beginnings.add(conversation);
                int[] asked = join(conversation, MODEL.tokens(80, 300 + turn));
                conversation = join(asked, answerOf(engine, asked, 0));
            }
            for (int turn : new int[] {2, 1, 4}) {
                int[] edited = MODEL.tokens(OWN, 600 + turn);
                edited[0] = (MODEL.tokens(80, 300 + turn)[0] + 1) % SHAPE.vocabulary();
                long before = engine.tokenStats().promptTokens();
                answerOf(engine, join(beginnings.get(turn), edited), 0);
                // of an answer the last token is not in the cache
                assertThat(engine.tokenStats().promptTokens() - before)
                        .as("turn %d", turn)
                        .isLessThanOrEqualTo(OWN + 1);
            }
        }
    }

    @Test
    void requestsThatKeepNothingAreNoBeginningOfOthers() throws IOException {
        try (Engine engine = builder("standard", 4).open()) {
            List<ObjectNode> bodies = new ArrayList<>();
            for (int i = 0; i < 4; i++) {
                bodies.add(AnswersTogether.request(prompt(COMMON, OWN, i), 8, i));
            }
            together(engine, bodies);
            assertThat(engine.tokenStats().promptTokens()).isEqualTo(4L * (COMMON + OWN));
        }
    }

    /** Chunks that are reused by shifting their keys would move what others hold. */
    @Test
    void requestsThatMoveCellsShareNone() throws IOException {
        try (Engine engine = builder("standard", 2).open()) {
            int[] first = prompt(COMMON, OWN, 1);
            ObjectNode body = shareable(AnswersTogether.request(first, 16, 1));
            JsonNode before = engine.call("/completion", body);
            int[] shifted = join(MODEL.tokens(5, 77), Arrays.copyOfRange(first, 100, 300));
            for (int slot = 0; slot < 2; slot++) {
                engine.call(
                        "/completion",
                        shareable(AnswersTogether.request(shifted, 4, 2))
                                .put("n_cache_reuse", 16)
                                .put("id_slot", slot));
            }
            assertSame(
                    "after others have moved theirs", before, engine.call("/completion", body), GAP_OF_FLASH_ATTENTION);
        }
    }

    @Test
    void sharingCanBeSwitchedOff() throws IOException {
        try (Engine engine =
                builder("standard", 4).option("prefix-sharing", false).open()) {
            List<ObjectNode> bodies = new ArrayList<>();
            for (int i = 0; i < 4; i++) {
                bodies.add(shareable(AnswersTogether.request(prompt(COMMON, OWN, i), 8, i)));
            }
            together(engine, bodies);
            assertThat(engine.tokenStats().promptTokens()).isEqualTo(4L * (COMMON + OWN));
            assertThat(engine.kvCacheStats().prefixes().prompts()).isZero();
        }
    }

    /** One document, twenty questions to it with their answers, and each of these conversations goes on. */
    @Test
    void conversationsThatBranchGoOnWhereTheyWere() throws IOException {
        int branches = 20;
        try (Engine engine = builder("standard", 4).open()) {
            List<int[]> conversations = new ArrayList<>();
            for (int i = 0; i < branches; i++) {
                int[] question = prompt(COMMON, OWN, i);
                conversations.add(join(question, answerOf(engine, question, i)));
            }
            assertThat(engine.tokenStats().promptTokens()).isEqualTo(COMMON + (long) branches * OWN);
            long before = engine.tokenStats().promptTokens();
            for (int i = 0; i < branches; i++) {
                answerOf(engine, join(conversations.get(i), MODEL.tokens(OWN, 500 + i)), i);
            }
            // of an answer the last token is not in the cache
            assertThat(engine.tokenStats().promptTokens() - before).isEqualTo((long) branches * (OWN + 1));
            // the first question asked otherwise
            before = engine.tokenStats().promptTokens();
            answerOf(engine, join(prompt(COMMON, OWN / 2, 0), MODEL.tokens(OWN, 900)), 0);
            assertThat(engine.tokenStats().promptTokens() - before).isEqualTo(OWN);
        }
    }

    /** What shared a window keeps as much of it as llama.cpp asks for before it goes on with a sequence. */
    @ParameterizedTest
    @ValueSource(strings = {"streaming:24", "yoco:32", "lighttransfer:2;window=8;sinks=2;queries=4"})
    void conversationsThatSharedAWindowGoOnWhereTheyWere(String plan) throws IOException {
        int count = 4;
        try (Engine engine = builder(plan, count).open()) {
            List<int[]> questions = IntStream.range(0, count)
                    .mapToObj(i -> prompt(COMMON, OWN, i))
                    .toList();
            JsonNode answers = engine.call(
                    "/completion",
                    atOnce(questions.stream()
                            .map(each -> shareable(AnswersTogether.request(each, ANSWER, 0)))
                            .toList()));
            assertThat(engine.kvCacheStats().prefixes().hits()).isEqualTo(count - 1);
            long before = engine.tokenStats().promptTokens();
            for (int i = 0; i < count; i++) {
                int[] conversation = join(questions.get(i), tokensOf(answers.path(i)));
                answerOf(engine, join(conversation, MODEL.tokens(OWN, 500 + i)), i);
            }
            // of an answer the last token is not in the cache
            assertThat(engine.tokenStats().promptTokens() - before).isEqualTo(count * (OWN + 1L));
        }
    }

    /** And so does one whose slot has begun another since. */
    @ParameterizedTest
    @ValueSource(strings = {"streaming:64", "yoco:32", "lighttransfer:1;window=8;sinks=2;queries=4"})
    void whatAWindowHeldIsKeptWhenItsSlotBeginsAnother(String plan) throws IOException {
        int[] question = prompt(COMMON, OWN, 0);
        int[] other = MODEL.tokens(COMMON, 50);
        int[] expected;
        int[] conversation;
        try (Engine engine = builder(plan, 1).open()) {
            conversation = join(join(question, answerOf(engine, question, 0)), MODEL.tokens(OWN, 500));
            expected = answerOf(engine, conversation, 0);
        }
        try (Engine engine = builder(plan, 1).open()) {
            answerOf(engine, question, 0);
            answerOf(engine, other, 0);
            long before = engine.tokenStats().promptTokens();
            assertThat(answerOf(engine, conversation, 0)).isEqualTo(expected);
            // of an answer the last token is not in the cache
            assertThat(engine.tokenStats().promptTokens() - before).isEqualTo(OWN + 1);
        }
    }

    /** Where its window is gone, the second prompt that begins alike computes the beginning again, and leaves it for the third. */
    @ParameterizedTest
    @ValueSource(strings = {"streaming:64", "yoco:32", "lighttransfer:1;window=8;sinks=2;queries=4"})
    void aBeginningThatASecondPromptHasIsKeptForMore(String plan) throws IOException {
        List<ObjectNode> bodies = IntStream.range(0, 4)
                .mapToObj(i -> AnswersTogether.request(prompt(COMMON, OWN, i), ANSWER, 0))
                .toList();
        List<JsonNode> alone = new ArrayList<>();
        try (Engine engine = builder(plan, 1).open()) {
            for (ObjectNode body : bodies) {
                alone.add(engine.call("/completion", body));
            }
        }
        try (Engine engine = builder(plan, 1).open()) {
            for (int i = 0; i < bodies.size(); i++) {
                long before = engine.tokenStats().promptTokens();
                JsonNode answer = engine.call("/completion", shareable(bodies.get(i)));
                assertSame(plan + ", request " + i, alone.get(i), answer, GAP_OF_FLASH_ATTENTION);
                assertThat(engine.tokenStats().promptTokens() - before)
                        .as("tokens computed of request " + i)
                        .isEqualTo(i < 2 ? COMMON + OWN : OWN);
                answerOf(engine, MODEL.tokens(COMMON, 50 + i), 0);
            }
        }
    }

    /**
     * Prompts from a random tree come in a random order to a cache that is too small for all of them; some are cancelled, and
     * some begin with the saved state of another one. The same requests alone give the same answers; under simlayerkv, where a slot may keep all layers of a beginning for which it
     * has found none lazy, answers of the same length.
     */
    @ParameterizedTest
    @CsvSource({
        "standard, 1",
        "standard, 2",
        "cla:2, 3",
        "lckv:2, 4",
        "yoco:32, 5",
        "streaming:24, 6",
        "lighttransfer:2;window=8;sinks=2;queries=4, 7",
        "simlayerkv:0.6;window=8;sinks=2;queries=4, 8",
        "standard;evict=streaming:40, 9",
        "cla:2;evict=streaming:40;at=chunk:32;skip=0, 10",
        "standard;evict=knorm:40, 11",
        "cla:2;evict=keydiff:0.5;at=chunk:32, 12",
        "yoco:32;evict=lagkv:40;lag=8, 13",
        "cla:2;evict=snapkv:40;queries=16;at=chunk:32, 14",
        "standard;evict=pyramidkv:40;queries=8, 15",
        "cla:2;evict=observed:40, 16",
        "standard;evict=expected:40;future=32, 17",
        "standard;evict=streaming:30;answer=8, 18",
        "cla:2;evict=tova:0.5;at=chunk:32;answer=10, 19",
        "standard;evict=h2o:40;answer=16, 20",
        "cla:2;evict=rkv:40;answer=16, 21",
        "cla:2;evict=keyformer:40;answer=16, 22",
        "standard;evict=corm:60;queries=16;newest=16;answer=16, 23",
    })
    void requestsOfARandomTreeAnswerAsAlone(String plan, long seed) throws IOException {
        Random random = new Random(seed);
        List<int[]> tree = new ArrayList<>(List.of(MODEL.tokens(40, seed)));
        List<ObjectNode> bodies = new ArrayList<>();
        for (int i = 0; i < 40; i++) {
            int[] from = tree.get(random.nextInt(tree.size()));
            int[] start = Arrays.copyOf(from, 1 + random.nextInt(from.length));
            int[] prompt = join(start, MODEL.tokens(1 + random.nextInt(50), 1000 * seed + i));
            if (prompt.length < 150) {
                tree.add(prompt);
            }
            bodies.add(AnswersTogether.request(prompt, 4 + random.nextInt(60), i));
        }
        try (Engine engine = builder(plan, 6)
                .contextSize(256)
                .option("kv-unified-per-slot", 512)
                .kvCacheTypes(KvType.F32, KvType.F32)
                .flashAttention(FlashAttention.OFF)
                .open()) {
            List<JsonNode> alone = new ArrayList<>();
            for (ObjectNode body : bodies) {
                alone.add(engine.call("/completion", body));
            }
            SessionStore store = SessionStore.directory(folder.resolve("sessions-" + seed));
            List<Generation> running = new ArrayList<>();
            for (ObjectNode body : bodies) {
                ObjectNode shareable = shareable(body);
                running.add(
                        random.nextInt(4) > 0
                                ? engine.complete(shareable)
                                : engine.start(
                                        "/completion",
                                        shareable,
                                        Session.of(store, "conversation " + random.nextInt(3))));
                if (random.nextInt(3) == 0) {
                    try (Generation cancelled =
                            engine.complete(shareable.deepCopy().put("stream", true))) {
                        if (random.nextBoolean()) {
                            cancelled.next();
                        }
                        cancelled.cancel();
                    }
                }
            }
            for (int i = 0; i < running.size(); i++) {
                String what = plan + ", request " + i + " of seed " + seed;
                try (Generation each = running.get(i)) {
                    JsonNode answer = Objects.requireNonNull(each.next());
                    assertThat(answer.path("tokens").size())
                            .as(what)
                            .isEqualTo(alone.get(i).path("tokens").size());
                    if (!plan.startsWith("simlayerkv")) {
                        assertSame(what, alone.get(i), answer, GAP);
                    }
                }
            }
            KvCacheStats stats = engine.kvCacheStats();
            if (List.of("standard", "cla:2", "lckv:2")
                    .contains(plan)) { // others share what is computed at the same time, by chance
                assertThat(stats.prefixes().hits()).isPositive();
            }
            assertThat(stats.requestsSuspended()).isZero();
        }
    }

    private static ObjectNode shareable(ObjectNode body) {
        return body.deepCopy().put("cache_prompt", true);
    }

    /** When each has its first token; they are cancelled then. */
    private static KvCacheStats statsWhileAllAnswer(Engine engine, int count) {
        List<Generation> running = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            running.add(engine.complete(shareable(AnswersTogether.request(prompt(COMMON, OWN, i), 200, i))
                    .put("stream", true)));
        }
        for (Generation each : running) {
            assertThat(each.next()).isNotNull();
        }
        KvCacheStats stats = engine.kvCacheStats();
        running.forEach(Generation::close);
        return stats;
    }

    private static List<ObjectNode> shareable(List<ObjectNode> bodies) {
        return bodies.stream().map(PrefixSharingTest::shareable).toList();
    }

    /** One request with the prompts of all, so that they come in one step. */
    private static ObjectNode atOnce(List<ObjectNode> bodies) {
        ObjectNode all = bodies.get(0).deepCopy();
        ArrayNode prompts = all.putArray("prompt");
        bodies.forEach(body -> prompts.add(body.path("prompt")));
        return all;
    }

    private static int[] answerOf(Engine engine, int[] prompt, int seed) {
        return tokensOf(engine.call("/completion", shareable(AnswersTogether.request(prompt, ANSWER, seed))));
    }

    private static int[] tokensOf(JsonNode answer) {
        return IntStream.range(0, answer.path("tokens").size())
                .map(i -> answer.path("tokens").path(i).asInt())
                .toArray();
    }

    /** The same tokens for every seed, and others. No two seeds go on with the same token. */
    private static int[] prompt(int common, int own, int seed) {
        int[] rest = MODEL.tokens(own, 100 + seed);
        rest[0] = seed % SHAPE.vocabulary();
        return join(MODEL.tokens(common, 7), rest);
    }

    private static int[] join(int[] first, int[] second) {
        return IntStream.concat(IntStream.of(first), IntStream.of(second)).toArray();
    }

    private static Engine.Builder exact(String plan, int slots) throws IOException {
        return builder(plan, slots).kvCacheTypes(KvType.F32, KvType.F32).flashAttention(FlashAttention.OFF);
    }

    private static Engine.Builder builder(String plan, int slots) throws IOException {
        KvPlan parsed = KvPlan.parse(plan, LAYERS);
        Path file = MODEL.writeForText(folder.resolve(plan.hashCode() + ".gguf"), KvPlan.of(parsed.kvLayers()));
        return Engine.builder()
                .model(file)
                .contextSize(1024)
                .slots(slots)
                .threads(1)
                .ubatchSize(UBATCH)
                .flashAttention(FlashAttention.ON)
                .kvPlan(parsed);
    }
}
