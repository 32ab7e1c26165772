package io.kvfold.reference;

import static java.util.Objects.requireNonNull;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.KvPlan;
import io.kvfold.KvPlan.Partition;
import io.kvfold.KvPlan.Position;
import io.kvfold.KvType;
import io.kvfold.Logits;
import io.kvfold.RealLibrary;
import io.kvfold.UnsupportedOperationByModelException;
import io.kvfold.reference.Shape.Architecture;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Logits of the native engine, KV cache in float32, against the reference: within 1e-3, and within 3e-2 where flash
 * attention rounds keys and values to float16, which it does if no layer reads upward.
 */
final class FoldedEngineTest {
    private static final Map<FlashAttention, Double> TOLERANCE =
            new TreeMap<>(Map.of(FlashAttention.OFF, 1e-3, FlashAttention.ON, 3e-2));
    private static final int TOKENS = 40;

    @TempDir
    private static Path folder;

    @BeforeAll
    static void needsTheLibrary() {
        RealLibrary.require();
    }

    @ParameterizedTest
    @CsvSource({"LLAMA", "QWEN2", "QWEN3", "EXAONE"})
    void theStandardPlanIsTheOrdinaryModel(Architecture architecture) throws IOException {
        ComparedModel model = ComparedModel.forAnyPlan(Shape.tiny(architecture), 5, 5);
        compare(model, KvPlan.standard(5), model.write(folder.resolve("standard.gguf")), null, 1, 16);
    }

    @ParameterizedTest
    @CsvSource({
        "llama, 0_1_2_3_4_5_6_7",
        "cla2, 0_0_2_2_4_4_6_6",
        "lckv_w2, 0_6x6_7;passes=9",
        "lckv_w2_nodiag, 0_6x6_7;strict;passes=9",
        "yoco_sw8, 0s_1s_2s_3s_4_4_4_4;window=9",
    })
    void theGoldenModelsGiveTheGoldenLogits(String name, String text) throws IOException {
        assumeTrue(
                Files.isDirectory(Golden.folder(name)), "NOT compared with golden vectors: no " + Golden.folder(name));
        Golden golden = Golden.read(Golden.folder(name));
        KvPlan plan = KvPlan.parse(text);
        Path file = ComparedModel.of(golden.shape(), plan.layers(), golden.weights())
                .write(folder.resolve("golden.gguf"), plan);
        Map<Integer, String> expected = Map.of(
                1, "logits_exact_sequential",
                16, "logits_prefill16x2_iter9_then_decode8", // the last chunk is of 8, exact with 9 passes
                32, "logits_prefill32_iter9_then_decode8");
        for (Map.Entry<Integer, String> column : expected.entrySet()) {
            for (FlashAttention flash : TOLERANCE.keySet()) {
                double[][] actual = logits(file, plan, null, column.getKey(), flash, golden.tokens());
                assertThat(LogitDifference.greatest(golden.expectedRows(column.getValue()), actual))
                        .as("%s, ubatch %d, flash attention %s", name, column.getKey(), flash)
                        .isLessThanOrEqualTo(tolerance(plan, flash));
            }
        }
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "pizza-bottom:3",
                "pizza-middle:3",
                "pizza-top:3",
                "sandwich-bottom:3",
                "sandwich-middle:3",
                "sandwich-top:3",
                "lasagna-bottom:3",
                "lasagna-middle:3",
                "lasagna-top:3",
                "cla:keep-ends",
                "cla:dense-back",
                "yoco:8",
                "lckv:0",
                "lckv:2;strict",
                "lckv:2;passes=3",
                "cla:2;strict",
                "pizza-top:1;strict;passes=4",
                "0_2_1_3_5_4_6_6", // mutual
                "0_3_1_5_4_7_2_6",
                "7_6_5_4_3_2_1_0",
                "0s_1s_1s_3s_3s_0_6s_6s;window=5",
                "0_6s_6_6s_6s_6_6s_7;window=6",
                "0s_2s_1_5s_3_4s_7s_6;window=7;strict;passes=5",
            })
    void aFoldedModelGivesTheLogitsOfTheReference(String text) throws IOException {
        KvPlan plan = withPasses(KvPlan.parse(text, 8), 9);
        ComparedModel model = ComparedModel.forPlan(Shape.tiny(Architecture.LLAMA), plan, text.hashCode());
        compare(model, plan, model.write(folder.resolve("folded.gguf"), plan), null, 1, 16);
    }

    @ParameterizedTest
    @CsvSource({
        "QWEN2, 0_4x4_5",
        "QWEN2, 0_2_1_5_4_3;strict",
        "QWEN2, 0s_1s_1_3_3_3;window=4",
        "QWEN3, 0_4x4_5",
        "QWEN3, 0_2_1_5_4_3;strict",
        "QWEN3, 0s_1s_1_3_3_3;window=4",
        "EXAONE, 0_1_1_3_3_0",
        "EXAONE, 0_1s_2_3s_4s_5;window=6;sinks=3",
        "EXAONE, 0_0s_0s_3s_4_4s;window=6",
        "EXAONE, 0_1_1_3_3_0;strict",
        "EXAONE, 0s_1s_1_3_3_3;window=4",
        "EXAONE, 0s_1s_2s_3_3_3;window=5",
        "PHI3, 0_1_1_3_3_0",
        "PHI3, 0s_1s_2s_3_3_3;window=5",
        "EXAONE, 0s_1_2s_3_3_5s;window=6;sinks=2",
        "PHI3, 0s_1_2s_3_3_5s;window=6;sinks=2",
    })
    void otherArchitecturesAreFoldedToo(Architecture architecture, String text) throws IOException {
        KvPlan plan = withPasses(KvPlan.parse(text), 9);
        ComparedModel model = ComparedModel.forPlan(Shape.tiny(architecture), plan, text.hashCode());
        compare(model, plan, model.write(folder.resolve("other.gguf"), plan), null, 5, 16);
    }

    @ParameterizedTest
    @ValueSource(strings = {"0_4x4_5", "5x6;strict", "0_3_1_5_2_4", "0_4s_4s_4s_4_5;window=6"})
    void anExactPrefillIsThatOfOneTokenAtATime(String text) throws IOException {
        KvPlan plan = KvPlan.parse(text).withPrefillPasses(0);
        ComparedModel model = ComparedModel.forPlan(Shape.tiny(Architecture.LLAMA), plan, text.hashCode());
        compare(model, plan, model.write(folder.resolve("exact.gguf"), plan), null, 16, 32);
    }

    /** A small type errs about as much as in the ordinary model; somewhat more, as the readers of a row share its error. */
    @ParameterizedTest
    @CsvSource({
        "F16, F16, ON",
        "F16, F16, OFF",
        "BF16, BF16, ON",
        "Q8_0, Q8_0, ON",
        "Q8_0, F16, OFF",
        "Q4_0, Q4_0, ON",
        "Q4_0, F16, OFF",
        "Q5_1, Q8_0, ON",
    })
    void keysAndValuesMayBeQuantised(KvType keys, KvType values, FlashAttention flash) throws IOException {
        double ordinary = quantisationError(KvPlan.standard(8), keys, values, flash);
        for (String text : List.of(
                "cla:2",
                "lckv:2;exact",
                "0_2_1_3_5_4_6_6;exact",
                "0s_1s_1s_3s_4x4;window=6",
                "0_1s_2_3s_4_5s_6_7s;window=6;sinks=3")) {
            assertThat(quantisationError(KvPlan.parse(text, 8), keys, values, flash))
                    .as(text)
                    .isLessThan(4 * ordinary);
        }
    }

    private static double quantisationError(KvPlan plan, KvType keys, KvType values, FlashAttention flash)
            throws IOException {
        ComparedModel model = ComparedModel.forPlan(Shape.tiny(Architecture.LLAMA), plan, 1);
        Path file = model.write(folder.resolve("quantised.gguf"), plan);
        int[] tokens = model.tokens(TOKENS, 3);
        return LogitDifference.rootMeanSquare(
                model.reference(plan).sequential(tokens), logits(file, plan, null, 16, flash, keys, values, tokens));
    }

    /** The window-sized cache has 256 cells here. */
    @ParameterizedTest
    @ValueSource(
            strings = {
                "0s_1s_2s_3_3_3;window=8",
                "0s_1s_1s_1s_4_0s;window=50",
                "0_4s_4s_4s_4s_5;window=8;passes=9", // iterates in the window-sized cache
                "0_4s_4_4s_4s_5s;window=30;passes=9",
                "0s_2s_1s_5s_4_3s;window=20;strict;exact",
                "0_1s_2s_3_4s_5;window=20;sinks=4",
                "0s_1s_2s_3s_4s_5s;window=24;sinks=4", // StreamingLLM
                "0_0s_2s_2s_4_5s;window=20;sinks=3", // layer 0 keeps all for one of its two readers
                "0_4s_4s_4s_4s_5;window=16;sinks=5;passes=9",
                "0s_2s_1s_5s_4_3s;window=20;sinks=4;strict;exact",
            })
    void aWindowSizedCacheIsUsedOverAndOver(String text) throws IOException {
        KvPlan plan = KvPlan.parse(text);
        ComparedModel model = ComparedModel.forPlan(Shape.tiny(Architecture.LLAMA), plan, text.hashCode());
        Path file = model.write(folder.resolve("window.gguf"), plan);
        int[] tokens = model.tokens(plan.sinks() > 0 ? 900 : 600, 3);
        double[][] expected =
                model.reference(plan).chunked(tokens, 32, plan.prefillPasses().orElse(1));
        if (plan.prefillPasses().orElse(1) == 0) {
            expected = model.reference(plan).sequential(tokens);
        }
        for (FlashAttention flash : TOLERANCE.keySet()) {
            assertThat(LogitDifference.greatest(expected, logits(file, plan, null, 32, flash, tokens)))
                    .as("flash attention %s", flash)
                    .isLessThanOrEqualTo(tolerance(plan, flash));
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"cla:2", "lckv:2;passes=9", "sandwich-middle:3;strict;passes=6", "yoco:6"})
    void aPlanCanBeOverriddenWhenTheModelIsOpened(String text) throws IOException {
        KvPlan plan = KvPlan.parse(text, 6);
        ComparedModel model = ComparedModel.forAnyPlan(Shape.tiny(Architecture.LLAMA), 6, 6);
        compare(model, plan, model.write(folder.resolve("plain.gguf")), plan, 16);
        Path other = model.write(folder.resolve("made-for-another.gguf"), KvPlan.parse("0_2_2_3_5_5;passes=2"));
        compare(model, plan, other, plan, 16);
    }

    @Test
    void theStandardPlanOverridesAFoldedOne() throws IOException {
        ComparedModel model = ComparedModel.forAnyPlan(Shape.tiny(Architecture.LLAMA), 6, 6);
        Path file = model.write(folder.resolve("folded-with-all-weights.gguf"), KvPlan.parse("0_4x4_5"));
        compare(model, KvPlan.standard(6), file, KvPlan.standard(6), 16);
    }

    @Test
    void aModelWithoutTokenizerTakesTokenIdsAndRefusesText() throws IOException {
        Path file = ComparedModel.forAnyPlan(Shape.tiny(Architecture.LLAMA), 2, 6)
                .write(folder.resolve("ids-only.gguf"), KvPlan.standard(2));
        JsonNode body = JsonNodeFactory.instance.objectNode().put("prompt", "a").put("n_predict", 1);
        try (Engine engine =
                Engine.builder().model(file).threads(1).contextSize(64).open()) {
            for (String route :
                    List.of("/completion", "/v1/chat/completions", "/v1/embeddings", "/v1/rerank", "/apply-template")) {
                assertThatThrownBy(() -> engine.call(route, body))
                        .isInstanceOf(UnsupportedOperationByModelException.class)
                        .hasMessageContaining("has no tokenizer");
            }
            assertThatThrownBy(() -> engine.tokenize("a", true, true))
                    .isInstanceOf(UnsupportedOperationByModelException.class);
            assertThatThrownBy(() -> engine.detokenize(1)).isInstanceOf(UnsupportedOperationByModelException.class);
            assertThat(engine.evaluate(1, 2).tokens()).isEqualTo(2);
        }
    }

    @Test
    @Tag("slow")
    void allNineMapsWithAllCountsOfKvLayers() throws IOException {
        double[] greatest = new double[2];
        int plans = 0;
        for (int layers : new int[] {1, 2, 3, 5, 6, 9, 12}) {
            for (int kvLayers = 1; kvLayers <= layers; kvLayers += kvLayers < 4 ? 1 : 3) {
                for (Partition partition : Partition.values()) {
                    for (Position position : Position.values()) {
                        KvPlan plan =
                                KvPlan.of(partition, position, layers, kvLayers).withPrefillPasses(9);
                        ComparedModel model = ComparedModel.forPlan(Shape.tiny(Architecture.LLAMA), plan, plans++);
                        Path file = model.write(folder.resolve("nine.gguf"), plan);
                        double[] differences = compare(model, plan, file, null, 1, 5, 16, 32);
                        greatest[0] = Math.max(greatest[0], differences[0]);
                        greatest[1] = Math.max(greatest[1], differences[1]);
                    }
                }
            }
        }
        System.out.printf("%d plans: flash attention off %.1e, on %.1e%n", plans, greatest[0], greatest[1]);
    }

    static Stream<Integer> seeds() {
        return IntStream.range(0, 80).boxed();
    }

    @ParameterizedTest
    @MethodSource("seeds")
    @Tag("slow")
    void aRandomMapGivesTheLogitsOfTheReference(int seed) throws IOException {
        Random random = new Random(seed);
        Architecture architecture = List.of(Architecture.LLAMA, Architecture.QWEN2, Architecture.QWEN3)
                .get(random.nextInt(3));
        KvPlan plan = randomPlan(random, 1 + random.nextInt(10));
        ComparedModel model = ComparedModel.forPlan(Shape.tiny(architecture), plan, seed);
        compare(model, plan, model.write(folder.resolve("random.gguf"), plan), null, 1, 5, 16, 32);
    }

    /** Mostly folded onto a few layers, sometimes onto any, with and without windows. */
    private static KvPlan randomPlan(Random random, int layers) {
        int[] producers = random.ints(1 + random.nextInt(4), 0, layers).toArray();
        boolean any = random.nextInt(3) == 0;
        int[] map = IntStream.range(0, layers)
                .map(i -> any ? random.nextInt(layers) : producers[random.nextInt(producers.length)])
                .toArray();
        KvPlan plan = KvPlan.of(map).withStrictDiagonal(random.nextInt(3) == 0).withPrefillPasses(random.nextInt(13));
        int[] windowed =
                IntStream.range(0, layers).filter(i -> random.nextInt(3) == 0).toArray();
        return windowed.length == 0 || random.nextBoolean() ? plan : plan.withWindow(1 + random.nextInt(20), windowed);
    }

    private static KvPlan withPasses(KvPlan plan, int passes) {
        return plan.prefillPasses().isPresent() ? plan : plan.withPrefillPasses(passes);
    }

    /** Compares at each ubatch size, without and with flash attention, and returns the greatest difference of each. */
    private static double[] compare(
            ComparedModel model, KvPlan plan, Path file, @Nullable KvPlan override, int... ubatchSizes) {
        int[] tokens = model.tokens(TOKENS, 3);
        ReferenceModel reference = model.reference(plan);
        List<String> failures = new ArrayList<>();
        double[] greatest = new double[2];
        for (int ubatchSize : ubatchSizes) {
            int passes = plan.prefillPasses().orElse(1);
            double[][] expected =
                    passes == 0 ? reference.sequential(tokens) : reference.chunked(tokens, ubatchSize, passes);
            for (FlashAttention flash : TOLERANCE.keySet()) {
                double difference =
                        LogitDifference.greatest(expected, logits(file, plan, override, ubatchSize, flash, tokens));
                int which = flash == FlashAttention.ON ? 1 : 0;
                greatest[which] = Math.max(greatest[which], difference);
                if (!(difference <= tolerance(plan, flash))) {
                    failures.add("ubatch " + ubatchSize + ", flash attention " + flash + ": " + difference);
                }
            }
        }
        assertThat(failures).as("plan %s, greatest differences of logits", plan).isEmpty();
        return greatest;
    }

    /** Of layers that read upward flash attention takes keys and values in float32, as they are here. */
    private static double tolerance(KvPlan plan, FlashAttention flash) {
        return requireNonNull(TOLERANCE.get(plan.isUpward() ? FlashAttention.OFF : flash));
    }

    private static double[][] logits(
            Path file, KvPlan plan, @Nullable KvPlan override, int ubatchSize, FlashAttention flash, int[] tokens) {
        return logits(file, plan, override, ubatchSize, flash, KvType.F32, KvType.F32, tokens);
    }

    private static double[][] logits(
            Path file,
            KvPlan plan,
            @Nullable KvPlan override,
            int ubatchSize,
            FlashAttention flash,
            KvType keys,
            KvType values,
            int[] tokens) {
        Engine.Builder builder = Engine.builder()
                .model(file)
                .contextSize(256)
                .slots(1)
                .threads(1)
                .ubatchSize(ubatchSize)
                .flashAttention(flash)
                .kvCacheTypes(keys, values);
        if (plan.isUpward()) {
            builder.option("kv-prefill", "fixed");
        }
        if (override != null) {
            builder.kvPlan(override);
        }
        try (Engine engine = builder.open()) {
            return rows(engine.evaluate(tokens));
        }
    }

    private static double[][] rows(Logits logits) {
        double[][] rows = new double[logits.tokens()][logits.vocabularySize()];
        for (int t = 0; t < rows.length; t++) {
            for (int v = 0; v < rows[t].length; v++) {
                rows[t][v] = logits.get(t, v);
            }
        }
        return rows;
    }
}
