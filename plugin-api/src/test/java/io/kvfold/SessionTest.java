package io.kvfold;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.PosixFilePermissions;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.BooleanSupplier;
import java.util.function.Supplier;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** What is reused of a prompt: from the slot, from another slot, and from a session's saved state. */
@Timeout(120)
class SessionTest {

    private static final int DOCUMENT_TOKENS = 8192;

    @TempDir
    @SuppressWarnings("NullAway.Init")
    static Path models;

    @SuppressWarnings("NullAway.Init")
    private static Path model;

    @TempDir
    @SuppressWarnings("NullAway.Init")
    Path folder;

    @SuppressWarnings("NullAway.Init")
    private SessionStore store;

    @BeforeAll
    static void writeModel() throws IOException {
        RealLibrary.require();
        model = TinyModel.write(models.resolve("tiny.gguf"), 1);
    }

    @BeforeEach
    void openStore() {
        store = SessionStore.directory(folder.resolve("sessions"));
    }

    /** What an answer says, and what it cost. */
    private record Answer(String text, int promptTokens, int cachedTokens) {}

    private static Engine engine(@Nullable String plan) {
        Engine.Builder builder = builder();
        if (plan != null) {
            builder.kvPlan(KvPlan.parse(plan, TinyModel.LAYERS));
        }
        return builder.open();
    }

    private static Engine.Builder builder() {
        return Engine.builder()
                .model(model)
                .contextSize(9216)
                .option("override-kv", "llama.context_length=int:16384")
                .slots(1)
                .threads(1)
                .flashAttention(FlashAttention.OFF);
    }

    private static ObjectNode body(String... messages) {
        ObjectNode body = Json.MAPPER.createObjectNode().put("temperature", 0).put("max_tokens", 8);
        String[] roles = {"user", "assistant"};
        for (int i = 0; i < messages.length; i++) {
            body.withArray("messages").addObject().put("role", roles[i % 2]).put("content", messages[i]);
        }
        return body;
    }

    /**
     * An answer that is the same tokens when its text comes back, so that the conversation goes on behind it: the template
     * puts a blank before it then, and the first token has one in it.
     */
    private static String oneWord(Engine engine, Session session, ObjectNode body) {
        return ask(engine, session, body.put("grammar", "root ::= \" \" [a-z]+"))
                .text()
                .strip();
    }

    private static Answer ask(Engine engine, @Nullable Session session, ObjectNode body) {
        try (Generation generation = session == null ? engine.chat(body) : engine.chat(body, session)) {
            return read(generation);
        }
    }

    private static Answer read(Generation generation) {
        JsonNode answer = generation.next();
        assertThat(answer).isNotNull();
        assertThat(generation.next()).isNull();
        JsonNode usage = answer.path("usage");
        return new Answer(
                answer.path("choices").path(0).path("message").path("content").asText(),
                usage.path("prompt_tokens").asInt(),
                usage.path("prompt_tokens_details").path("cached_tokens").asInt());
    }

    /** About so many tokens: one for each letter and each space. */
    private static String document(int tokens, long seed) {
        Random random = new Random(seed);
        StringBuilder text = new StringBuilder();
        while (text.length() < tokens) {
            text.append((char) ('a' + random.nextInt(26)));
        }
        return text.toString();
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "standard",
                "0_0_2",
                "0_2_2;exact",
                "2_2_2;passes=5",
                "0_1s_1s;window=64",
                "streaming:64",
                "standard;lazy=0;window=64",
                "lighttransfer:1;window=64",
                "0_0_2;lazy=0;window=64"
            })
    void prefillsOnlyTheNewTokensOfTheSecondQuestion(String plan) {
        String document = document(DOCUMENT_TOKENS, 7);
        Session session = Session.of(store, "document");
        Answer first;
        Answer second;
        try (Engine engine = engine(plan)) {
            first = ask(engine, session, body(document + " who"));
            second = ask(engine, session, body(document + " why"));
        }
        Answer restored;
        Answer unaided;
        try (Engine engine = engine(plan)) {
            restored = ask(engine, session, body(document + " when"));
        }
        try (Engine engine = engine(plan)) {
            unaided = ask(engine, null, body(document + " when"));
        }

        assertThat(first.promptTokens()).isGreaterThan(DOCUMENT_TOKENS);
        assertThat(first.cachedTokens()).isZero();
        assertThat(second.promptTokens() - second.cachedTokens()).isBetween(1, 40);
        assertThat(unaided.cachedTokens()).isZero();
        // where a window forgets, from a checkpoint on, at worst a ubatch before the end
        int computed = restored.promptTokens() - restored.cachedTokens();
        assertThat(computed).isBetween(1, plan.contains("64") ? 550 : 40);
        assertThat(restored.text()).isEqualTo(unaided.text()).isNotEmpty();
    }

    /** Slots of 1024 tokens each. */
    private static Engine.Builder small(int slots) {
        return builder().contextSize(1024).slots(slots);
    }

    @Test
    void findsTheSlotThatHoldsTheConversation() {
        List<String> documents =
                Stream.of(1, 2, 3).map(seed -> document(400, seed)).toList();
        try (Engine engine = small(3).open()) {
            documents.forEach(document -> ask(engine, null, body(document + " who")));
            List<Answer> second = documents.stream()
                    .map(document -> ask(engine, null, body(document + " why")))
                    .toList();

            assertThat(second)
                    .allSatisfy(answer -> assertThat(answer.cachedTokens()).isBetween(400, answer.promptTokens() - 1));
        }
    }

    @Test
    void computesAgainWhatOnlyASessionWouldHaveKept() {
        String document = document(400, 1);
        Session session = Session.of(store, "a");
        try (Engine engine = small(1).option("prefix-sharing", false).open()) {
            ask(engine, session, body(document + " who"));
            ask(engine, null, body(document(400, 2)));
            Answer without = ask(engine, null, body(document + " why"));
            ask(engine, null, body(document(400, 2)));
            Answer with = ask(engine, session, body(document + " why"));

            assertThat(without.cachedTokens()).isLessThan(20);
            assertThat(with.cachedTokens()).isGreaterThan(400);
            assertThat(with.text()).isEqualTo(without.text());
        }
    }

    @Test
    void continuesAConversationOfSeveralTurns() {
        Session session = Session.of(store, "a");
        String first = document(300, 1);
        String reply;
        Answer second;
        try (Engine engine = small(1).open()) {
            reply = ask(engine, session, body(first)).text();
        }
        try (Engine engine = small(1).open()) {
            second = ask(engine, session, body(first, reply, "why"));
        }
        try (Engine engine = small(1).open()) {
            Answer third = ask(engine, session, body(first, reply, "why", second.text(), "how"));

            assertThat(second.cachedTokens()).isGreaterThan(300);
            assertThat(third.cachedTokens()).isGreaterThan(second.cachedTokens());
        }
    }

    @Test
    void makesRoomInASharedPool() {
        Session session = Session.of(store, "a");
        String document = document(600, 1);
        try (Engine engine = builder()
                .contextSize(1024)
                .option("kv-unified-per-slot", 1024)
                .slots(2)
                .open()) {
            ask(engine, session, body(document));
            ask(engine, null, body(document(700, 2))); // takes the cells of the idle slot
            Answer again = ask(engine, session, body(document + " why"));

            assertThat(again.cachedTokens()).isGreaterThan(600);
        }
    }

    /** Several turns, so that tokens were evicted twice. */
    @ParameterizedTest
    @ValueSource(
            strings = {"standard;evict=knorm:64", "0_0_2;evict=keydiff:0.5;skip=0", "standard;evict=lagkv:64;lag=16"})
    void whatEvictionLeftGoesIntoAnotherEngineWithTheState(String plan) {
        Session session = Session.of(store, "a");
        KvPlan parsed = KvPlan.parse(plan, TinyModel.LAYERS);
        String document = document(300, 1);
        String first;
        String second;
        Answer continued;
        try (Engine engine = small(1).kvPlan(parsed).open()) {
            first = oneWord(engine, session, body(document));
            second = oneWord(engine, session, body(document, first, "why"));
            continued = ask(engine, null, body(document, first, "why", second, "how"));
        }
        try (Engine engine = small(1).kvPlan(parsed).open()) {
            Answer restored = ask(engine, session, body(document, first, "why", second, "how"));
            assertThat(restored.cachedTokens())
                    .isEqualTo(continued.cachedTokens())
                    .isGreaterThan(300);
            assertThat(restored.text()).isEqualTo(continued.text());
        }
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "lighttransfer:1;window=64",
                "standard;lazy=0;window=64;decide=end",
                "lighttransfer:2;window=64;decide=decode",
                "0_0_2;lazy=0;window=64"
            })
    void lazyLayersGoIntoAnotherSlotWithTheState(String plan) throws Exception {
        Session session = Session.of(store, "a");
        KvPlan parsed = KvPlan.parse(plan, TinyModel.LAYERS);
        String document = document(300, 1);
        List<Integer> lazy;
        List<Integer> lazyWhenFresh;
        String answer;
        Answer continued;
        Answer fresh;
        try (Engine engine = small(2).kvPlan(parsed).open()) {
            answer = ask(engine, session, body(document)).text();
            lazy = lazyLayers(engine, 300);
            continued = ask(engine, null, body(document, answer, "why"));
        }
        try (Engine engine = small(2).kvPlan(parsed).open()) {
            fresh = ask(engine, null, body(document, answer, "why"));
            lazyWhenFresh = lazyLayers(engine, 300);
        }
        assertThat(lazy).isNotEmpty();
        try (Engine engine =
                small(2).kvPlan(parsed).option("prefix-sharing", false).open()) { // both begin with the chat template
            ObjectNode endless =
                    body("who").put("max_tokens", 600).put("ignore_eos", true).put("stream", true);
            try (Generation running = engine.chat(endless)) {
                running.next();
                running.next();
                int busy = engine.kvCacheStats().bySlot().get(0).busy() ? 0 : 1;
                Answer again =
                        ask(engine, session, body(document, answer, "why")); // reads the state, in the other slot
                // llama.cpp wants a checkpoint to go on from the window of a state, and none is kept of before the
                // decision
                boolean goesOn = !plan.contains("decide");
                assertThat(again.cachedTokens()).isBetween(goesOn ? 300 : 0, goesOn ? 400 : 0);
                assertThat(again.text()).isEqualTo((goesOn ? continued : fresh).text());
                assertThat(engine.kvCacheStats().lazyLayers().get(1 - busy)).isEqualTo(goesOn ? lazy : lazyWhenFresh);
                assertThat(engine.kvCacheStats().bySlot().get(busy).busy()).isTrue();
            }
        }
    }

    /** Those of the slot that holds at least so many tokens. */
    private static List<Integer> lazyLayers(Engine engine, int tokens) {
        KvCacheStats stats = engine.kvCacheStats();
        return stats.bySlot().stream()
                .filter(slot -> slot.tokens() >= tokens)
                .map(slot -> stats.lazyLayers().get(slot.slot()))
                .findFirst()
                .orElseThrow();
    }

    @Test
    void readsAStateWithoutReplacingIt() throws IOException {
        Session session = Session.of(store, "a");
        try (Engine engine = small(1).open()) {
            ask(engine, session, body(document(100, 1)));
            byte[] saved = Files.readAllBytes(file("a"));
            ask(engine, session.readOnly(), body(document(100, 2)));

            assertThat(Files.readAllBytes(file("a"))).isEqualTo(saved);
        }
    }

    @Test
    void keepsStatesForTheirOwnersEyesUnderNamesThatAreNoPaths() throws IOException {
        try (Engine engine = small(1).open()) {
            ask(engine, Session.of(store, "../../ä/nul"), body("who"));
        }
        try (Stream<Path> files = Files.list(folder.resolve("sessions"))) {
            List<Path> all = files.toList();
            assertThat(all).hasSize(1);
            assertThat(all.get(0).getFileName().toString()).matches("[0-9a-f]{64}\\.kvstate");
            if (Files.getFileStore(folder).supportsFileAttributeView("posix")) {
                assertThat(PosixFilePermissions.toString(Files.getPosixFilePermissions(all.get(0))))
                        .isEqualTo("rw-------");
            }
        }
        store.delete("../../ä/nul");
        assertThat(folder.resolve("sessions")).isEmptyDirectory();
    }

    @Test
    void refusesTheStateOfAnotherEngine() throws IOException {
        Session session = Session.of(store, "a").strict();
        ObjectNode body = body(document(300, 1));
        try (Engine engine = small(1).open()) {
            ask(engine, session, body);
        }
        Path other = TinyModel.write(models.resolve("other.gguf"), 2);
        refuses(small(1).model(other), session, "saved with model '");
        refuses(small(1).kvPlan(KvPlan.parse("0_0_2", 3)), session, "kv-plan 'standard', this engine has '0_0_2");
        refuses(small(1).kvCacheTypes(KvType.BF16, KvType.F16), session, "cache-type-k 'f16', this engine has 'bf16'");
        refuses(small(2).option("kv-unified", false), session, "streams '1', this engine has '2'");
        refuses(small(1).option("rope-freq-base", 5000), session, "rope-freq-base '");
        refuses(small(1).contextSize(256), session, " tokens but a slot holds 256");
        try (Engine engine = small(1).open()) {
            assertThat(ask(engine, session, body).cachedTokens()).isGreaterThan(300);
        }
    }

    @ParameterizedTest
    @CsvSource({
        "0_1s_2;window=64;sinks=4, 0_1s_2;window=64;sinks=3",
        "0_1s_2;window=64;sinks=4, 0_1_2s;window=64;sinks=4",
        "streaming:64, 0s_1s_2s;window=64;sinks=5",
        "lighttransfer:1;window=64, lighttransfer:2;window=64",
        "standard;lazy=0;window=64, 0s_1s_2s;window=64;sinks=4",
        "0s_1s_2s;window=64;sinks=4, standard;lazy=0;window=64",
    })
    void refusesTheStateOfAnotherPlanOfTheSameSize(String saved, String other) {
        Session session = Session.of(store, "a").strict();
        try (Engine engine =
                small(1).kvPlan(KvPlan.parse(saved, TinyModel.LAYERS)).open()) {
            ask(engine, session, body(document(300, 1)));
        }
        KvPlan plan = KvPlan.parse(other, TinyModel.LAYERS);
        refuses(small(1).kvPlan(plan), session, "', this engine has '" + plan);
    }

    /** Beginnings that are kept for other prompts go for it, though it is read while nothing runs. */
    @Test
    void aSavedStateFindsRoomWhereKeptBeginningsHaveTheWholeBudget() {
        Session session = Session.of(store, "a").strict();
        long budget;
        try (Engine engine = builder().flashAttention(FlashAttention.ON).open()) {
            ask(engine, session, body(document(300, 1)));
            budget = engine.kvCacheStats().bytesCommitted() * 7 / 2;
        }
        try (Engine engine =
                builder().flashAttention(FlashAttention.ON).kvBudget(budget).open()) {
            for (int i = 2; i < 8; i++) {
                ask(engine, null, body(document(300, i)));
            }
            KvCacheStats stats = engine.kvCacheStats();
            assertThat(stats.prefixes().kept()).isPositive();
            assertThat(budget - stats.bytesCommitted())
                    .as("free")
                    .isLessThan(file("a").toFile().length());
            assertThat(ask(engine, session, body(document(300, 1))).cachedTokens())
                    .isGreaterThan(300);
            assertThat(engine.kvCacheStats().prefixes().kept())
                    .isLessThan(stats.prefixes().kept());
        }
    }

    /** They go for cells of those that run, and are read when it is their turn. */
    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void savedStatesOfRequestsThatWaitTakeNoMemoryFromThoseThatRun(boolean strict) {
        List<ObjectNode> bodies = new ArrayList<>();
        List<String> alone = new ArrayList<>();
        List<Session> sessions = new ArrayList<>();
        long one;
        try (Engine engine = builder().flashAttention(FlashAttention.ON).open()) {
            for (int i = 0; i < 8; i++) {
                Session session = Session.of(store, "k" + i);
                bodies.add(body(document(100, i)).put("max_tokens", 100).put("ignore_eos", true));
                alone.add(ask(engine, session, bodies.get(i)).text());
                sessions.add((strict ? session.strict() : session).readOnly());
            }
        }
        try (Engine engine = builder().flashAttention(FlashAttention.ON).open()) {
            ask(engine, null, bodies.get(0));
            one = engine.kvCacheStats().bytesCommitted();
        }
        try (Engine engine = builder()
                .flashAttention(FlashAttention.ON)
                .slots(3)
                .kvBudget(3 * one)
                .open()) {
            for (int round = 0; round < 3; round++) {
                List<Generation> running = new ArrayList<>();
                for (int i = 0; i < 8; i++) {
                    running.add(engine.chat(bodies.get(i), sessions.get(i)));
                }
                for (int i = 0; i < 8; i++) {
                    try (Generation generation = running.get(i)) {
                        assertThat(read(generation).text()).isEqualTo(alone.get(i));
                    }
                }
                assertThat(engine.kvCacheStats().ledger().states()).isZero();
            }
        }
    }

    /** What idle slots keep goes for the copy, and one conversation after the other is saved. */
    @ParameterizedTest
    @ValueSource(strings = {"standard", "lighttransfer:1;window=64"})
    void savesOneConversationAfterTheOtherThoughIdleSlotsHaveTheBudget(String plan) {
        long one;
        long copy;
        try (Engine engine = ofPlan(plan).slots(4).open()) {
            ask(engine, Session.of(store, "first").strict(), body(document(300, 1)));
            one = engine.kvCacheStats().ledger().total();
            copy = file("first").toFile().length();
        }
        try (Engine engine =
                ofPlan(plan).slots(4).kvBudget((one + copy) * 13 / 10).open()) {
            for (int i = 0; i < 6; i++) {
                ask(engine, Session.of(store, "k" + i).strict(), body(document(300, i)));
                assertThat(file("k" + i)).exists();
            }
        }
    }

    /** Nobody has read the answer yet, so the copy is written before, and has its name when the answer has been read. */
    @ParameterizedTest
    @ValueSource(booleans = {false, true})
    void aConversationThatWaitsToBeSavedTakesNoMemoryFromOneThatRuns(boolean strict) throws Exception {
        String alone;
        long budget;
        ObjectNode large = body(document(600, 1)).put("max_tokens", 100).put("ignore_eos", true);
        try (Engine engine = ofPlan("standard").open()) {
            alone = ask(engine, null, large).text();
            budget = engine.kvCacheStats().bytesCommitted();
        }
        Session session = Session.of(store, "a");
        try (Engine engine = ofPlan("standard").slots(2).kvBudget(budget).open()) {
            for (boolean pulled : new boolean[] {false, true}) {
                try (Generation saved = engine.chat(body(document(200, 2)), strict ? session.strict() : session)) {
                    await(() -> engine.kvCacheStats().ledger().states() > 0);
                    assertThat(ask(engine, null, large).text()).isEqualTo(alone);
                    assertThat(engine.kvCacheStats().ledger().states()).isZero();
                    assertThat(file("a")).doesNotExist();
                    if (pulled) {
                        read(saved);
                    }
                }
                try (Stream<Path> files = Files.list(folder.resolve("sessions"))) {
                    assertThat(files).containsExactlyElementsOf(pulled ? List.of(file("a")) : List.of());
                }
            }
            assertThat(ask(engine, session.readOnly(), body(document(200, 2))).cachedTokens())
                    .isGreaterThan(200);
        }
    }

    /** Who runs gives way to the copy, also where its reader has stopped, and goes on when the copy is in its file. */
    @ParameterizedTest
    @CsvSource({
        "standard, false, 12",
        "standard, true, 12",
        "cla:2, false, 12",
        "streaming:64, false, 15",
        "lighttransfer:1;window=64, false, 15"
    })
    void aStrictSaveFindsTheMemoryOfRequestsThatRun(String plan, boolean pauses, int tenths) throws Exception {
        ObjectNode large = body(document(600, 1))
                .put("max_tokens", 300)
                .put("ignore_eos", true)
                .put("stream", true);
        List<String> alone = new ArrayList<>();
        long one;
        long copy;
        long most = 0;
        try (Engine engine = ofPlan(plan).slots(3).open()) {
            ask(engine, Session.of(store, "first").strict(), body(document(400, 2)));
            one = engine.kvCacheStats().bytesCommitted();
            copy = file("first").toFile().length();
        }
        try (Engine engine = ofPlan(plan).slots(3).open()) {
            for (int i = 0; i < 2; i++) {
                try (Generation running = engine.chat(large.put("seed", i))) {
                    alone.add(streamed(running));
                    most = Math.max(most, engine.kvCacheStats().bytesCommitted());
                }
            }
        }
        long budget = Math.max(most, one + copy) * tenths / 10; // a window may lie on more pages than it fills
        try (Engine engine = ofPlan(plan)
                .slots(3)
                .kvBudget(budget)
                .option("ctx-checkpoints", 0)
                .open()) {
            for (int round = 0; round < 4; round++) {
                try (Generation first = engine.chat(large.deepCopy().put("seed", 0));
                        Generation second = engine.chat(large.deepCopy().put("seed", 1))) {
                    String begun = piece(first.next());
                    Supplier<String> rest = () -> begun + streamed(first);
                    Supplier<String> other = () -> streamed(second);
                    if (pauses) {
                        awaitSteadyCells(engine);
                    } else { // somebody reads meanwhile
                        rest = CompletableFuture.supplyAsync(rest)::join;
                        other = CompletableFuture.supplyAsync(other)::join;
                    }
                    Session session = Session.of(store, "k" + round).strict();
                    ask(engine, session, body(document(400, round)));
                    assertThat(file("k" + round)).exists();
                    assertThat(rest.get()).isEqualTo(alone.get(0));
                    assertThat(other.get()).isEqualTo(alone.get(1));
                }
            }
            assertThat(engine.kvCacheStats().ledger().states()).isZero();
        }
    }

    /** Their tokens lie between its own, so that pages come back only when what is left on them is moved. */
    @ParameterizedTest
    @ValueSource(strings = {"standard", "cla:2"})
    void aStrictSaveNeedsNoMoreBesideOthersWithTheSameDocument(String plan) {
        List<ObjectNode> bodies = new ArrayList<>();
        for (int i = 0; i < 8; i++) {
            bodies.add(body(document(400, 1) + " " + document(10, i + 2))
                    .put("max_tokens", i == 0 ? 120 : 80)
                    .put("ignore_eos", true));
        }
        long one;
        long copy;
        try (Engine engine = ofPlan(plan).slots(8).open()) {
            ask(engine, Session.of(store, "alone").strict(), bodies.get(0));
            one = engine.kvCacheStats().bytesCommitted();
            copy = file("alone").toFile().length();
        }
        try (Engine engine =
                ofPlan(plan).slots(8).kvBudget((one + copy) * 21 / 20).open()) {
            for (int round = 0; round < 3; round++) {
                String key = "k" + round;
                List<Generation> running = new ArrayList<>();
                for (ObjectNode body : bodies) {
                    Session session = running.isEmpty() ? Session.of(store, key).strict() : null;
                    running.add(session == null ? engine.chat(body) : engine.chat(body, session));
                }
                for (Generation each : running) {
                    try (each) {
                        assertThat(read(each).text()).isNotEmpty();
                    }
                }
                assertThat(file(key)).exists();
            }
        }
    }

    /** Where the tokens of a window come to lie depends on what was there before. */
    @ParameterizedTest
    @CsvSource({"yoco:48, 1", "yoco:48, 2", "yoco:48, 3", "lighttransfer:1;window=32, 1", "simlayerkv:0.5;window=32, 3"
    })
    void aStrictSaveNeedsNoMoreThanInAFreshEngine(String plan, long seed) {
        Random random = new Random(seed);
        Engine.Builder builder = ofPlan(plan).slots(1).kvCacheTypes(KvType.F32, KvType.F32);
        long least;
        try (Engine engine = builder.open()) {
            ask(engine, Session.of(store, "least").strict(), body(document(80, 1)));
            least = engine.kvCacheStats().bytesCommitted()
                    + file("least").toFile().length();
        }
        try (Engine engine = builder.kvBudget(least).open()) {
            for (int i = 0; i < 60; i++) {
                ObjectNode body = body(document(5 + random.nextInt(150), i))
                        .put("max_tokens", 1 + random.nextInt(60))
                        .put("ignore_eos", true);
                if (!saves(engine, body)) {
                    try (Engine fresh = builder.open()) {
                        assertThat(saves(fresh, body))
                                .as("conversation %d in a fresh engine", i)
                                .isFalse();
                    }
                }
            }
        }
    }

    /** What is left of it was computed after tokens that a prompt of those that are left would not have. */
    @Test
    void aConversationThatLostOlderTokensIsNotSaved() {
        Session session = Session.of(store, "long");
        ObjectNode longer = body("who").put("max_tokens", 400).put("ignore_eos", true);
        try (Engine engine =
                builder().contextSize(256).option("context-shift", true).open()) {
            assertThatThrownBy(() -> ask(engine, session.strict(), longer.deepCopy()))
                    .isInstanceOf(KvStateException.class)
                    .hasMessageContaining("tokens that it lost");
            assertThat(ask(engine, session, longer.deepCopy()).text()).isNotEmpty();
            assertThat(file("long")).doesNotExist();
            ask(engine, session.strict(), body("who"));
            assertThat(file("long")).exists();
        }
    }

    /** What it takes for a window in part is given back and comes to the same again. */
    @ParameterizedTest
    @ValueSource(longs = {1, 2, 3})
    @Timeout(value = 40, threadMode = Timeout.ThreadMode.SEPARATE_THREAD)
    void aStrictSaveThatFindsNoMemoryForAWindowEnds(long seed) {
        Random random = new Random(seed);
        Engine.Builder builder = builder()
                .contextSize(512)
                .kvPlan(KvPlan.parse("lighttransfer:1;window=32;decide=end", TinyModel.LAYERS))
                .kvCacheTypes(KvType.F32, KvType.F16)
                .slots(2);
        long least = leastThatSaves(builder, body(document(90, 1)));
        int saved = 0;
        for (int pages = 0; pages < 8; pages++) {
            try (Engine engine = builder.kvBudget(least + pages * 4096L).open()) {
                for (int i = 0; i < 6; i++) {
                    ObjectNode body = body(document(20 + random.nextInt(90), random.nextLong()))
                            .put("max_tokens", 1 + random.nextInt(12))
                            .put("ignore_eos", true);
                    saved += saves(engine, body) ? 1 : 0;
                    saved += saves(engine, body) ? 1 : 0; // goes on from what is kept of the first
                }
            }
        }
        assertThat(saved).isPositive();
    }

    /** Bytes, to a page. */
    private long leastThatSaves(Engine.Builder builder, ObjectNode body) {
        long page = 4096;
        long tooFew = 0;
        long enough = 16L << 20;
        while (enough - tooFew > page) {
            long bytes = (tooFew + enough) / 2 / page * page;
            boolean saved = false;
            try (Engine engine = builder.kvBudget(bytes).open()) {
                saved = saves(engine, body);
            } catch (InvalidRequestException e) {
                assertThat(e).hasMessageContaining("one token takes");
            }
            tooFew = saved ? tooFew : bytes;
            enough = saved ? bytes : enough;
        }
        return enough;
    }

    private boolean saves(Engine engine, ObjectNode body) {
        try {
            ask(engine, Session.of(store, "any").strict(), body.deepCopy());
            return true;
        } catch (KvStateException | KvBudgetExceededException e) {
            return false;
        }
    }

    /** What a slot still holds of the answers before is longer, but nothing that a prompt could go on after. */
    @ParameterizedTest
    @ValueSource(
            strings = {
                "standard",
                "cla:2",
                "yoco:32",
                "streaming:32",
                "lighttransfer:1;window=32;decide=end",
                "standard;evict=knorm:0.5"
            })
    void aStateIsUsedAsOftenAsItIsLoaded(String plan) {
        Session session = Session.of(store, "a").strict();
        try (Engine engine = ofPlan(plan).open()) {
            String first = oneWord(engine, session, body(document(300, 1)));
            ObjectNode next = body(document(300, 1), first, document(20, 2));
            Answer loaded = ask(engine, session.readOnly(), next.deepCopy());
            assertThat(loaded.cachedTokens()).isPositive();
            for (int i = 0; i < 6; i++) {
                int tokens = i % 2 == 0 ? 60 : 8;
                Answer again = ask(engine, session.readOnly(), next.deepCopy().put("max_tokens", tokens));
                assertThat(again.cachedTokens()).isGreaterThanOrEqualTo(loaded.cachedTokens());
            }
        }
    }

    /** What it needs would come back when their readers go on, which they may never do. */
    @ParameterizedTest
    @ValueSource(ints = {6, 7, 8, 9, 10})
    void aStrictLoadWaitsForNobodyWhoIsNotRead(int quarters) throws Exception {
        ObjectNode saved = body(document(400, 2));
        ObjectNode unread = body(document(200, 1))
                .put("max_tokens", 200)
                .put("ignore_eos", true)
                .put("stream", true);
        Session session = Session.of(store, "a").strict();
        long one;
        try (Engine engine = ofPlan("standard").slots(2).open()) {
            ask(engine, session, saved);
            one = engine.kvCacheStats().bytesCommitted();
        }
        try (Engine engine =
                ofPlan("standard").slots(2).kvBudget(one * quarters / 4).open()) {
            try (Generation running = engine.chat(unread)) {
                assertThat(running.next()).isNotNull();
                awaitSteadyCells(engine);
                CompletableFuture<Answer> loaded =
                        CompletableFuture.supplyAsync(() -> ask(engine, session.readOnly(), saved));
                assertThat(loaded.get(30, TimeUnit.SECONDS).text()).isNotEmpty();
                assertThat(streamed(running)).isNotEmpty();
            }
        }
    }

    /** It is the next one to be let in when that ends, and what that holds is still to be copied. */
    @ParameterizedTest
    @ValueSource(ints = {193, 195, 197, 200, 210})
    void aStrictLoadThatWaitsTakesNothingFromAConversationThatIsSaved(int percent) throws Exception {
        ObjectNode waiting = body(document(400, 2));
        ObjectNode running = body(document(300, 1)).put("max_tokens", 60).put("ignore_eos", true);
        long one;
        try (Engine engine = ofPlan("standard").slots(2).open()) {
            ask(engine, Session.of(store, "waiting").strict(), waiting);
            one = engine.kvCacheStats().bytesCommitted();
        }
        try (Engine engine =
                ofPlan("standard").slots(2).kvBudget(one * percent / 100).open()) {
            for (int round = 0; round < 10; round++) {
                String key = "running" + round;
                try (Generation first =
                                engine.chat(running, Session.of(store, key).strict());
                        Generation second = engine.chat(
                                waiting, Session.of(store, "waiting").strict().readOnly())) {
                    assertThat(read(first).text()).isNotEmpty();
                    assertThat(file(key)).exists();
                    assertThat(read(second).text()).isNotEmpty();
                }
            }
        }
    }

    @Test
    void aCopyThatIsTooLargeBesideItsConversationIsRefusedWithBothNumbers() {
        long one;
        long copy;
        try (Engine engine = ofPlan("standard").open()) {
            ask(engine, Session.of(store, "first").strict(), body(document(400, 2)));
            one = engine.kvCacheStats().bytesCommitted();
            copy = file("first").toFile().length();
        }
        long budget = one + copy / 2;
        try (Engine engine = ofPlan("standard").slots(2).kvBudget(budget).open()) {
            assertThatThrownBy(() -> ask(engine, Session.of(store, "a").strict(), body(document(400, 2))))
                    .isInstanceOfSatisfying(KvStateException.class, e -> {
                        assertThat(e.value().orElseThrow()).isBetween(copy * 9 / 10, copy);
                        assertThat(e.limit().orElseThrow()).isBetween(budget - one, copy);
                        assertThat(e)
                                .hasMessageContaining(String.valueOf(e.value().orElseThrow()))
                                .hasMessageContaining(String.valueOf(e.limit().orElseThrow()));
                    });
            assertThat(ask(engine, Session.of(store, "a"), body(document(400, 2)))
                            .text())
                    .isNotEmpty();
        }
    }

    private static String piece(@Nullable JsonNode chunk) {
        return chunk == null ? "" : chunk.at("/choices/0/delta/content").asText("");
    }

    private static String streamed(Generation generation) {
        StringBuilder text = new StringBuilder();
        for (JsonNode chunk = generation.next(); chunk != null; chunk = generation.next()) {
            text.append(piece(chunk));
        }
        return text.toString();
    }

    private static Engine.Builder ofPlan(String plan) {
        return builder().kvPlan(KvPlan.parse(plan, TinyModel.LAYERS)).flashAttention(FlashAttention.ON);
    }

    private static void await(BooleanSupplier what) throws InterruptedException {
        while (!what.getAsBoolean()) {
            Thread.sleep(10);
        }
    }

    private static void refuses(Engine.Builder builder, Session session, String why) {
        try (Engine engine = builder.open()) {
            assertThatThrownBy(() -> ask(engine, session, body("who")))
                    .isInstanceOf(KvStateException.class)
                    .hasMessageContaining(why);
        }
    }

    @Test
    void refusesADamagedStateOrReplacesIt() throws IOException {
        String document = document(60, 1);
        Session session = Session.of(store, "a");
        try (Engine engine = small(1).option("prefix-sharing", false).open()) {
            Answer answer = ask(engine, session, body(document));
            byte[] whole = Files.readAllBytes(file("a"));
            List<byte[]> damaged = new ArrayList<>(List.of(new byte[0], Arrays.copyOf(whole, whole.length + 1)));
            Random random = new Random(1);
            for (int i = 0; i < 60; i++) {
                damaged.add(Arrays.copyOf(whole, random.nextInt(i < 30 ? 1000 : whole.length)));
                byte[] flipped = whole.clone();
                flipped[random.nextInt(i < 30 ? 1000 : whole.length)] ^= (byte) (1 << random.nextInt(8));
                damaged.add(flipped);
            }
            for (byte[] bytes : damaged) {
                Files.write(file("a"), bytes);
                assertThatThrownBy(() -> ask(engine, session.strict(), body(document)))
                        .isInstanceOf(KvStateException.class)
                        .hasMessageContaining(file("a").toString());
            }
            ask(engine, null, body(document(60, 2)));
            Answer after = ask(engine, session, body(document));
            assertThat(after.text()).isEqualTo(answer.text());
            assertThat(after.cachedTokens()).isLessThan(20);
            assertThat(Files.readAllBytes(file("a"))).hasSameSizeAs(whole);
            ask(engine, session.strict(), body(document));
        }
    }

    private Path file(String key) {
        try {
            return ((SessionDirectory) store).file(key);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    @Test
    void savesNothingOfARequestThatIsNotPulledToItsEnd() {
        try (Engine engine = small(1).open()) {
            Session session = Session.of(store, "a").strict();
            try (Generation generation = engine.chat(body("who"), session)) {
                assertThat(generation.next()).isNotNull();
            }
            try (Generation generation = engine.chat(body("who").put("stream", true), session)) {
                assertThat(generation.next()).isNotNull();
                generation.cancel();
            }
            assertThat(file("a")).doesNotExist();
        }
    }

    @Test
    void takesOnePromptAndOneAnswer() {
        try (Engine engine = small(2).open()) {
            Session session = Session.of(store, "a");
            assertThatThrownBy(() -> ask(engine, session, body("who").put("n", 2)))
                    .isInstanceOf(InvalidRequestException.class)
                    .hasMessageContaining("one prompt and one answer");
            assertThatThrownBy(() -> engine.start("/v1/embeddings", body("who"), session))
                    .isInstanceOf(InvalidRequestException.class)
                    .hasMessageContaining("/v1/embeddings");
        }
    }

    /** A store that keeps states elsewhere than in files. */
    private static final class Memory implements SessionStore {
        private final Map<String, byte[]> states = new ConcurrentHashMap<>();
        private volatile @Nullable Exception failure;

        @Override
        public boolean load(String key, Path file) throws IOException {
            check();
            byte[] state = states.get(key);
            if (state != null) {
                Files.write(file, state);
            }
            return state != null;
        }

        @Override
        public void save(String key, Path file) throws IOException {
            check();
            states.put(key, Files.readAllBytes(file));
        }

        @Override
        public void delete(String key) {
            states.remove(key);
        }

        private void check() {
            Exception thrown = failure;
            if (thrown != null) {
                Memory.<RuntimeException>sneak(thrown);
            }
        }

        /** As a store in Kotlin throws what no signature tells of. */
        @SuppressWarnings("unchecked")
        private static <E extends Exception> void sneak(Exception thrown) throws E {
            throw (E) thrown;
        }
    }

    static List<Exception> failures() {
        return List.of(
                new IOException("the store is broken"),
                new IllegalStateException("the store is broken"),
                new TimeoutException("the store is broken"));
    }

    @ParameterizedTest
    @MethodSource("failures")
    void takesAStoreOfTheCallers(Exception failure) {
        Memory memory = new Memory();
        Session session = Session.of(memory, "a");
        String document = document(300, 1);
        try (Engine engine = small(1).open()) {
            ask(engine, session, body(document));
        }
        try (Engine engine = small(1).open()) {
            assertThat(ask(engine, session, body(document)).cachedTokens()).isGreaterThan(300);
            memory.failure = failure;
            assertThat(ask(engine, session, body(document)).text()).isNotEmpty();
            assertThatThrownBy(() -> ask(engine, session.strict(), body(document)))
                    .isInstanceOf(KvStateException.class)
                    .hasMessageContaining("the store is broken");
        }
    }

    @Test
    void sharesAFolderWithAnotherProcess() throws Exception {
        String output = new ForkedJvm()
                .withRealLibrary()
                .run(Asking.class, model.toString(), folder.resolve("sessions").toString())
                .outputOfSuccess();
        assertThat(output).contains("asked");
        try (Engine engine = small(1).open()) {
            Answer answer = ask(engine, Session.of(store, "a").strict(), body(document(300, 1) + " why"));
            assertThat(answer.cachedTokens()).isGreaterThan(300);
        }
    }

    static final class Asking {
        private Asking() {}

        public static void main(String[] args) {
            model = Path.of(args[0]);
            try (Engine engine = small(1).open()) {
                Session session = Session.of(SessionStore.directory(Path.of(args[1])), "a");
                ask(engine, session, body(document(300, 1) + " who"));
            }
            System.out.println("asked");
        }
    }

    @Test
    void seesWholeStatesWhileOthersWriteThem() throws Exception {
        Session session = Session.of(store, "a").strict();
        try (Engine engine = small(2).open();
                Engine other = small(2).open()) {
            List<Thread> writers = new ArrayList<>();
            List<Throwable> failures = new CopyOnWriteArrayList<>();
            for (Engine each : List.of(engine, engine, other)) {
                Thread writer = new Thread(() -> {
                    for (int i = 0; i < 15; i++) {
                        ask(each, session, body(document(100 + i, i)));
                    }
                });
                writer.setUncaughtExceptionHandler((thread, failure) -> failures.add(failure));
                writer.start();
                writers.add(writer);
            }
            for (Thread writer : writers) {
                writer.join();
            }
            assertThat(failures).isEmpty();
        }
        try (Stream<Path> files = Files.list(folder.resolve("sessions"))) {
            assertThat(files).containsExactly(file("a"));
        }
    }

    @Test
    void pausesASlotThatNobodyReads() throws Exception {
        ObjectNode body = body("who").put("stream", true).put("max_tokens", 600).put("ignore_eos", true);
        body.putObject("stream_options").put("include_usage", true);
        try (Engine engine = small(2).open();
                Generation slow = engine.chat(body)) {
            assertThat(slow.next()).isNotNull();
            long used = awaitSteadyCells(engine);
            assertThat(used).isLessThan(200);
            assertThat(engine.kvCacheStats().slotsBusy()).isEqualTo(1);

            assertThat(ask(engine, null, body("why")).text()).isNotEmpty(); // another slot goes on meanwhile

            JsonNode usage = Json.MAPPER.missingNode();
            for (JsonNode chunk = slow.next(); chunk != null; chunk = slow.next()) {
                usage = chunk.has("usage") ? chunk.path("usage") : usage;
            }
            assertThat(usage.path("completion_tokens").asInt()).isEqualTo(600);
        }
    }

    @Test
    void cancelsASlotThatPauses() throws Exception {
        ObjectNode body = body("who").put("stream", true).put("max_tokens", 600).put("ignore_eos", true);
        try (Engine engine = small(1).open()) {
            try (Generation slow = engine.chat(body)) {
                assertThat(slow.next()).isNotNull();
                awaitSteadyCells(engine);
            }
            assertThat(ask(engine, null, body("why")).text()).isNotEmpty();
        }
    }

    private static long awaitSteadyCells(Engine engine) throws InterruptedException {
        long before = -1;
        for (long now = engine.kvCacheStats().cellsUsed();
                now != before;
                now = engine.kvCacheStats().cellsUsed()) {
            before = now;
            Thread.sleep(300);
        }
        return before;
    }
}
