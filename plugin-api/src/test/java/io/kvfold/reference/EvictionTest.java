package io.kvfold.reference;

import static io.kvfold.reference.AnswersTogether.GAP;
import static io.kvfold.reference.AnswersTogether.assertSame;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.Generation;
import io.kvfold.InvalidPlanException;
import io.kvfold.KvBudgetExceededException;
import io.kvfold.KvCacheStats;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.RealLibrary;
import io.kvfold.reference.Shape.Architecture;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.TimeUnit;
import java.util.stream.IntStream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Tokens that are evicted at the end of a prompt, beside the other things that a server does with a KV cache. */
@Timeout(value = 5, unit = TimeUnit.MINUTES)
final class EvictionTest {
    private static final int LAYERS = 4;
    private static final int ANSWER = 24;
    private static final Shape SHAPE = new Shape(Architecture.LLAMA, 96, 48, 80, 8, 4, 64, 1e-5, 10000);
    private static final ComparedModel MODEL = ComparedModel.forAnyPlan(SHAPE, LAYERS, 1);

    @TempDir
    private static Path folder;

    @SuppressWarnings("NullAway.Init")
    private static Path file;

    @BeforeAll
    static void writeModel() throws IOException {
        RealLibrary.require();
        file = MODEL.writeForText(folder.resolve("model.gguf"), KvPlan.standard(LAYERS));
    }

    /** Prompts that are evaluated end where the first logits are asked for. */
    @Test
    void aKeptTokenIsSeenAndAnEvictedOneIsNot() {
        int[] tokens = MODEL.tokens(200, 1);
        try (Engine engine = builder("standard;evict=streaming:64", 1).open();
                Engine whole = builder("standard", 1).open()) {
            assertThat(largestDifference(row(engine, tokens, 150), row(whole, tokens, 150)))
                    .as("the last token of the prompt sees all of it")
                    .isLessThan(1e-3);
            assertThat(largestDifference(row(engine, tokens, 151), row(whole, tokens, 151)))
                    .as("the next one does not")
                    .isGreaterThan(1e-2);
        }
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "standard;evict=knorm:40",
                "standard;evict=keydiff:0.3",
                "standard;evict=lagkv:40;lag=8;skip=0",
                "cla:2;evict=streaming:40",
                "lckv:2;evict=knorm:40",
                "yoco:32;evict=keydiff:40",
                "standard;evict=snapkv:40;queries=16",
                "cla:2;evict=tova:0.3",
                "standard;evict=pyramidkv:40;queries=8",
                "standard;evict=chunkkv:40;queries=16;chunk=5",
                "cla:2;evict=observed:40",
                "standard;evict=knorm:40;at=chunk:32",
                "cla:2;evict=snapkv:40;queries=16;at=chunk:48",
                "cla:2;evict=expected:40;future=32",
                "standard;evict=knorm:40;answer=8",
                "cla:2;evict=tova:0.3;answer=10",
                "standard;evict=lagkv:40;lag=8;at=chunk:32;answer=16;skip=0",
                "standard;evict=h2o:40;answer=8",
                "cla:2;evict=rkv:40;answer=10",
                "standard;evict=h2o:40;sample=4",
                "cla:2;evict=keyformer:40;answer=8;steps=10",
                "standard;evict=corm:60;queries=16;newest=8;answer=10"
            })
    void aConversationGoesOnWithWhatIsLeft(String plan) {
        try (Engine engine = builder(plan, 2).open();
                Engine fresh = builder(plan, 1).open()) {
            Turn first = Turn.of(engine, MODEL.tokens(120, 1));
            Turn second = first.then(engine, MODEL.tokens(30, 2));
            if (!plan.startsWith("yoco")) { // llama.cpp wants a checkpoint to go on with a window
                // queries of the answer may be computed again, since they are among those that decide
                assertThat(second.cached()).isBetween(120, 120 + ANSWER - 1);
            }
            assertThat(second.then(engine, MODEL.tokens(25, 3)).answer.path("tokens"))
                    .hasSize(ANSWER);

            // the same prompt again, and one that departs where tokens are evicted, are computed anew
            Turn again = Turn.of(engine, MODEL.tokens(120, 1));
            assertSame(plan + ", again", first.answer, again.answer, GAP);
            assertSame(
                    plan + ", again in the same slot", first.answer, Turn.of(engine, MODEL.tokens(120, 1)).answer, GAP);
            int[] departing = MODEL.tokens(120, 1);
            departing[60]++;
            assertSame(plan + ", departing", Turn.of(fresh, departing).answer, Turn.of(engine, departing).answer, GAP);
        }
    }

    /** Pooling needs all of a text in one batch, so that it is not cut where a prompt is. */
    @ParameterizedTest
    @CsvSource({
        "mean, standard;evict=knorm:1000;at=chunk:16, standard",
        "cls, standard;evict=keydiff:1000;at=chunk:16, standard",
        "last, standard;evict=knorm:1000;at=chunk:16, standard",
        "mean, standard;lazy=1;window=16;sinks=4;queries=4;decide=early, standard;lazy=1;window=16;sinks=4;queries=4;decide=end",
    })
    void aTextThatIsEmbeddedIsComputedAsAWhole(String pooling, String plan, String uncut) {
        assertThat(embedding(plan, pooling)).containsExactly(embedding(uncut, pooling), within(1e-5));
    }

    private double[] embedding(String plan, String pooling) {
        try (Engine engine = builder(plan, 1)
                .ubatchSize(128)
                .option("embeddings", true)
                .option("pooling", pooling)
                .open()) {
            ObjectNode text = JsonNodeFactory.instance.objectNode();
            Arrays.stream(MODEL.tokens(120, 1)).forEach(text.putArray("input")::add);
            JsonNode vector =
                    engine.call("/v1/embeddings", text).path("data").path(0).path("embedding");
            return IntStream.range(0, vector.size())
                    .mapToDouble(i -> vector.get(i).asDouble())
                    .toArray();
        }
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "standard;evict=knorm:40",
                "cla:2;evict=lagkv:40;lag=8",
                "standard;evict=keydiff:40;answer=8",
                "cla:2;evict=tova:40;answer=8",
                "standard;evict=h2o:40;answer=8",
                "cla:2;evict=rkv:40;answer=8",
                "standard;evict=keyformer:40;answer=8",
                "cla:2;evict=corm:60;queries=16;newest=8;answer=8"
            })
    void severalAnswersToAPromptShareWhatIsLeft(String plan) {
        try (Engine engine = builder(plan, 3).open()) {
            int[] prompt = MODEL.tokens(100, 1);
            Turn alone = Turn.of(engine, prompt);
            try (Generation three = engine.complete(request(prompt).put("n_cmpl", 3))) {
                for (JsonNode each : Objects.requireNonNull(three.next())) {
                    assertSame(plan, alone.answer, each, GAP);
                }
            }
            Turn next = alone.then(engine, MODEL.tokens(30, 2));
            try (Engine other = builder(plan, 1).open()) {
                Turn expected = Turn.of(other, prompt).then(other, MODEL.tokens(30, 2));
                assertSame(plan + ", next turn", expected.answer, next.answer, GAP);
            }
            assertThat(next.cached()).isPositive();
        }
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "standard;evict=knorm:40",
                "cla:2;evict=keydiff:0.4",
                "standard;evict=streaming:40;skip=1",
                "cla:2;evict=snapkv:40;queries=16",
                "standard;evict=keydiff:40;answer=8",
                "cla:2;evict=tova:40;answer=8",
                "standard;evict=h2o:40;answer=8",
                "standard;evict=rkv:40;answer=10",
                "cla:2;evict=keyformer:40;answer=8",
                "standard;evict=corm:60;queries=16;newest=8;answer=10"
            })
    void draftsDoNotChangeAnAnswer(String plan) {
        try (Engine plain = builder(plan, 1).open();
                Engine drafting = builder(plan, 1)
                        .option("spec-type", "draft-simple")
                        .option("spec-draft-model", file.toString())
                        .option("spec-draft-n-max", 7)
                        .option("spec-draft-p-min", 0)
                        .open()) {
            Turn first = Turn.of(plain, MODEL.tokens(100, 1));
            Turn drafted = Turn.of(drafting, MODEL.tokens(100, 1));
            assertSame(plan, first.answer, drafted.answer, GAP);
            assertSame(
                    plan + ", next turn",
                    first.then(plain, MODEL.tokens(30, 2)).answer,
                    first.then(drafting, MODEL.tokens(30, 2)).answer,
                    GAP);
        }
    }

    @Test
    void aDraftModelThatEvictsDuringItsAnswerIsRefused() throws IOException {
        Path draft = MODEL.writeForText(
                folder.resolve("draft.gguf"), KvPlan.parse("standard;evict=knorm:40;answer=8", LAYERS));
        Engine.Builder builder =
                builder("standard", 1).option("spec-type", "draft-simple").option("spec-draft-model", draft.toString());
        assertThatThrownBy(builder::open)
                .isInstanceOf(InvalidPlanException.class)
                .hasMessageContaining("answer=8");
    }

    /** The youngest gives its cells up in the middle of its second answer, and gets the same ones back. */
    @ParameterizedTest
    @ValueSource(
            strings = {
                "standard;evict=knorm:40",
                "cla:2;evict=lagkv:0.4;lag=8",
                "standard;evict=pyramidkv:40;queries=8",
                "standard;evict=snapkv:100;queries=80", // more than the second prompt has
                "standard;evict=observed:40",
                "standard;evict=keydiff:40;at=chunk:32",
                "standard;evict=expected:40;future=32;at=chunk:64",
                "cla:2;evict=tova:100;at=chunk:64",
                "standard;evict=keydiff:140;answer=16",
                "cla:2;evict=tova:140;at=chunk:32;answer=10",
                "cla:2;evict=h2o:0.6;answer=24",
                "standard;evict=rkv:140;answer=24",
                "standard;evict=keyformer:0.6;answer=24;steps=50",
                "cla:2;evict=keyformer:140;answer=16",
                "standard;evict=corm:140;queries=32;newest=16;answer=24"
            })
    void aSuspendedConversationLosesTheSameTokensAgain(String plan) {
        Engine.Builder builder = builder(plan, 4).contextSize(512).option("kv-unified-per-slot", 512);
        JsonNode expected;
        try (Engine engine = builder.open()) {
            Turn first = Turn.of(engine, MODEL.tokens(150, 1));
            expected = first.then(engine, MODEL.tokens(60, 2), 150).answer;
        }
        try (Engine engine = builder.open()) {
            Turn first = Turn.of(engine, MODEL.tokens(150, 1));
            List<Generation> older = new ArrayList<>();
            for (int i = 0; i < 3; i++) {
                older.add(engine.complete(request(MODEL.tokens(20, 10 + i)).put("n_predict", 400)));
            }
            Turn second = first.then(engine, MODEL.tokens(60, 2), 150);
            assertSame(plan, expected, second.answer, GAP);
            assertThat(second.cached()).isPositive();
            assertThat(engine.kvCacheStats().preemptions()).isPositive();
            older.forEach(Generation::close);
        }
    }

    /** With rows of keys and values that fill pages. */
    private Engine.Builder wide(KvType type, int contextSize) throws IOException {
        Shape shape = new Shape(Architecture.LLAMA, 96, 48, 80, 8, 8, 128, 1e-5, 10000);
        Path model = ComparedModel.forAnyPlan(shape, LAYERS, 1)
                .writeForText(folder.resolve("wide.gguf"), KvPlan.standard(LAYERS));
        return Engine.builder()
                .model(model)
                .contextSize(contextSize)
                .slots(1)
                .threads(2)
                .kvCacheTypes(type, type)
                .flashAttention(FlashAttention.ON);
    }

    @ParameterizedTest
    @CsvSource({"knorm, F16, 1", "streaming, Q8_0, 1", "keydiff, Q4_0, 2"})
    void memoryIsThatOfTheBudget(String method, KvType type, int cla) throws IOException {
        try (Engine engine = wide(type, 4096)
                .kvPlan(KvPlan.parse("cla:" + cla + ";evict=" + method + ":512", LAYERS))
                .open()) {
            engine.call("/completion", request(MODEL.tokens(4000, 1)).put("n_predict", 2));
            long row = engine.kvCacheStats().bytesPerToken();
            KvCacheStats stats = engine.kvCacheStats();
            assertThat(stats.bytesCommitted()).isBetween(512 * row, (long) (1.05 * 512 * row));
            assertThat(stats.evictions().prompts()).isEqualTo(1);
            assertThat(stats.evictions().bytes()).isEqualTo((4000 - 512) * row);
            assertThat(stats.evictions().byLayer())
                    .hasSize(LAYERS / cla)
                    .allSatisfy(layer ->
                            assertThat(List.of(layer.kept(), layer.evicted())).containsExactly(512L, 3488L));
            System.out.printf(
                    "%s, keys and values in %s, layers in groups of %d: %,d bytes for 512 of 4000 tokens (%,d in rows), %.3f s%n",
                    method,
                    type,
                    cla,
                    stats.bytesCommitted(),
                    512 * row,
                    stats.evictions().seconds());
        }
    }

    /** Which is a hard limit: the same answer would not fit if nothing were evicted from it. */
    @ParameterizedTest
    @CsvSource({"knorm, F16, 1", "streaming, Q4_0, 2", "tova, F16, 2", "h2o, F16, 1", "keyformer, Q4_0, 1"})
    void aLongAnswerFitsIntoTheMemoryOfBudgetAndPart(String method, KvType type, int cla) throws IOException {
        String plan = "cla:" + cla + ";evict=" + method + ":256";
        long row = (long) (2 * 8 * 128 * (type == KvType.F16 ? 2 : 18.0 / 32) * LAYERS / cla);
        long most = (long) (1.05 * (256 + 64) * row);
        Engine.Builder builder = wide(type, 4096).kvBudget(most);
        ObjectNode body = request(MODEL.tokens(200, 1)).put("n_predict", 2000);
        try (Engine engine =
                builder.kvPlan(KvPlan.parse(plan + ";answer=64", LAYERS)).open()) {
            JsonNode answer = engine.call("/completion", body);
            assertThat(answer.path("tokens")).hasSize(2000);
            KvCacheStats stats = engine.kvCacheStats();
            assertThat(stats.bytesPerToken()).isEqualTo(row);
            assertThat(stats.bytesCommitted()).isBetween(256 * row, most);
            assertThat(stats.evictions().prompts()).isEqualTo(1);
            assertThat(stats.evictions().byLayer()).allSatisfy(layer -> {
                assertThat(layer.kept()).isEqualTo(256);
                assertThat(layer.kept() + layer.evicted()).isEqualTo(2199 / 64 * 64);
            });
            System.out.printf(
                    "%s, keys and values in %s, layers in groups of %d: %,d bytes behind an answer of 2000 tokens, never more than %,d, %.3f s%n",
                    method,
                    type,
                    cla,
                    stats.bytesCommitted(),
                    most,
                    stats.evictions().seconds());
        }
        try (Engine engine = builder.kvPlan(KvPlan.parse(plan, LAYERS)).open()) {
            assertThatThrownBy(() -> engine.call("/completion", body)).isInstanceOf(KvBudgetExceededException.class);
        }
    }

    /** Who else is there changes neither what is evicted nor when. */
    @ParameterizedTest
    @ValueSource(
            strings = {
                "standard;evict=keydiff:40;answer=16",
                "cla:2;evict=tova:0.3;answer=10",
                "cla:2;evict=h2o:40;answer=10;skip=0",
                "standard;evict=rkv:0.4;at=chunk:32;answer=12",
                "cla:2;evict=keyformer:40;answer=10;skip=0",
                "standard;evict=corm:40;queries=20;newest=8;at=chunk:32;answer=12"
            })
    void longAnswersAreThoseOfTheRequestsAlone(String plan) {
        List<ObjectNode> bodies = IntStream.range(0, 6)
                .mapToObj(i -> request(MODEL.tokens(30 + 15 * i, i)).put("n_predict", 150))
                .toList();
        List<JsonNode> alone;
        try (Engine engine = builder(plan, 1).open()) {
            alone = bodies.stream()
                    .map(body -> engine.call("/completion", body))
                    .toList();
        }
        try (Engine engine = builder(plan, 3).open()) {
            List<Generation> together = bodies.stream().map(engine::complete).toList();
            for (int i = 0; i < bodies.size(); i++) {
                assertSame(
                        plan + ", request " + i,
                        alone.get(i),
                        Objects.requireNonNull(together.get(i).next()),
                        GAP);
                together.get(i).close();
            }
            assertThat(engine.kvCacheStats().evictions().prompts()).isEqualTo(6);
        }
    }

    /** Layers of which some keep more rows than others fill as many cells as the largest of them. */
    @ParameterizedTest
    @ValueSource(
            strings = {
                "standard;evict=pyramidkv:256;queries=8;beta=16",
                "cla:2;evict=pyramidkv:256;queries=8;beta=16;at=chunk:512",
                "standard;evict=knorm:200;skip=3",
                "standard;evict=knorm:200"
            })
    void bytesInUseAreThoseOfTheRowsThatEachLayerHas(String plan) throws IOException {
        try (Engine engine = wide(KvType.F16, 4096)
                .slots(2)
                .kvPlan(KvPlan.parse(plan, LAYERS))
                .open()) {
            for (int prompts = 1; prompts <= 2; prompts++) {
                engine.call("/completion", request(MODEL.tokens(1500, prompts)).put("n_predict", 5));
                KvCacheStats stats = engine.kvCacheStats();
                long row = stats.byLayer().get(0).bytesPerToken();
                long answers = 4L * prompts; // the last token of each is not computed
                List<Long> expected = stats.evictions().byLayer().stream()
                        .map(layer -> (layer.kept() + answers) * row)
                        .toList();
                assertThat(stats.byLayer())
                        .extracting(KvCacheStats.Layer::bytesInUse)
                        .containsExactlyElementsOf(expected);
                long sum = expected.stream().mapToLong(Long::longValue).sum();
                assertThat(stats.bytesInUse()).isEqualTo(sum);
                assertThat(stats.bySlot())
                        .extracting(KvCacheStats.Slot::bytesInUse)
                        .containsExactlyInAnyOrder(sum / prompts, prompts == 1 ? 0 : sum / prompts);
            }
        }
    }

    /** Which is a hard limit: without chunks the same prompt is refused. */
    @ParameterizedTest
    @CsvSource({"knorm, F16, 1", "streaming, Q4_0, 2", "tova, F16, 2"})
    void aLongPromptInChunksFitsIntoTheMemoryOfBudgetAndChunk(String method, KvType type, int cla) throws IOException {
        String plan = "cla:" + cla + ";evict=" + method + ":512";
        long row = (long) (2 * 8 * 128 * (type == KvType.F16 ? 2 : 18.0 / 32) * LAYERS / cla);
        Engine.Builder builder = wide(type, 33_000)
                .kvBudget((long) (1.05 * (512 + 256) * row))
                .option("override-kv", "llama.context_length=int:33000");
        ObjectNode body = request(MODEL.tokens(32_768, 1)).put("n_predict", 2);
        try (Engine engine =
                builder.kvPlan(KvPlan.parse(plan + ";at=chunk:256", LAYERS)).open()) {
            engine.call("/completion", body);
            KvCacheStats stats = engine.kvCacheStats();
            assertThat(stats.bytesPerToken()).isEqualTo(row);
            assertThat(stats.bytesCommitted()).isBetween(512 * row, (long) (1.05 * 512 * row));
            assertThat(stats.evictions().prompts()).isEqualTo(1);
            assertThat(stats.evictions().byLayer())
                    .allSatisfy(layer ->
                            assertThat(List.of(layer.kept(), layer.evicted())).containsExactly(512L, 32_768L - 512));
            System.out.printf(
                    "%s, keys and values in %s, layers in groups of %d: %,d bytes for 512 of 32768 tokens (%,d in rows), never more than %,d, %.3f s%n",
                    method,
                    type,
                    cla,
                    stats.bytesCommitted(),
                    512 * row,
                    (long) (1.05 * (512 + 256) * row),
                    stats.evictions().seconds());
        }
        try (Engine engine = builder.kvPlan(KvPlan.parse(plan, LAYERS)).open()) {
            assertThatThrownBy(() -> engine.call("/completion", body)).isInstanceOf(KvBudgetExceededException.class);
        }
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "standard;evict=knorm | budget",
                "standard;evict=knorm:0 | 0",
                "standard;evict=knorm:1.5 | 1.5",
                "standard;evict=knorm:0.0 | above 0",
                "standard;evict=knorm:-1 | -1",
                "standard;evict=oracle:64 | oracle",
                "standard;evict=knorm:64;lag=8 | lag",
                "standard;evict=lagkv:64;lag=1 | 2 to",
                "standard;evict=knorm:64;skip=4 | 4",
                "standard;evict=knorm:64;queries=8 | queries",
                "standard;evict=snapkv:64 | last 64",
                "standard;evict=snapkv:100;kernel=4 | odd",
                "lckv:2;evict=snapkv:100 | upward",
                "standard;evict=knorm:64;skip=0_1_2_3 | no layer",
                "standard;lag=8 | evict=METHOD:BUDGET",
                "standard;at=chunk | evict=METHOD:BUDGET",
                "standard;evict=knorm:64;at=chunk:8 | 16 to",
                "standard;evict=knorm:64;at=soon | soon",
                "standard;evict=snapkv:100;at=chunk:32 | last 64",
                "standard;evict=observed:64;at=chunk | all queries",
                "standard;answer=64 | evict=METHOD:BUDGET",
                "standard;evict=knorm:64;answer=0 | 1 to",
                "standard;evict=knorm:64;answer=x | x",
                "standard;evict=rkv:64;answer=7 | last 8",
                "standard;evict=corm:256 | last 256",
                "standard;evict=corm:300;newest=0 | 1 to",
                "lckv:2;evict=corm:300 | upward",
                "standard;evict=keyformer:64;recency=101 | 0 to 100",
                "standard;evict=keyformer:64;queries=8 | queries",
                "lckv:2;evict=keyformer:64 | upward",
                "standard;evict=h2o:64;sample=0 | 1 to",
                "standard;evict=snapkv:100;answer=64 | knorm, keydiff, lagkv, streaming, tova",
                "standard;evict=observed:100;answer=64 | answer=64",
                "standard;evict=expected:100;answer=64 | expected looks at the queries of a prompt",
                "standard;evict=knorm:64;evict=knorm:64 | twice",
                "simlayerkv:0.9;evict=knorm:64 | lazy layers",
                "streaming:64;evict=knorm:64 | no layer",
                "0_1_1s_3;window=8;evict=knorm:64 | layer 2",
            })
    void aPlanThatCannotBeKeptIsRefusedByBothParsersNamingWhy(String text, String why) {
        RefusedPlan.check(file, LAYERS, text, why);
    }

    /** A prompt of a conversation, and what was answered. */
    private record Turn(int[] prompt, JsonNode answer) {
        static Turn of(Engine engine, int[] prompt) {
            return new Turn(prompt, engine.call("/completion", request(prompt)));
        }

        Turn then(Engine engine, int[] more) {
            return then(engine, more, ANSWER);
        }

        Turn then(Engine engine, int[] more, int length) {
            List<Integer> all = new ArrayList<>(Arrays.stream(prompt).boxed().toList());
            answer.path("tokens").forEach(token -> all.add(token.asInt()));
            Arrays.stream(more).forEach(all::add);
            int[] next = all.stream().mapToInt(Integer::intValue).toArray();
            return new Turn(next, engine.call("/completion", request(next).put("n_predict", length)));
        }

        int cached() {
            return answer.at("/timings/cache_n").asInt();
        }
    }

    private static ObjectNode request(int[] prompt) {
        return AnswersTogether.request(prompt, ANSWER, 1).put("cache_prompt", true);
    }

    private static float[] row(Engine engine, int[] tokens, int position) {
        List<float[]> rows = new ArrayList<>();
        engine.evaluate(tokens, 150, (from, logits) -> {
            for (int i = 0; i < logits.tokens(); i++) {
                rows.add(new float[logits.vocabularySize()]);
                logits.copyRow(i, rows.get(rows.size() - 1));
            }
        });
        return rows.get(position - 150);
    }

    private static double largestDifference(float[] a, float[] b) {
        double largest = 0;
        for (int i = 0; i < a.length; i++) {
            largest = Math.max(largest, Math.abs(a[i] - b[i]));
        }
        return largest;
    }

    private static Engine.Builder builder(String plan, int slots) {
        return Engine.builder()
                .model(file)
                .kvPlan(KvPlan.parse(plan, LAYERS))
                .slots(slots)
                .contextSize(1024)
                .threads(1)
                .ubatchSize(64)
                .kvCacheTypes(KvType.F32, KvType.F32)
                .flashAttention(FlashAttention.OFF);
    }
}
