package io.kvfold.reference;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.InvalidRequestException;
import io.kvfold.KeptTokens;
import io.kvfold.KeysAndValues;
import io.kvfold.KvCacheStats;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.RealLibrary;
import io.kvfold.UnsupportedOperationByModelException;
import io.kvfold.reference.Shape.Architecture;
import java.io.IOException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Objects;
import java.util.function.ToDoubleFunction;
import java.util.stream.IntStream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Which tokens the engine says that it keeps, against plain loops over what the model computes without eviction. */
final class KeptTokensTest {
    private static final int LAYERS = 4;
    private static final int TOKENS = 150;
    private static final Shape SHAPE = new Shape(Architecture.LLAMA, 96, 48, 80, 8, 4, 64, 1e-5, 10000);
    private static final int GROUP = SHAPE.heads() / SHAPE.kvHeads();
    private static final ComparedModel MODEL = ComparedModel.forAnyPlan(SHAPE, LAYERS, 1);
    private static final int[] PROMPT = MODEL.tokens(TOKENS, 3);

    @TempDir
    private static Path folder;

    @SuppressWarnings("NullAway.Init")
    private static Path file;

    @BeforeAll
    static void writeModel() throws IOException {
        RealLibrary.require();
        file = MODEL.writeForText(folder.resolve("model.gguf"), KvPlan.standard(LAYERS));
    }

    @ParameterizedTest
    @ValueSource(ints = {16, 64, 512})
    void knormKeepsTheShortestKeys(int ubatch) {
        double[][][][] keys = keys();
        try (Engine engine =
                builder("standard;evict=knorm:40").ubatchSize(ubatch).open()) {
            KeptTokens kept = engine.keptTokens(PROMPT);
            assertThat(kept.tokens()).isEqualTo(TOKENS);
            assertThat(kept.positions()).hasDimensions(LAYERS, SHAPE.kvHeads());
            for (int layer = 0; layer < LAYERS; layer++) {
                for (int head = 0; head < SHAPE.kvHeads(); head++) {
                    double[][] of = keys[layer][head];
                    assertHighest(kept.positions()[layer][head], 40, token -> -norm(of[token]));
                }
            }
        }
    }

    /** In the lowest layer keys do not depend on what was evicted before. */
    @ParameterizedTest
    @CsvSource({
        "150, standard;evict=keydiff:40",
        "32, standard;evict=keydiff:40;at=chunk:32",
        "50, cla:2;evict=keydiff:40;at=chunk:50"
    })
    void keydiffKeepsTheKeysThatAreLeastLikeTheirMeanChunkByChunk(int chunk, String plan) {
        double[][][] keys = keys()[0];
        try (Engine engine = builder(plan).open()) {
            int[][][] kept = engine.keptTokens(PROMPT).positions();
            for (int head = 0; head < SHAPE.kvHeads(); head++) {
                double[][] of = keys[head];
                int[] left = {};
                for (int n = 0; n < TOKENS; ) {
                    int end = Math.min(TOKENS, n + chunk);
                    left = IntStream.concat(Arrays.stream(left), IntStream.range(n, end))
                            .toArray();
                    double[] mean = new double[SHAPE.headSize()];
                    for (int token : left) {
                        for (int i = 0; i < mean.length; i++) {
                            mean[i] += of[token][i] / norm(of[token]);
                        }
                    }
                    left = highest(left, 40, token -> -dot(of[token], mean) / norm(of[token]));
                    n = end;
                }
                assertThat(kept[0][head]).as("head %d", head).containsExactly(left);
            }
        }
    }

    @ParameterizedTest
    @CsvSource({
        "standard;evict=streaming:40",
        "standard;evict=streaming:40;at=chunk:64",
        "cla:2;evict=streaming:40;at=chunk:32",
        "lckv:2;evict=streaming:40",
        "standard;evict=streaming:0.2;skip=1_3",
        "yoco:20;evict=streaming:40;sinks=3",
    })
    void streamingKeepsTheFirstAndTheMostRecentOnes(String text) {
        KvPlan plan = KvPlan.parse(text, LAYERS);
        int sinks = Objects.requireNonNull(
                plan.eviction().orElseThrow().parameters().get("sinks"));
        try (Engine engine = builder(text).open()) {
            KeptTokens kept = engine.keptTokens(PROMPT);
            for (int layer = 0; layer < LAYERS; layer++) {
                int owner = plan.kvLayer(layer);
                int first = plan.keepsOnlyWindow(owner)
                        ? TOKENS - plan.window().orElseThrow()
                        : TOKENS - (int) plan.eviction().orElseThrow().budget(owner, LAYERS, TOKENS) + sinks;
                int[] expected = IntStream.range(0, TOKENS)
                        .filter(token -> token < sinks || token >= first)
                        .toArray();
                for (int[] head : kept.positions()[layer]) {
                    assertThat(head).as("layer %d", layer).containsExactly(expected);
                }
            }
        }
    }

    @ParameterizedTest
    @CsvSource({"standard, 16", "cla:2, 16", "standard, 1", "cla:2, 1"})
    void whatTheLastQueriesAttendToIsKept(String map, int queries) {
        String evict = queries == 1 ? "tova:40" : "snapkv:40;kernel=1;queries=" + queries;
        KvPlan plan = KvPlan.parse(map, LAYERS);
        double[][][] votes = new double[LAYERS][SHAPE.kvHeads()][TOKENS];
        ReferenceModel.Sequence sequence = MODEL.reference(plan).newSequence();
        sequence.observe((layer, head, query, key, probability) -> {
            if (query >= TOKENS - queries) {
                votes[plan.kvLayer(layer)][head / GROUP][key] += probability;
                if (queries == 1) { // which is the same for all heads
                    for (int other = 0; other < SHAPE.kvHeads(); other++) {
                        votes[plan.kvLayer(layer)][other][key] += other == head / GROUP ? 0 : probability;
                    }
                }
            }
        });
        for (int token : PROMPT) {
            sequence.append(1, token);
        }
        try (Engine engine = builder(map + ";evict=" + evict).open()) {
            KeptTokens kept = engine.keptTokens(PROMPT);
            for (int layer = 0; layer < LAYERS; layer++) {
                for (int head = 0; head < SHAPE.kvHeads(); head++) {
                    double[] of = votes[plan.kvLayer(layer)][head];
                    assertHighest(
                            kept.positions()[layer][head],
                            40,
                            token -> token >= TOKENS - queries ? Double.MAX_VALUE : of[token]);
                }
            }
        }
    }

    /** However many these are: each layer keeps as many as the head of it that has the most. */
    @ParameterizedTest
    @CsvSource({"standard, 1", "cla:2, 1", "standard, 3"})
    void whatOneOfTheLastQueriesAttendsToMoreThanToTheAverageIsKept(String map, int queries) {
        KvPlan plan = KvPlan.parse(map, LAYERS);
        int newest = 10;
        boolean[][][] wanted = new boolean[LAYERS][SHAPE.kvHeads()][TOKENS];
        for (boolean[][] heads : wanted) {
            for (boolean[] head : heads) {
                Arrays.fill(head, TOKENS - newest, TOKENS, true);
            }
        }
        ReferenceModel.Sequence sequence = MODEL.reference(plan).newSequence();
        sequence.observe((layer, head, query, key, probability) -> {
            if (query >= TOKENS - queries && probability >= 1.0 / (query + 1)) {
                wanted[plan.kvLayer(layer)][head / GROUP][key] = true;
            }
        });
        for (int token : PROMPT) {
            sequence.append(1, token);
        }
        try (Engine engine = builder(map + ";evict=corm:1.0;newest=" + newest + ";queries=" + queries)
                .open()) {
            KeptTokens kept = engine.keptTokens(PROMPT);
            for (int layer = 0; layer < LAYERS; layer++) {
                boolean[][] of = wanted[plan.kvLayer(layer)];
                int[][] expected = Arrays.stream(of)
                        .map(head -> IntStream.range(0, TOKENS)
                                .filter(token -> head[token])
                                .toArray())
                        .toArray(int[][]::new);
                int most = Arrays.stream(expected)
                        .mapToInt(head -> head.length)
                        .max()
                        .orElseThrow();
                assertThat(most).isLessThan(TOKENS);
                for (int head = 0; head < SHAPE.kvHeads(); head++) {
                    assertThat(kept.positions()[layer][head])
                            .as("layer %d, head %d", layer, head)
                            .hasSize(most)
                            .contains(expected[head]);
                }
            }
        }
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "standard;evict=pyramidkv:40;queries=8;beta=4",
                "standard;evict=lagkv:0.3;lag=16;at=chunk:64;skip=2",
                "cla:2;evict=chunkkv:40;queries=16;chunk=7",
                "standard;evict=observed:40",
                "cla:2;evict=expected:40;at=chunk:64",
                "standard;evict=keyformer:40;at=chunk:64",
                "cla:2;evict=corm:60;queries=16;newest=8",
            })
    void asManyAsARequestLeaves(String text) {
        KvPlan plan = KvPlan.parse(text, LAYERS);
        try (Engine engine = builder(text).open()) {
            KeptTokens kept = engine.keptTokens(PROMPT);
            engine.call("/completion", AnswersTogether.request(PROMPT, 2, 1));
            assertThat(engine.kvCacheStats().evictions().byLayer())
                    .containsExactlyElementsOf(IntStream.range(0, LAYERS)
                            .filter(plan::isProducer)
                            .mapToObj(layer -> new KvCacheStats.Evictions.LayerRows(
                                    layer, kept.kept(layer), TOKENS - kept.kept(layer)))
                            .toList());
            for (int layer = 0; layer < LAYERS; layer++) {
                assertThat(kept.kept(layer)).isLessThanOrEqualTo((int)
                        plan.eviction().orElseThrow().budget(plan.kvLayer(layer), LAYERS, TOKENS));
                assertThat(Arrays.stream(kept.shares(layer)).sum()).isCloseTo(kept.kept(layer), within(1e-9));
            }
        }
    }

    @Test
    void whatIsNoMoreThanTheBudgetStaysAndWithoutEvictionNothingIsSaid() {
        try (Engine engine = builder("standard;evict=knorm:150").open()) {
            assertThat(engine.keptTokens(PROMPT).positions()[3][1])
                    .containsExactly(IntStream.range(0, TOKENS).toArray());
            assertThatThrownBy(engine::keptTokens).isInstanceOf(InvalidRequestException.class);
            assertThatThrownBy(() -> engine.keptTokens(1, 96)).isInstanceOf(InvalidRequestException.class);
        }
        try (Engine engine = builder("cla:2").open()) {
            assertThatThrownBy(() -> engine.keptTokens(PROMPT))
                    .isInstanceOf(UnsupportedOperationByModelException.class)
                    .hasMessageContaining("the KV plan 0_0_2_2 evicts no tokens");
        }
    }

    /** [layer][head][token][element], of all tokens. */
    private static double[][][][] keys() {
        try (Engine engine = builder("standard").open()) {
            KeysAndValues all = engine.keysAndValues(PROMPT);
            double[][][][] keys = new double[LAYERS][SHAPE.kvHeads()][TOKENS][SHAPE.headSize()];
            for (int layer = 0; layer < LAYERS; layer++) {
                for (int head = 0; head < SHAPE.kvHeads(); head++) {
                    for (int token = 0; token < TOKENS; token++) {
                        for (int i = 0; i < SHAPE.headSize(); i++) {
                            keys[layer][head][token][i] =
                                    all.keys()[layer][token * all.width() + head * SHAPE.headSize() + i];
                        }
                    }
                }
            }
            return keys;
        }
    }

    private static int[] highest(int[] of, int count, ToDoubleFunction<Integer> score) {
        return Arrays.stream(of)
                .boxed()
                .sorted((a, b) -> Double.compare(score.applyAsDouble(b), score.applyAsDouble(a)))
                .limit(count)
                .mapToInt(Integer::intValue)
                .sorted()
                .toArray();
    }

    /** As far as scores can be told apart. */
    private static void assertHighest(int[] kept, int count, ToDoubleFunction<Integer> score) {
        assertThat(kept).hasSize(count).isSorted().doesNotHaveDuplicates();
        double lowest =
                Arrays.stream(kept).mapToDouble(score::applyAsDouble).min().orElseThrow();
        double highest = IntStream.range(0, TOKENS)
                .filter(token -> Arrays.binarySearch(kept, token) < 0)
                .mapToDouble(score::applyAsDouble)
                .max()
                .orElseThrow();
        assertThat(lowest).isGreaterThanOrEqualTo(highest - 1e-4 * Math.abs(highest));
    }

    private static double norm(double[] x) {
        return Math.sqrt(dot(x, x));
    }

    private static double dot(double[] a, double[] b) {
        return IntStream.range(0, a.length).mapToDouble(i -> a[i] * b[i]).sum();
    }

    private static Engine.Builder builder(String plan) {
        return Engine.builder()
                .model(file)
                .kvPlan(KvPlan.parse(plan, LAYERS))
                .slots(1)
                .contextSize(256)
                .threads(1)
                .ubatchSize(64)
                .kvCacheTypes(KvType.F32, KvType.F32)
                .flashAttention(FlashAttention.OFF);
    }
}
