package io.kvfold.reference;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.Generation;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.Logits;
import io.kvfold.RealLibrary;
import io.kvfold.reference.Shape.Architecture;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Objects;
import java.util.Random;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Layers that turn out lazy while a model runs, against a reference that decides from full attention probabilities. */
final class LazyLayersTest {
    private static final int LAYERS = 6;
    private static final int GENERATED = 8;
    private static final int SLOT = 768;
    private static final ObjectMapper JSON = new ObjectMapper();

    @TempDir
    private static Path folder;

    @BeforeAll
    static void needsTheLibrary() {
        RealLibrary.require();
    }

    /** A model, and a plan for it of which the text may leave the threshold open: {@code lazy=?}. */
    private record Case(ComparedModel model, Shape shape, KvPlan plan) {
        static Case of(Architecture architecture, String text, int chunk, int[]... prompts) {
            Shape shape = Shape.tiny(architecture);
            KvPlan any = KvPlan.parse(text.replace("?", "1"), LAYERS);
            ComparedModel model = ComparedModel.forPlan(shape, KvPlan.of(any.kvLayers()), text.hashCode());
            Case undecided = new Case(model, shape, any);
            if (!text.contains("?")) {
                return undecided;
            }
            List<Double> scores = new ArrayList<>();
            for (int[] prompt : prompts) {
                LazySequence sequence = undecided.sequence();
                sequence.promptInChunks(chunk, true, prompt);
                sequence.generate(prompt[0]);
                // of its first decision: the longer a text, the less of a random model's attention is near
                scores.addAll(sequence.scores().stream().limit(LAYERS).toList());
            }
            String threshold = String.format(Locale.ROOT, "%.6f", betweenTheMiddle(scores));
            return new Case(model, shape, KvPlan.parse(text.replace("?", threshold), LAYERS));
        }

        /** The middle of the widest gap in the middle third, so that rounding decides nothing. */
        private static double betweenTheMiddle(List<Double> scores) {
            double[] sorted =
                    scores.stream().mapToDouble(Double::doubleValue).sorted().toArray();
            int widest = sorted.length / 3;
            for (int i = sorted.length / 3; i < sorted.length * 2 / 3; i++) {
                widest = sorted[i + 1] - sorted[i] > sorted[widest + 1] - sorted[widest] ? i : widest;
            }
            return (sorted[widest] + sorted[widest + 1]) / 2;
        }

        LazySequence sequence() {
            return new LazySequence(model.reference(plan), shape, plan);
        }
    }

    @ParameterizedTest
    @CsvSource({
        "LLAMA, standard;window=8;sinks=2;lazy=?;queries=4, 16",
        "LLAMA, standard;window=8;sinks=2;lazy=?;queries=4, 7",
        "LLAMA, standard;window=8;sinks=2;lazy=?;queries=24, 7",
        "LLAMA, standard;window=8;sinks=2;full=3;queries=24, 7",
        "QWEN2, standard;window=8;sinks=2;lazy=?;queries=20, 16",
        "QWEN3, standard;window=8;sinks=2;lazy=?;queries=4, 16",
        "EXAONE, standard;window=8;sinks=2;lazy=?;queries=4, 16",
        "LLAMA, standard;window=12;sinks=3;full=2;queries=8, 16",
        "LLAMA, standard;window=8;sinks=2;full=0;queries=8, 16",
        "LLAMA, standard;window=8;sinks=2;full=6;queries=8, 16",
        "LLAMA, standard;window=8;sinks=2;lazy=0;queries=8, 16",
        "LLAMA, standard;window=8;sinks=2;lazy=1;queries=8, 16",
        "LLAMA, standard;window=8;sinks=2;lazy=0;queries=8;keep=0_5, 16",
        "LLAMA, cla:2;window=8;sinks=2;lazy=?;queries=4, 16",
        "LLAMA, cla:2;window=8;sinks=2;full=2;queries=4;keep=1, 16",
        "QWEN2, cla:3;window=8;sinks=2;lazy=?;queries=4;strict, 16",
        "LLAMA, 0_1s_2_3s_3_3s;window=8;sinks=2;lazy=?;queries=4, 16",
        "QWEN3, 0_0s_2_2_0_5;window=8;sinks=2;full=1;queries=4, 16",
    })
    void aTextGivesTheLogitsOfTheReference(Architecture architecture, String text, int ubatch) throws IOException {
        int[] tokens = tokens(120, 3);
        Case one = Case.of(architecture, text, ubatch, tokens);
        LazySequence sequence = one.sequence();
        double[][] expected = sequence.promptInChunks(ubatch, false, tokens);
        System.out.println(architecture + " " + text + ": lazy " + sequence.lazyLayers() + ", closest decision "
                + sequence.closest());
        assertThat(sequence.closest()).isGreaterThan(1e-4);
        Path file = one.model.write(folder.resolve("text.gguf"), KvPlan.of(one.plan.kvLayers()));
        for (FlashAttention flash : List.of(FlashAttention.OFF, FlashAttention.ON)) {
            try (Engine engine =
                    builder(file, one.plan, 1, flash, true).ubatchSize(ubatch).open()) {
                double tolerance = flash == FlashAttention.ON ? 3e-2 : 1e-3;
                assertThat(LogitDifference.greatest(expected, rows(engine.evaluate(tokens))))
                        .as("flash attention %s, lazy %s", flash, sequence.lazyLayers())
                        .isLessThanOrEqualTo(tolerance);
            }
        }
    }

    /** The window-sized cache has 256 cells here. */
    @ParameterizedTest
    @CsvSource({
        "standard;window=20;sinks=4;full=3;queries=8, OFF",
        "standard;window=20;sinks=4;full=0;queries=8, ON",
        "0_1s_2_3s_4_4;window=20;sinks=4;full=2;queries=8, OFF",
    })
    void theWindowWrapsAroundManyTimes(String text, FlashAttention flash) throws IOException {
        int[] tokens = tokens(1100, 3);
        Case one = Case.of(Architecture.LLAMA, text, 32, tokens);
        LazySequence sequence = one.sequence();
        double[][] expected = sequence.promptInChunks(32, false, tokens);
        Path file = one.model.write(folder.resolve("wrap.gguf"), KvPlan.of(one.plan.kvLayers()));
        try (Engine engine =
                builder(file, one.plan, 1, flash, true).ubatchSize(32).open()) {
            assertThat(LogitDifference.greatest(expected, rows(engine.evaluate(tokens))))
                    .isLessThanOrEqualTo(flash == FlashAttention.ON ? 3e-2 : 1e-3);
        }
    }

    /** The server computes the last four tokens of a prompt by themselves, so that more queries are of earlier ubatches. */
    @ParameterizedTest
    @CsvSource({
        "standard;window=8;sinks=2;lazy=?;queries=4, OFF, true",
        "standard;window=8;sinks=2;lazy=?;queries=4, OFF, false",
        "standard;window=8;sinks=2;lazy=?;queries=4, ON, true",
        "standard;window=8;sinks=2;lazy=?;queries=4, ON, false",
        "standard;window=8;sinks=2;full=2;queries=4, OFF, true",
        "cla:2;window=8;sinks=2;lazy=?;queries=4, OFF, true",
        "standard;window=8;sinks=2;lazy=?;queries=24, OFF, true",
        "standard;window=8;sinks=2;lazy=?;queries=24, OFF, false",
        "cla:2;window=8;sinks=2;full=2;queries=24, ON, false",
        "0_0s_2_2_4_5;window=8;sinks=2;lazy=?;queries=4, OFF, false",
        "standard;window=8;sinks=2;lazy=?;decide=decode, OFF, true",
        "standard;window=8;sinks=2;full=3;decide=decode, OFF, false",
    })
    void slotsWithDifferentLazyLayersRunSideBySide(String text, FlashAttention flash, boolean unified)
            throws IOException {
        // at the end, since the parts in which prompts that wait together are computed are the server's business
        String plan = text.contains("decide") ? text : text + ";decide=end";
        List<int[]> prompts = List.of(tokens(60, 1), tokens(66, 2), tokens(9, 3), tokens(63, 4));
        Case one = Case.of(Architecture.LLAMA, plan, 16, prompts.toArray(int[][]::new));
        Path file = one.model.writeForText(folder.resolve("slots.gguf"), KvPlan.of(one.plan.kvLayers()));
        try (Engine engine = builder(file, one.plan, 4, flash, unified).open()) {
            List<List<Integer>> expected = complete(engine, one, prompts, flash);
            assertThat(engine.kvCacheStats().lazyLayers()).containsExactlyInAnyOrderElementsOf(expected);
            assertThat(new HashSet<>(expected)).as("different sets in one run").hasSizeGreaterThan(2);
        }
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "standard;window=8;sinks=2;lazy=?;queries=4",
                "standard;window=8;sinks=2;lazy=?;queries=16",
                "standard;window=8;sinks=2;full=2;queries=4",
                "cla:2;window=8;sinks=2;lazy=?;queries=4"
            })
    void aLonePromptDecidesWhileItIsComputed(String text) throws IOException {
        List<int[]> prompts = List.of(tokens(100, 1), tokens(12, 2), tokens(650, 3), tokens(33, 4));
        Case one = Case.of(Architecture.LLAMA, text, 16, prompts.toArray(int[][]::new));
        Path file = one.model.writeForText(folder.resolve("lone.gguf"), KvPlan.of(one.plan.kvLayers()));
        try (Engine engine = builder(file, one.plan, 1, FlashAttention.OFF, true)
                .option("ctx-checkpoints", 0) // which would cut the prompt near its end
                .open()) {
            for (int[] prompt : prompts) {
                List<List<Integer>> lazy = complete(engine, one, List.of(prompt), FlashAttention.OFF);
                assertThat(engine.kvCacheStats().lazyLayers()).isEqualTo(lazy);
            }
        }
    }

    /** A prompt that departs from the former one within the tokens that decided starts anew, a later one goes on. */
    @ParameterizedTest
    @ValueSource(
            strings = {
                "standard;window=8;sinks=2;lazy=?;queries=4",
                "standard;window=8;sinks=2;full=2;queries=4;decide=end"
            })
    void aPromptThatTakesTheDecisiveTokensBackStartsAnew(String text) throws IOException {
        int[] first = tokens(60, 1);
        int[] departing = tokens(58, 2);
        System.arraycopy(first, 0, departing, 0, 13);
        Case one = Case.of(Architecture.LLAMA, text, 16, first, departing);
        Path file = one.model.writeForText(folder.resolve("prefix.gguf"), KvPlan.of(one.plan.kvLayers()));
        try (Engine engine = builder(file, one.plan, 1, FlashAttention.OFF, true)
                .option("ctx-checkpoints", 0)
                .open()) {
            for (int[] prompt : List.of(first, departing, first)) {
                List<List<Integer>> lazy = complete(engine, one, List.of(prompt), FlashAttention.OFF);
                assertThat(engine.kvCacheStats().lazyLayers()).isEqualTo(lazy);
            }
        }
    }

    @Test
    void lazyLayersGiveTheirPagesBack() throws IOException {
        Shape wide = new Shape(Architecture.LLAMA, 96, 48, 80, 8, 8, 128, 1e-5, 10000); // a row of keys is a page
        ComparedModel model = ComparedModel.forAnyPlan(wide, LAYERS, 1);
        Path file = model.writeForText(folder.resolve("pages.gguf"), KvPlan.standard(LAYERS));
        int[] prompt = model.tokens(1500, 1);
        long[] committed = new long[LAYERS + 1];
        for (int full : new int[] {LAYERS, LAYERS / 2, 0}) {
            KvPlan plan = KvPlan.lightTransfer(LAYERS, full)
                    .withAutomaticRetention(
                            4,
                            64,
                            KvPlan.lightTransfer(LAYERS, full)
                                    .automaticRetention()
                                    .orElseThrow());
            try (Engine engine = builder(file, plan, 1, FlashAttention.ON, true)
                    .contextSize(4096)
                    .ubatchSize(64)
                    // which read rows that were given back; the system's page of zeros then counts as committed
                    .option("ctx-checkpoints", 0)
                    .option("prefix-sharing", false) // keeps the first prompt for a third one
                    .open()) {
                engine.call("/completion", body(prompt).put("n_predict", 2));
                assertThat(engine.kvCacheStats().lazyLayers().get(0)).hasSize(LAYERS - full);
                committed[full] = engine.kvCacheStats().bytesCommitted();
                long rows = 2L * wide.kvWidth() * Float.BYTES;
                // a lazy layer keeps its sinks and window; attention has read the cells around these, by 256 at a time
                long least = rows * (full * 1500L + (LAYERS - full) * (4 + 64L));
                long most = rows * (full * 1536L + (LAYERS - full) * 256L);
                System.out.printf(
                        "%d of %d layers full: %d bytes, %d to %d expected%n",
                        full, LAYERS, committed[full], least, most);
                assertThat(committed[full]).isBetween(least, most);

                engine.call("/completion", body(prompt).put("n_predict", 2).put("cache_prompt", false));
                assertThat(engine.kvCacheStats().bytesCommitted()).isLessThan(1 << 20);
                assertThat(engine.kvCacheStats().lazyLayers().get(0)).isEmpty();
            }
        }
    }

    private static int[] tokens(int count, long seed) {
        return new Random(seed)
                .ints(count, 0, Shape.tiny(Architecture.LLAMA).vocabulary())
                .toArray();
    }

    private static Engine.Builder builder(Path file, KvPlan plan, int slots, FlashAttention flash, boolean unified) {
        return Engine.builder()
                .model(file)
                .kvPlan(plan)
                .slots(slots)
                .contextSize(SLOT)
                .threads(1)
                .ubatchSize(16)
                .flashAttention(flash)
                .kvCacheTypes(KvType.F32, KvType.F32)
                .option("kv-unified", unified);
    }

    /** Completes all prompts side by side, compares every distribution, and returns the lazy layers of each. */
    private static List<List<Integer>> complete(Engine engine, Case one, List<int[]> prompts, FlashAttention flash) {
        List<Generation> running = new ArrayList<>();
        List<List<Integer>> lazy = new ArrayList<>();
        try {
            for (int[] prompt : prompts) {
                running.add(engine.complete(body(prompt)));
            }
            for (int p = 0; p < prompts.size(); p++) {
                JsonNode answer = Objects.requireNonNull(running.get(p).next());
                JsonNode steps = answer.get("completion_probabilities");
                assertThat(steps).hasSize(GENERATED);
                LazySequence sequence = one.sequence();
                double[][] ofPrompt = sequence.promptInChunks(16, true, prompts.get(p));
                double[] logits = ofPrompt[ofPrompt.length - 1];
                for (int step = 0; step < GENERATED; step++) {
                    assertThat(LogitDifference.ofLogProbabilities(
                                    logits, steps.get(step).get("top_logprobs")))
                            .as(
                                    "prompt %d of %d tokens, step %d, lazy %s",
                                    p, prompts.get(p).length, step, sequence.lazyLayers())
                            .isLessThanOrEqualTo(flash == FlashAttention.ON ? 3e-2 : 1e-3);
                    if (step + 1 < GENERATED) {
                        logits = sequence.generate(steps.get(step).get("id").intValue());
                    }
                }
                assertThat(sequence.closest()).isGreaterThan(1e-4);
                lazy.add(sequence.lazyLayers());
            }
        } finally {
            running.forEach(Generation::close);
        }
        return lazy;
    }

    private static ObjectNode body(int[] prompt) {
        ObjectNode body = JSON.createObjectNode();
        Arrays.stream(prompt).forEach(body.putArray("prompt")::add);
        return body.put("n_predict", GENERATED)
                .put("n_probs", 96)
                .put("temperature", 0)
                .put("ignore_eos", true)
                .put("stream", false);
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
