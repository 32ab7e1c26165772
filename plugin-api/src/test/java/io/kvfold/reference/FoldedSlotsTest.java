package io.kvfold.reference;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.Generation;
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
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Requests side by side in the slots of one engine, so that ubatches hold tokens of several sequences: the probability
 * of every token at every generated position, against the reference for the same text alone.
 */
final class FoldedSlotsTest {
    private static final int GENERATED = 8;
    private static final ObjectMapper JSON = new ObjectMapper();

    @TempDir
    private static Path folder;

    @BeforeAll
    static void needsTheLibrary() {
        RealLibrary.require();
    }

    @ParameterizedTest
    @CsvSource({
        "0_1_2_3_4_5, OFF, false",
        "0_0_2_2_4_4, OFF, true",
        "0_4x4_5;exact, OFF, false",
        "0_4x4_5;exact, OFF, true",
        "0_4x4_5;exact, ON, false",
        "0_4x4_5;exact, ON, true",
        "0_2_2_2_4_5;strict;exact, OFF, true",
        "0_2_1_5_4_3;exact, OFF, false",
        "0s_1s_2s_3_3_3;window=6, OFF, false",
        "0s_1s_2s_3_3_3;window=6, ON, true",
        "0_4s_4_4s_4_5;window=6;exact, OFF, false",
        "0_1s_2s_3_4s_5;window=6;sinks=3, OFF, false",
        "0_1s_2s_3_4s_5;window=6;sinks=3, ON, true",
        "0_0s_0s_3s_4s_5s;window=6;sinks=3, OFF, true",
        "0s_1s_2s_3s_4s_5s;window=6;sinks=4, OFF, true",
    })
    void requestsSideBySideAreAnsweredAsIfAlone(String text, FlashAttention flash, boolean unified) throws IOException {
        KvPlan plan = KvPlan.parse(text);
        ComparedModel model = ComparedModel.forPlan(Shape.tiny(Architecture.LLAMA), plan, text.hashCode());
        Path file = model.writeForText(folder.resolve("slots.gguf"), plan);
        try (Engine engine = engine(file, 4, flash, unified)) {
            List<int[]> prompts = new ArrayList<>();
            for (int length : new int[] {3, 30, 9, 17, 1, 12}) { // two of them wait for a slot
                prompts.add(model.tokens(length, 10 + length));
            }
            compare(engine, model, plan, prompts, flash);
        }
    }

    @ParameterizedTest
    @CsvSource({
        "0_4x4_5;passes=9, fixed",
        "0_2_1_5_4_3;strict;passes=9, fixed",
        "0_4x4_5;passes=2, exact",
        "0_2_1_5_4_3;strict, exact",
    })
    void asManyPassesAsAPromptHasTokensAreExactWhateverRunsBesideIt(String text, String prefill) throws IOException {
        KvPlan plan = KvPlan.parse(text);
        ComparedModel model = ComparedModel.forPlan(Shape.tiny(Architecture.LLAMA), plan, text.hashCode());
        Path file = model.writeForText(folder.resolve("passes.gguf"), plan);
        try (Engine engine = builder(file, 4, FlashAttention.OFF, true)
                .option("kv-prefill", prefill)
                .open()) {
            List<int[]> prompts = new ArrayList<>();
            for (int length : new int[] {9, 8, 2, 5, 7, 9, 1, 4}) {
                prompts.add(model.tokens(length, 20 + length));
            }
            compare(engine, model, plan, prompts, FlashAttention.OFF);
        }
    }

    /** Of a whole ubatch they would be a graph that nobody can interrupt for half a minute. */
    @Test
    void moreThan16PassesTakeAPromptInExactPieces() throws IOException {
        KvPlan plan = KvPlan.parse("0_4x4_5;passes=17");
        ComparedModel model = ComparedModel.forPlan(Shape.tiny(Architecture.LLAMA), plan, 1);
        Path file = model.writeForText(folder.resolve("many.gguf"), plan);
        try (Engine engine = builder(file, 1, FlashAttention.OFF, true)
                .ubatchSize(64)
                .option("kv-prefill", "fixed")
                .open()) {
            compare(engine, model, plan, List.of(model.tokens(60, 1)), FlashAttention.OFF);
        }
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "0_0_2_2_4_4",
                "0_4x4_5;exact",
                "0s_1s_2s_3_3_3;window=6",
                "0_4s_4_4s_4_5;window=6;exact",
                "0_1s_2s_3_4s_5;window=6;sinks=3",
                "0s_1s_2s_3s_4s_5s;window=6;sinks=4"
            })
    void aSecondTurnGoesOnFromTheKeysAndValuesOfTheFirst(String text) throws IOException {
        KvPlan plan = KvPlan.parse(text);
        ComparedModel model = ComparedModel.forPlan(Shape.tiny(Architecture.LLAMA), plan, text.hashCode());
        Path file = model.writeForText(folder.resolve("turns.gguf"), plan);
        try (Engine engine = engine(file, 1, FlashAttention.OFF, false)) {
            int[] first = model.tokens(20, 30);
            int[] answer = compare(engine, model, plan, List.of(first), FlashAttention.OFF)
                    .get(0);
            int[] second = concat(concat(first, answer), model.tokens(11, 31));
            compare(engine, model, plan, List.of(second), FlashAttention.OFF);
            int[] shorter = concat(Arrays.copyOf(first, 13), model.tokens(6, 32)); // back into the first prompt
            compare(engine, model, plan, List.of(shorter), FlashAttention.OFF);
        }
    }

    @ParameterizedTest
    @CsvSource({
        "0s_1s_2s_3_3_3;window=8, false",
        "0s_1s_2s_3_3_3;window=8, true",
        "0_4s_4s_4s_4s_5;window=8;exact, false",
        "0_4s_4s_4s_4s_5;window=8;exact, true",
        "0_1s_2s_3_4s_5;window=8;sinks=4, false",
        "0s_1s_2s_3s_4s_5s;window=8;sinks=4, true",
    })
    void promptsLongerThanAWindowSizedCacheShareIt(String text, boolean unified) throws IOException {
        KvPlan plan = KvPlan.parse(text);
        ComparedModel model = ComparedModel.forPlan(Shape.tiny(Architecture.LLAMA), plan, text.hashCode());
        Path file = model.writeForText(folder.resolve("long.gguf"), plan);
        try (Engine engine =
                builder(file, 3, FlashAttention.OFF, unified).contextSize(768).open()) {
            List<int[]> prompts =
                    List.of(model.tokens(600, 1), model.tokens(3, 2), model.tokens(350, 3), model.tokens(280, 4));
            compare(engine, model, plan, prompts, FlashAttention.OFF);
        }
    }

    /** Drafts of a model that is always right, so that long runs of them are kept, and of one that hardly ever is. */
    @ParameterizedTest
    @CsvSource({
        "0_0_2_2_4_4, true",
        "0_0_2_2_4_4, false",
        "0_4x4_5, true",
        "0_4x4_5, false",
        "0_2_1_5_4_3;strict, true",
        "0s_1s_2s_3_3_3;window=6, true",
        "0_4s_4_4s_4_5;window=6, false"
    })
    void draftedTokensAreVerifiedAsIfTheyCameOneByOne(String text, boolean right) throws IOException {
        KvPlan plan = KvPlan.parse(text);
        ComparedModel model = ComparedModel.forPlan(Shape.tiny(Architecture.LLAMA), plan, text.hashCode());
        Path file = model.writeForText(folder.resolve("verifying.gguf"), plan);
        Path draft = right
                ? file
                : ComparedModel.forAnyPlan(Shape.tiny(Architecture.LLAMA), 2, 7)
                        .writeForText(folder.resolve("drafting.gguf"), KvPlan.standard(2));
        try (Engine engine = builder(file, 3, FlashAttention.OFF, true)
                .option("spec-type", "draft-simple")
                .option("spec-draft-model", draft.toString())
                .option("spec-draft-n-max", 11)
                .option("spec-draft-p-min", 0)
                .open()) {
            List<int[]> prompts =
                    List.of(model.tokens(5, 1), model.tokens(2, 2), model.tokens(4, 3)); // exact in five passes
            int drafted = 0, kept = 0;
            List<Generation> running = new ArrayList<>();
            for (int[] prompt : prompts) {
                running.add(engine.complete(body(prompt).put("n_probs", 0).put("return_tokens", true)));
            }
            for (int p = 0; p < prompts.size(); p++) {
                try (Generation generation = running.get(p)) {
                    JsonNode answer = Objects.requireNonNull(generation.next());
                    int[] generated = new int[GENERATED];
                    Arrays.setAll(
                            generated, step -> answer.at("/tokens/" + step).asInt(-1));
                    double[][] expected = model.reference(plan).sequential(concat(prompts.get(p), generated));
                    for (int step = 0; step < GENERATED; step++) {
                        double[] logits = expected[prompts.get(p).length - 1 + step];
                        assertThat(logits[generated[step]])
                                .as("plan %s, prompt %d, step %d", plan, p, step)
                                .isGreaterThan(Arrays.stream(logits).max().orElseThrow() - 1e-3);
                    }
                    drafted += answer.at("/timings/draft_n").asInt();
                    kept += answer.at("/timings/draft_n_accepted").asInt();
                }
            }
            assertThat(drafted).isGreaterThan(GENERATED);
            assertThat(kept).isBetween(right ? drafted / 2 : 0, drafted);
        }
    }

    @Test
    void theSlotsOfAFoldedCacheAreUsedAgain() throws IOException {
        KvPlan plan = KvPlan.parse("0_4x4_5;exact");
        ComparedModel model = ComparedModel.forPlan(Shape.tiny(Architecture.LLAMA), plan, 1);
        Path file = model.writeForText(folder.resolve("again.gguf"), plan);
        try (Engine engine = engine(file, 2, FlashAttention.OFF, true)) {
            for (int round = 0; round < 4; round++) {
                List<int[]> prompts =
                        List.of(model.tokens(25, round), model.tokens(6, -round), model.tokens(14, round));
                compare(engine, model, plan, prompts, FlashAttention.OFF);
            }
        }
    }

    private static Engine engine(Path file, int slots, FlashAttention flash, boolean unified) {
        return builder(file, slots, flash, unified).open();
    }

    private static Engine.Builder builder(Path file, int slots, FlashAttention flash, boolean unified) {
        return Engine.builder()
                .model(file)
                .slots(slots)
                .contextSize(256)
                .threads(1)
                .ubatchSize(16)
                .flashAttention(flash)
                .kvCacheTypes(KvType.F32, KvType.F32)
                .option("kv-unified", unified);
    }

    /** Completes all prompts side by side, compares every distribution, and returns what was generated. */
    private static List<int[]> compare(
            Engine engine, ComparedModel model, KvPlan plan, List<int[]> prompts, FlashAttention flash) {
        List<Generation> running = new ArrayList<>();
        List<int[]> answers = new ArrayList<>();
        try {
            for (int[] prompt : prompts) {
                running.add(engine.complete(body(prompt)));
            }
            for (int p = 0; p < prompts.size(); p++) {
                JsonNode answer = Objects.requireNonNull(running.get(p).next());
                JsonNode steps = answer.get("completion_probabilities");
                int[] generated = new int[steps.size()];
                Arrays.setAll(generated, step -> steps.get(step).get("id").intValue());
                assertThat(generated).hasSize(GENERATED);
                double[][] expected = model.reference(plan).sequential(concat(prompts.get(p), generated));
                for (int step = 0; step < GENERATED; step++) {
                    double[] logits = expected[prompts.get(p).length - 1 + step];
                    assertThat(LogitDifference.ofLogProbabilities(
                                    logits, steps.get(step).get("top_logprobs")))
                            .as("plan %s, prompt %d of %d tokens, step %d", plan, p, prompts.get(p).length, step)
                            .isLessThanOrEqualTo(flash == FlashAttention.ON ? 3e-2 : 1e-3);
                }
                answers.add(generated);
            }
        } finally {
            running.forEach(Generation::close);
        }
        return answers;
    }

    private static ObjectNode body(int[] prompt) {
        ObjectNode body = JSON.createObjectNode();
        ArrayNode ids = body.putArray("prompt");
        for (int id : prompt) {
            ids.add(id);
        }
        return body.put("n_predict", GENERATED)
                .put("n_probs", 96)
                .put("temperature", 0)
                .put("ignore_eos", true)
                .put("stream", false);
    }

    private static int[] concat(int[] a, int[] b) {
        int[] both = Arrays.copyOf(a, a.length + b.length);
        System.arraycopy(b, 0, both, a.length, b.length);
        return both;
    }
}
