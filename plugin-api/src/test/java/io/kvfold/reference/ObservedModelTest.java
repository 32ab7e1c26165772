package io.kvfold.reference;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.InvalidRequestException;
import io.kvfold.KeysAndValues;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.RealLibrary;
import io.kvfold.TinyModel;
import io.kvfold.UnsupportedOperationByModelException;
import io.kvfold.gguf.GgufFile;
import io.kvfold.reference.Shape.Architecture;
import io.kvfold.search.RetentionSearch;
import io.kvfold.search.SharingSearch;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.stream.DoubleStream;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** What the engine says about the inside of a model, and what is searched with it, against the reference. */
final class ObservedModelTest {
    private static final int LAYERS = 6;

    @TempDir
    private static Path folder;

    @BeforeAll
    static void needsTheLibrary() {
        RealLibrary.require();
    }

    @ParameterizedTest
    @CsvSource({"LLAMA, OFF, standard", "QWEN2, ON, standard", "QWEN3, OFF, cla:2", "LLAMA, OFF, lckv:2;exact"})
    void hiddenStatesAreThoseOfTheReference(Architecture architecture, FlashAttention flash, String text)
            throws IOException {
        KvPlan plan = KvPlan.parse(text, LAYERS);
        ComparedModel model = ComparedModel.forAnyPlan(Shape.tiny(architecture), LAYERS, 3);
        int[] tokens = model.tokens(40, 4);
        double[][] expected = new double[tokens.length][];
        ReferenceModel.Sequence sequence = model.reference(plan).newSequence();
        for (int t = 0; t < tokens.length; t++) {
            sequence.append(1, tokens[t]);
            expected[t] = sequence.hiddenStates()[0];
        }
        try (Engine engine = open(model, plan, flash, KvType.Q8_0)) {
            assertThat(greatest(expected, engine.hiddenStates(tokens)))
                    .isLessThan(flash == FlashAttention.ON ? 3e-2 : 1e-3);
        }
    }

    @ParameterizedTest
    @CsvSource({"QWEN2, OFF", "QWEN3, ON"}) // the halves of a Llama head are interleaved in a GGUF file
    void keysAndValuesAreThoseOfTheReference(Architecture architecture, FlashAttention flash) throws IOException {
        ComparedModel model = ComparedModel.forAnyPlan(Shape.tiny(architecture), LAYERS, 5);
        int[] tokens = model.tokens(40, 6);
        ReferenceModel.Sequence sequence =
                model.reference(KvPlan.standard(LAYERS)).newSequence();
        sequence.append(1, tokens);
        try (Engine engine = open(model, KvPlan.standard(LAYERS), flash, KvType.F16)) {
            KeysAndValues actual = engine.keysAndValues(tokens);
            assertThat(actual.tokens()).isEqualTo(40);
            assertThat(actual.width()).isEqualTo(Shape.tiny(architecture).kvWidth());
            for (int layer = 0; layer < LAYERS; layer++) {
                double tolerance = flash == FlashAttention.ON ? 3e-2 : 1e-3;
                assertThat(greatest(flat(sequence.keys(layer)), actual.keys()[layer]))
                        .isLessThan(tolerance);
                assertThat(greatest(flat(sequence.values(layer)), actual.values()[layer]))
                        .isLessThan(tolerance);
            }
        }
    }

    @ParameterizedTest
    @CsvSource({
        "LLAMA, standard, 4, 8, 5",
        "QWEN2, standard, 0, 1, 16",
        "QWEN3, standard, 3, 20, 1",
        "LLAMA, cla:2, 2, 11, 7",
        "LLAMA, 0_1s_2s_3_4s_4;window=20;sinks=3, 2, 6, 7",
        "LLAMA, lckv:2;exact, 2, 6, 7",
    })
    void retainedAttentionIsTheMassOfTheReferencesProbabilities(
            Architecture architecture, String text, int sinks, int recent, int queries) throws IOException {
        KvPlan plan = KvPlan.parse(text, LAYERS);
        ComparedModel model = ComparedModel.forAnyPlan(Shape.tiny(architecture), LAYERS, 7);
        int[] tokens = model.tokens(60, 8);
        double[] mass = new double[LAYERS];
        ReferenceModel.Sequence sequence = model.reference(plan).newSequence();
        sequence.observe((layer, head, query, key, probability) -> {
            if (query >= tokens.length - queries && (key < sinks || query - key < recent)) {
                mass[layer] += probability / queries / Shape.tiny(architecture).heads();
            }
        });
        for (int token : tokens) {
            sequence.append(1, token);
        }
        try (Engine engine = open(model, plan, FlashAttention.ON, KvType.F16)) {
            float[] actual = engine.retainedAttention(sinks, recent, queries, tokens);
            for (int layer = 0; layer < LAYERS; layer++) {
                assertThat((double) actual[layer]).as("layer %d", layer).isCloseTo(mass[layer], within(1e-4));
                assertThat(actual[layer]).isBetween(0.01f, 0.9999f);
            }
        }
    }

    @Test
    void theLazyLayersOfATrainedModelAreThoseOfTheReferencesProbabilities() {
        Path stories = TinyModel.stories();
        GgufFile file = GgufFile.open(stories);
        Shape shape = TrainedModel.shape(file);
        KvPlan plan = KvPlan.standard(5);
        RetentionSearch search = new RetentionSearch(4, 40, 32);
        try (Engine engine =
                builder(stories, FlashAttention.ON, KvType.F16).ubatchSize(64).open()) {
            String text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
                    + " One day, she saw a big red ball. She wanted to play with it, but it was too high in a tree. Her"
                    + " friend Tom came and helped her. They played with the ball all day and were very happy. Then the"
                    + " sun went down and they went home.";
            int[] tokens = engine.tokenize(text, true, false);
            double[] mass = new double[5];
            ReferenceModel.Sequence sequence =
                    new ReferenceModel(shape, plan, TrainedModel.weights(file)).newSequence();
            sequence.observe((layer, head, query, key, probability) -> {
                if (query >= tokens.length - 32 && (key < 4 || query - key < 40)) {
                    mass[layer] += probability / 32 / shape.heads();
                }
            });
            sequence.append(1, tokens);

            double[] scores = search.scores(engine, List.of(tokens));
            System.out.println("stories260K, scores of its layers: " + Arrays.toString(scores));
            assertThat(tokens.length).isGreaterThan(110);
            assertThat(scores).containsExactly(mass, within(1e-4));
            for (double threshold : new double[] {0, 0.65, 0.8, 0.85, 0.9, 1}) {
                int[] expected = IntStream.range(0, 5)
                        .filter(layer -> threshold == 0 || mass[layer] > threshold)
                        .toArray();
                assertThat(RetentionSearch.lazyLayers(scores, threshold)).isEqualTo(expected);
            }
        }
    }

    @ParameterizedTest
    @CsvSource({"QWEN2, 2, -1", "QWEN2, 4, 0.5", "LLAMA, 3, 0.6", "QWEN3, 5, 0.9"})
    void theSharingSearchFindsThePlanThatTheReferenceFinds(Architecture architecture, int wanted, double threshold)
            throws IOException {
        ComparedModel model = ComparedModel.forAnyPlan(Shape.tiny(architecture), LAYERS, 9);
        Path file = model.write(folder.resolve("search.gguf"));
        List<int[]> sequences = List.of(model.tokens(12, 1), model.tokens(12, 2), model.tokens(12, 3));
        List<String> expected = referenceSearch(model, sequences, wanted, threshold);

        List<String> heard = new ArrayList<>();
        SharingSearch.Result result = new SharingSearch(sequences, wanted, threshold)
                .run(
                        plan -> builder(file, FlashAttention.OFF, KvType.F16)
                                .kvPlan(plan)
                                .open(),
                        LAYERS,
                        (trial, shared, of) -> heard.add(trial.plan() + (trial.accepted() ? " yes" : " no")));

        assertThat(heard).isEqualTo(expected).isNotEmpty();
        assertThat(result.trials()).hasSameSizeAs(heard);
        assertThat(result.shared()).isEqualTo(LAYERS - result.plan().kvLayerCount());
        assertThat(heard.stream().filter(trial -> trial.endsWith("yes"))).hasSize(result.shared());
    }

    /** The search in its own words: which plans are tried, and which are accepted. */
    private static List<String> referenceSearch(
            ComparedModel model, List<int[]> sequences, int wanted, double threshold) {
        ReferenceModel plain = model.reference(KvPlan.standard(LAYERS));
        double[][][] stored = new double[2][LAYERS][];
        for (int[] tokens : sequences) {
            ReferenceModel.Sequence sequence = plain.newSequence();
            sequence.append(1, tokens);
            for (int layer = 0; layer < LAYERS; layer++) {
                stored[0][layer] = sum(stored[0][layer], flat(sequence.keys(layer)));
                stored[1][layer] = sum(stored[1][layer], flat(sequence.values(layer)));
            }
        }
        List<int[]> pairs = new ArrayList<>();
        for (int a = 0; a < LAYERS; a++) {
            for (int b = 0; b < a; b++) {
                pairs.add(new int[] {b, a});
            }
        }
        pairs.sort(Comparator.comparingDouble(
                pair -> -norm(stored[0][pair[0]], stored[0][pair[1]]) - norm(stored[1][pair[0]], stored[1][pair[1]])));
        double[] original = finalStates(model, KvPlan.standard(LAYERS), sequences);
        List<String> trials = new ArrayList<>();
        int[] map = IntStream.range(0, LAYERS).toArray();
        for (int[] pair : pairs) {
            long shared = IntStream.range(0, LAYERS)
                    .filter(layer -> isShared(layer, trials))
                    .count();
            if (shared == wanted || isShared(pair[1], trials)) {
                continue;
            }
            int[] candidate = map.clone();
            candidate[pair[1]] = pair[0];
            for (int round = 0; round < LAYERS; round++) { // follow chains down to the layer that stores
                for (int layer = 0; layer < LAYERS; layer++) {
                    candidate[layer] = candidate[candidate[layer]];
                }
            }
            KvPlan plan = KvPlan.of(candidate);
            double[] states = finalStates(model, plan, sequences);
            double cosine = dot(original, states) / Math.sqrt(dot(original, original) * dot(states, states));
            trials.add(plan + (cosine > threshold ? " yes" : " no"));
            map = cosine > threshold ? candidate : map;
        }
        return trials;
    }

    private static boolean isShared(int layer, List<String> trials) {
        return trials.stream()
                .filter(trial -> trial.endsWith(" yes"))
                .anyMatch(trial -> KvPlan.parse(trial.replace(" yes", "")).kvLayer(layer) != layer);
    }

    private static double[] finalStates(ComparedModel model, KvPlan plan, List<int[]> sequences) {
        double[] all = {};
        for (int[] tokens : sequences) {
            ReferenceModel.Sequence sequence = model.reference(plan).newSequence();
            sequence.append(1, tokens);
            double[] states = flat(sequence.hiddenStates());
            all = DoubleStream.concat(Arrays.stream(all), Arrays.stream(states)).toArray();
        }
        return all;
    }

    @Test
    void whatCannotBeObservedSaysWhy() throws IOException {
        ComparedModel model = ComparedModel.forAnyPlan(Shape.tiny(Architecture.LLAMA), LAYERS, 1);
        try (Engine engine = open(model, KvPlan.parse("cla:2", LAYERS), FlashAttention.OFF, KvType.F16)) {
            assertThatThrownBy(() -> engine.keysAndValues(1, 2, 3))
                    .isInstanceOf(UnsupportedOperationByModelException.class)
                    .hasMessageContaining("layer 1 does not store");
            assertThatThrownBy(() -> engine.retainedAttention(4, 10, 5, 1, 2, 3))
                    .isInstanceOf(InvalidRequestException.class)
                    .hasMessageContaining("\"queries\" is 5 but the sequence has 3 tokens");
            assertThatThrownBy(() -> engine.retainedAttention(-1, 10, 1, 1, 2, 3))
                    .isInstanceOf(InvalidRequestException.class)
                    .hasMessageContaining("\"sinks\" is -1");
            assertThatThrownBy(() -> engine.retainedAttention(0, 0, 1, 1, 2, 3))
                    .isInstanceOf(InvalidRequestException.class)
                    .hasMessageContaining("\"recent\" is 0");
            assertThatThrownBy(() -> engine.hiddenStates(1, 96)).isInstanceOf(InvalidRequestException.class);
            assertThatThrownBy(engine::hiddenStates).isInstanceOf(InvalidRequestException.class);
        }
    }

    private static Engine open(ComparedModel model, KvPlan plan, FlashAttention flash, KvType type) throws IOException {
        return builder(model.write(folder.resolve("observed.gguf")), flash, type)
                .kvPlan(plan)
                .open();
    }

    private static Engine.Builder builder(Path file, FlashAttention flash, KvType type) {
        KvType values = flash == FlashAttention.OFF ? KvType.F16 : type; // quantised values need flash attention
        return Engine.builder()
                .model(file)
                .contextSize(256)
                .slots(1)
                .threads(1)
                .ubatchSize(16)
                .flashAttention(flash)
                .kvCacheTypes(type, values);
    }

    private static double greatest(double[][] expected, float[][] actual) {
        assertThat(actual).hasDimensions(expected.length, expected[0].length);
        return IntStream.range(0, expected.length)
                .mapToDouble(t -> greatest(expected[t], actual[t]))
                .max()
                .orElseThrow();
    }

    private static double greatest(double[] expected, float[] actual) {
        assertThat(actual).hasSameSizeAs(expected);
        return IntStream.range(0, expected.length)
                .mapToDouble(i -> Math.abs(expected[i] - actual[i]))
                .max()
                .orElseThrow();
    }

    private static double[] flat(double[][] rows) {
        return Arrays.stream(rows).flatMapToDouble(Arrays::stream).toArray();
    }

    private static double[] sum(double @Nullable [] a, double[] b) {
        return IntStream.range(0, b.length)
                .mapToDouble(i -> (a == null ? 0 : a[i]) + b[i])
                .toArray();
    }

    private static double norm(double[] a, double[] b) {
        return Math.sqrt(IntStream.range(0, a.length)
                .mapToDouble(i -> Math.pow(a[i] - b[i], 2))
                .sum());
    }

    private static double dot(double[] a, double[] b) {
        return IntStream.range(0, a.length).mapToDouble(i -> a[i] * b[i]).sum();
    }
}
