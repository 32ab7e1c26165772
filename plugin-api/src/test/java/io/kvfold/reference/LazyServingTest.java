package io.kvfold.reference;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.AutomaticRetention.Decision;
import io.kvfold.Engine;
import io.kvfold.FlashAttention;
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
import java.util.stream.IntStream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Layers that turn out lazy beside the other things that a server does with a KV cache. */
final class LazyServingTest {
    private static final int LAYERS = 6;
    private static final int GENERATED = 12;
    private static final ObjectMapper JSON = new ObjectMapper();

    @TempDir
    private static Path folder;

    @BeforeAll
    static void needsTheLibrary() {
        RealLibrary.require();
    }

    private final Shape shape = Shape.tiny(Architecture.LLAMA);
    private final ComparedModel model = ComparedModel.forAnyPlan(shape, LAYERS, 11);

    /** Rounded keys and values move scores and logits: by how much at most, for this model. */
    @ParameterizedTest
    @CsvSource({
        "standard;window=16;sinks=2;full=3;queries=8, Q8_0, Q8_0, ON, 0.1",
        "standard;window=16;sinks=2;full=3;queries=8;decide=end, Q8_0, F16, OFF, 0.1",
        "standard;window=16;sinks=2;full=0;queries=8;decide=decode, Q8_0, Q8_0, ON, 0.1",
        "cla:2;window=16;sinks=2;full=2;queries=8, Q8_0, Q8_0, ON, 0.1",
        "standard;window=16;sinks=2;full=3;queries=8, Q4_0, Q4_0, ON, 1.2",
        "standard;window=16;sinks=2;full=0;queries=8;decide=end, Q4_0, F16, OFF, 1.2",
        "0_0_2_2s_4_4;window=16;sinks=2;full=1;queries=8, Q4_0, Q4_0, ON, 1.2",
    })
    void keysAndValuesMayBeQuantised(String text, KvType keys, KvType values, FlashAttention flash, double tolerance)
            throws IOException {
        KvPlan plan = KvPlan.parse(text, LAYERS);
        Path file = model.writeForText(folder.resolve("quantised.gguf"), KvPlan.of(plan.kvLayers()));
        double worst = 0;
        try (Engine engine = builder(file, plan, 2)
                .flashAttention(flash)
                .kvCacheTypes(keys, values)
                .open()) {
            for (int seed = 0; seed < 6; seed++) {
                int[] prompt = model.tokens(60 + 7 * seed, seed);
                JsonNode answer = engine.call("/completion", body(prompt));
                LazySequence sequence = sequence(plan, prompt);
                List<Integer> actual = new ArrayList<>(lazyOf(engine, answer));
                double[] logits = sequence.last();
                double furthest = 0;
                for (int step = 0; step < GENERATED; step++) {
                    furthest =
                            Math.max(furthest, LogitDifference.ofLogProbabilities(logits, probabilities(answer, step)));
                    logits = sequence.generate(token(answer, step));
                }
                if (sequence.closest() > tolerance / 10) {
                    assertThat(actual).as("prompt %d", seed).isEqualTo(sequence.lazyLayers());
                }
                if (actual.equals(sequence.lazyLayers())) {
                    worst = Math.max(worst, furthest);
                }
            }
        }
        System.out.printf("%s, keys %s, values %s: log-probabilities differ by %.3g%n", text, keys, values, worst);
        assertThat(worst).isBetween(1e-6, tolerance);
    }

    /** Drafts of a model that is always right, of one that hardly ever is, and of the text itself. */
    @ParameterizedTest
    @CsvSource({
        "standard;window=16;sinks=2;full=3;queries=8, right",
        "standard;window=16;sinks=2;full=3;queries=8, wrong",
        "standard;window=16;sinks=2;full=0;queries=8;decide=end, right",
        "standard;window=16;sinks=2;full=2;queries=8;decide=end, text",
        "cla:2;window=16;sinks=2;full=2;queries=8, right",
        "0_1s_2_3s_4_4;window=16;sinks=2;full=2;queries=8, wrong",
        "standard;window=16;sinks=2;full=3;queries=8;decide=decode, right",
        "standard;window=16;sinks=2;full=0;queries=8;decide=decode, wrong",
    })
    void draftedTokensAreVerifiedAsIfTheyCameOneByOne(String text, String drafts) throws IOException {
        KvPlan plan = KvPlan.parse(text, LAYERS);
        Path file = model.writeForText(folder.resolve("verifying.gguf"), KvPlan.of(plan.kvLayers()));
        Engine.Builder builder = builder(file, plan, 2).flashAttention(FlashAttention.OFF);
        if (drafts.equals("text")) {
            builder.option("spec-type", "ngram-simple");
        } else {
            Path draft = drafts.equals("right")
                    ? file
                    : ComparedModel.forAnyPlan(shape, 2, 7)
                            .writeForText(folder.resolve("drafting.gguf"), KvPlan.standard(2));
            builder.option("spec-type", "draft-simple")
                    .option("spec-draft-model", draft.toString())
                    .option("spec-draft-n-max", 7)
                    .option("spec-draft-p-min", 0);
        }
        int drafted = 0;
        try (Engine engine = builder.open()) {
            for (int seed = 0; seed < 3; seed++) {
                int[] prompt = model.tokens(60 + 7 * seed, seed);
                JsonNode answer = engine.call("/completion", body(prompt).put("n_probs", 0));
                LazySequence sequence = sequence(plan, prompt);
                double[] logits = sequence.last();
                for (int step = 0; step < GENERATED; step++) {
                    int token = answer.at("/tokens/" + step).asInt(-1);
                    // what is drafted after the token that decides is computed before it does
                    if (plan.automaticRetention().orElseThrow().decision() != Decision.DECODE || step < 2) {
                        assertThat(logits[token])
                                .as("prompt %d, step %d", seed, step)
                                .isGreaterThan(likeliest(logits) - 1e-3);
                    }
                    logits = sequence.generate(token);
                }
                assertThat(sequence.closest()).isGreaterThan(1e-5);
                assertThat(lazyOf(engine, answer)).as("prompt %d", seed).isEqualTo(sequence.lazyLayers());
                drafted += answer.at("/timings/draft_n").asInt();
            }
        }
        if (!drafts.equals("text")) {
            assertThat(drafted).isGreaterThan(GENERATED);
        }
    }

    /** The layers that were lazy in the first turn are lazy in the second one, whose queries are not looked at. */
    @ParameterizedTest
    @CsvSource({
        "standard;window=16;sinks=2;full=3;queries=8, true",
        "standard;window=16;sinks=2;full=0;queries=8;decide=end, false",
        "cla:2;window=16;sinks=2;full=2;queries=8, false",
        "standard;window=16;sinks=2;full=3;queries=8;decide=decode, true",
    })
    void aSecondTurnGoesOnWithTheLazyLayersOfTheFirst(String text, boolean unified) throws IOException {
        KvPlan plan = KvPlan.parse(text, LAYERS);
        Path file = model.writeForText(folder.resolve("turns.gguf"), KvPlan.of(plan.kvLayers()));
        try (Engine engine = builder(file, plan, 2)
                .flashAttention(FlashAttention.OFF)
                .option("kv-unified", unified)
                .open()) {
            int[] first = model.tokens(80, 1);
            JsonNode answer = engine.call("/completion", body(first));
            LazySequence sequence = sequence(plan, first);
            List<Integer> all = new ArrayList<>(Arrays.stream(first).boxed().toList());
            double[] logits = sequence.last();
            for (int step = 0; step < GENERATED; step++) {
                assertThat(LogitDifference.ofLogProbabilities(logits, probabilities(answer, step)))
                        .isLessThan(1e-3);
                all.add(token(answer, step));
                if (step + 1 < GENERATED) {
                    logits = sequence.generate(token(answer, step));
                }
            }
            List<Integer> lazy = sequence.lazyLayers();
            int[] next = model.tokens(21, 2);
            Arrays.stream(next).forEach(all::add);
            JsonNode second = engine.call(
                    "/completion", body(all.stream().mapToInt(Integer::intValue).toArray()));
            assertThat(second.at("/timings/cache_n").asInt()).isGreaterThanOrEqualTo(80 + GENERATED - 1);
            assertThat(lazyOf(engine, second)).isEqualTo(lazy).hasSizeBetween(1, LAYERS);
            int[] rest = new int[next.length + 1]; // the keys of the last token that was generated are not there yet
            rest[0] = token(answer, GENERATED - 1);
            System.arraycopy(next, 0, rest, 1, next.length);
            double[][] ofSecond = sequence.promptInChunks(16, true, rest);
            logits = ofSecond[ofSecond.length - 1];
            for (int step = 0; step < GENERATED; step++) {
                assertThat(LogitDifference.ofLogProbabilities(logits, probabilities(second, step)))
                        .as("second turn, step %d", step)
                        .isLessThan(1e-3);
                logits = sequence.generate(token(second, step));
            }
        }
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "simlayerkv:1.5 | threshold",
                "simlayerkv:-1 | threshold",
                "standard;lazy=2 | threshold",
                "standard;lazy=nan | threshold",
                "standard;lazy=0.9;window=0 | window",
                "standard;lazy=0.9;window=-1 | -1",
                "standard;lazy=0.9;window=4294967296 | 4294967296",
                "standard;lazy=0.9;queries=0 | queries",
                "standard;lazy=0.9;queries=513 | 513",
                "standard;full=7 | 7",
                "lighttransfer:7 | 7",
                "standard;lazy=0.9;keep=6 | 6",
                "standard;lazy=0.9;patience=3 | patience",
                "standard;lazy=0.9;decide=never | never",
                "0_5x4_5;lazy=0.9 | upward",
                "lckv:2;full=2 | upward",
            })
    void aPlanThatCannotBeKeptIsRefusedByBothParsersNamingWhy(String text, String why) throws IOException {
        Path file = model.writeForText(folder.resolve("bad.gguf"), KvPlan.standard(LAYERS));
        RefusedPlan.check(file, LAYERS, text, why);
    }

    /** The reference after a prompt. */
    private LazySequence sequence(KvPlan plan, int[] prompt) {
        LazySequence sequence = new LazySequence(model.reference(plan), shape, plan);
        sequence.promptInChunks(16, true, prompt);
        return sequence;
    }

    private static Engine.Builder builder(Path file, KvPlan plan, int slots) {
        return Engine.builder()
                .model(file)
                .kvPlan(plan)
                .slots(slots)
                .contextSize(512)
                .threads(1)
                .ubatchSize(16)
                .kvCacheTypes(KvType.F32, KvType.F32)
                .option("ctx-checkpoints", 0); // which would cut the prompt near its end
    }

    private static List<Integer> lazyOf(Engine engine, JsonNode answer) {
        return engine.kvCacheStats().lazyLayers().get(answer.path("id_slot").asInt());
    }

    /** The greatest logit but that of the end of the text, which the requests rule out. */
    private static double likeliest(double[] logits) {
        return IntStream.range(0, logits.length)
                .filter(token -> token != 2)
                .mapToDouble(token -> logits[token])
                .max()
                .orElseThrow();
    }

    private static JsonNode probabilities(JsonNode answer, int step) {
        return Objects.requireNonNull(
                answer.at("/completion_probabilities/" + step).get("top_logprobs"));
    }

    private static int token(JsonNode answer, int step) {
        return answer.at("/completion_probabilities/" + step + "/id").intValue();
    }

    private static ObjectNode body(int[] prompt) {
        ObjectNode body = JSON.createObjectNode();
        Arrays.stream(prompt).forEach(body.putArray("prompt")::add);
        return body.put("n_predict", GENERATED)
                .put("n_probs", 96)
                .put("temperature", 0)
                .put("return_tokens", true)
                .put("ignore_eos", true)
                .put("stream", false);
    }
}
