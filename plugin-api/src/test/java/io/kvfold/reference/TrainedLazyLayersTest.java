package io.kvfold.reference;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;
import static org.junit.jupiter.api.Assumptions.abort;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.InvalidPlanException;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.RealLibrary;
import io.kvfold.gguf.GgufFile;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.IntStream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * Which layers of trained models turn out lazy over real text, against the reference: for each layer a threshold just
 * below its score makes it lazy, and one just above does not, so that the score itself is compared.
 */
final class TrainedLazyLayersTest {
    private static final int SINKS = 4;
    private static final int WINDOW = 40;
    private static final int QUERIES = 32;
    private static final int UBATCH = 32;
    private static final String TEXT = """
            Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she \
            saw a big red ball. She wanted to play with it, but it was too high in a tree. Her friend Tom came and \
            helped her. They played with the ball all day and were very happy. Then the sun went down and they went \
            home. Lily told her mom about the ball and her mom smiled. The next day it rained, so she stayed in the \
            house and looked at the trees from the window.""";

    @BeforeAll
    static void needsTheLibrary() {
        RealLibrary.require();
    }

    /** Which model, the map its weights serve, and how near the engine comes to the reference's scores. */
    private enum Model {
        /** Weights in q8_0: the engine rounds activations to eight bits as well. */
        DEMO_STANDARD("standard", 1e-2),
        /** Its own map reads upward, where no layer can be lazy; these are the producers that it has. */
        DEMO_FOLDED("0x6_6_7", 1e-2),
        STORIES("standard", 2e-4);

        private final String map;
        private final double tolerance;

        Model(String map, double tolerance) {
            this.map = map;
            this.tolerance = tolerance;
        }

        Path file() {
            Path file = switch (this) {
                case DEMO_STANDARD -> TrainedModel.demo("standard");
                case DEMO_FOLDED -> TrainedModel.demo("folded");
                case STORIES -> Path.of("..", "..", "shared", "models", "stories260K.gguf");
            };
            return Files.exists(file) ? file : abort("not run: there is no " + file);
        }
    }

    /** A model with the tokens of a text. */
    private static final class Subject {
        private final Model model;
        private final Shape shape;
        private final int layers;
        private final Map<String, float[]> weights;
        private final int[] prompt;

        Subject(Model model) {
            this.model = model;
            GgufFile file = GgufFile.open(model.file());
            shape = TrainedModel.shape(file);
            layers = (int) file.integer("llama.block_count").orElseThrow();
            KvPlan map = KvPlan.parse(model.map, layers);
            weights = TrainedModel.weights(file);
            try (Engine engine = builder(model.file(), map).open()) {
                prompt = engine.tokenize(TEXT, true, false);
            }
            assertThat(prompt.length).isBetween(SINKS + WINDOW + 2 * QUERIES, 400);
        }

        KvPlan plan(String attributes) {
            return KvPlan.parse(model.map + ";window=" + WINDOW + ";sinks=" + SINKS + ";" + attributes, layers);
        }

        KvPlan plan(double threshold, String decide) {
            return plan("lazy=" + String.format(Locale.ROOT, "%.6f", threshold) + ";queries=" + QUERIES + ";decide="
                    + decide);
        }

        /** The reference after the prompt and one generated token, which the decision of a decode needs. */
        LazySequence expected(KvPlan plan, int generated) {
            LazySequence sequence = new LazySequence(new ReferenceModel(shape, plan, weights), shape, plan);
            sequence.promptInChunks(UBATCH, true, prompt);
            sequence.generate(generated);
            return sequence;
        }

        /** The lazy layers that the engine tells of after the prompt and two generated tokens, the first one of which it returns. */
        int run(KvPlan plan, FlashAttention flash, List<Integer> lazy) {
            try (Engine engine =
                    builder(model.file(), plan).flashAttention(flash).open()) {
                ObjectNode body = new ObjectMapper().createObjectNode();
                Arrays.stream(prompt).forEach(body.putArray("prompt")::add);
                JsonNode answer = engine.call(
                        "/completion",
                        body.put("n_predict", 3)
                                .put("temperature", 0)
                                .put("ignore_eos", true)
                                .put("return_tokens", true)
                                .put("stream", false));
                lazy.addAll(engine.kvCacheStats().lazyLayers().get(0));
                return answer.at("/tokens/0").intValue();
            }
        }

        private static Engine.Builder builder(Path file, KvPlan plan) {
            return Engine.builder()
                    .model(file)
                    .kvPlan(plan)
                    .contextSize(512)
                    .slots(1)
                    .threads(1)
                    .ubatchSize(UBATCH)
                    .flashAttention(FlashAttention.OFF)
                    .kvCacheTypes(KvType.F32, KvType.F32)
                    .option("ctx-checkpoints", 0); // which would cut the prompt near its end
        }
    }

    @ParameterizedTest
    @CsvSource({
        "DEMO_STANDARD, end, OFF",
        "DEMO_STANDARD, end, ON",
        "DEMO_STANDARD, decode, OFF",
        "DEMO_FOLDED, end, OFF",
        "DEMO_FOLDED, decode, OFF",
        "STORIES, end, OFF",
        "STORIES, end, ON",
        "STORIES, decode, OFF",
        "STORIES, decode, ON",
    })
    void aThresholdOnEitherSideOfAScoreDecidesItsLayer(Model model, String decide, FlashAttention flash) {
        Subject subject = new Subject(model);
        int generated = subject.run(subject.plan(1, decide), flash, new ArrayList<>());
        List<Double> scores =
                subject.expected(subject.plan(1, decide), generated).scores();
        System.out.println(model + ", decide=" + decide + ", flash attention " + flash + ": " + scores);
        assertThat(scores).hasSize(subject.layers);
        double tolerance = flash == FlashAttention.ON ? Math.max(model.tolerance, 2e-3) : model.tolerance;
        for (int layer = 0; layer < subject.layers; layer++) {
            for (double side : new double[] {-tolerance, tolerance}) {
                double threshold = Math.min(1, Math.max(0, scores.get(layer) + side));
                List<Integer> lazy = new ArrayList<>();
                assertThat(subject.run(subject.plan(threshold, decide), flash, lazy))
                        .isEqualTo(generated);
                int[] clear = IntStream.range(0, subject.layers)
                        .filter(other -> Math.abs(scores.get(other) - threshold) > 0.9 * tolerance)
                        .toArray();
                assertThat(clear).contains(layer);
                for (int other : clear) {
                    assertThat(lazy.contains(other))
                            .as("layer %d of score %s, threshold %s", other, scores.get(other), threshold)
                            .isEqualTo(scores.get(other) > threshold);
                }
            }
        }
    }

    /** What is lazy early changes what later layers and tokens see, and so later scores. */
    @ParameterizedTest
    @CsvSource({"DEMO_STANDARD, OFF", "DEMO_STANDARD, ON", "DEMO_FOLDED, OFF", "STORIES, OFF", "STORIES, ON"})
    void earlyDecisionsAreThoseOfTheReference(Model model, FlashAttention flash) {
        Subject subject = new Subject(model);
        List<Double> scores = subject.expected(subject.plan(1, "early"), 1).scores();
        assertThat(scores.size()).as("decided several times").isGreaterThan(subject.layers);
        double[] sorted =
                scores.stream().mapToDouble(Double::doubleValue).sorted().toArray();
        int compared = 0;
        for (int at = 1; at < sorted.length; at += Math.max(1, sorted.length / 8)) {
            KvPlan plan = subject.plan((sorted[at - 1] + sorted[at]) / 2, "early");
            LazySequence expected = subject.expected(plan, 1);
            if (expected.closest() < model.tolerance) {
                continue; // rounding may decide it otherwise
            }
            List<Integer> lazy = new ArrayList<>();
            subject.run(plan, flash, lazy);
            System.out.println(model + " " + plan + ": lazy " + lazy + ", closest decision " + expected.closest());
            assertThat(lazy).as("%s", plan).isEqualTo(expected.lazyLayers());
            compared++;
        }
        assertThat(compared).as("thresholds that no score is near").isGreaterThanOrEqualTo(3);
    }

    @ParameterizedTest
    @CsvSource({"DEMO_STANDARD", "DEMO_FOLDED", "STORIES"})
    void theLeastLazyLayersStayFull(Model model) {
        Subject subject = new Subject(model);
        for (String decide : List.of("end", "decode")) {
            int compared = 0;
            for (int full = 1; full < subject.layers; full += 2) {
                KvPlan plan = subject.plan("full=" + full + ";queries=" + QUERIES + ";decide=" + decide);
                List<Integer> lazy = new ArrayList<>();
                int generated = subject.run(plan, FlashAttention.OFF, lazy);
                LazySequence expected = subject.expected(plan, generated);
                if (expected.closest() > 2 * model.tolerance) {
                    assertThat(lazy).as("%s", plan).isEqualTo(expected.lazyLayers());
                    compared++;
                }
                assertThat(lazy).hasSize(subject.layers - full);
            }
            assertThat(compared).isGreaterThanOrEqualTo(1);
        }
    }

    @Test
    void aModelThatReadsUpwardHasNoLazyLayers() {
        KvPlan own = KvPlan.parse("0_6x6_7");
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> Engine.builder()
                        .model(Model.DEMO_FOLDED.file())
                        .option("kv-plan", own + ";window=40;sinks=4;lazy=0.9")
                        .open()
                        .close())
                .withMessageContaining("upward");
    }
}
