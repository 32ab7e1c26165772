package io.kvfold.reference;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatExceptionOfType;

import io.kvfold.Engine;
import io.kvfold.InvalidModelException;
import io.kvfold.InvalidPlanException;
import io.kvfold.KvPlan;
import io.kvfold.KvfoldException;
import io.kvfold.RealLibrary;
import io.kvfold.gguf.GgufKeys;
import io.kvfold.gguf.GgufValueType;
import io.kvfold.gguf.GgufWriter;
import io.kvfold.reference.Shape.Architecture;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** Plans that a model cannot serve, given by the caller or by the file: each is refused, and says why. */
final class BadPlanTest {
    private static final String MAP = GgufKeys.kvLayerMap("llama");

    @TempDir
    private static Path folder;

    @BeforeAll
    static void needsTheLibrary() {
        RealLibrary.require();
    }

    private final ComparedModel model = ComparedModel.forAnyPlan(Shape.tiny(Architecture.LLAMA), 4, 1);

    @Test
    void aPlanOfAnotherLengthIsRefused() throws IOException {
        Path file = model.write(folder.resolve("length.gguf"));
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> open(file, "0_1_1"))
                .withMessageContaining("3 layers")
                .withMessageContaining("the model has 4");
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> open(file, "0_1_2_3_3"))
                .withMessageContaining("4");
    }

    @Test
    void anIndexOutOfRangeIsRefusedByTheNativeParserToo() throws IOException {
        Path file = model.write(folder.resolve("index.gguf"));
        for (String index : List.of("4", "999999999", "-1")) {
            assertThatExceptionOfType(InvalidPlanException.class)
                    .isThrownBy(() -> open(file, "0_1_2_" + index))
                    .withMessageContaining(index);
        }
    }

    @Test
    void bothParsersRefuseTheSameTexts() throws IOException {
        Path file = model.write(folder.resolve("text.gguf"));
        for (String text : List.of(
                "0_1_2",
                "0_1_2_3_",
                "_0_1_2_3",
                "0_1_2_3s",
                "0_1_2_3;window=4",
                "0_1_2_3s;window=0",
                "0_1_2_3;passes=0",
                "0_1_2_3;strict;strict",
                "0_1_2_3;exact;passes=2",
                "0_1_2_3;",
                "0_1_2_3;loose",
                "0_1_2_3 ",
                "0x0_1_2_3_3",
                "0x999999999",
                "lckv:4",
                "lckv",
                "cla:0",
                "cla:5",
                "cla:keep-end",
                "mlkv:5",
                "yoco:0",
                "pizza-top:0",
                "standard:2",
                "burger:2")) {
            assertThatExceptionOfType(InvalidPlanException.class).isThrownBy(() -> KvPlan.parse(text, 4));
            assertThatExceptionOfType(InvalidPlanException.class).as(text).isThrownBy(() -> open(file, text));
        }
    }

    @Test
    void bothParsersReadTheSameTexts() throws IOException {
        Path file = model.write(folder.resolve("text.gguf"));
        for (String text : List.of(
                "standard",
                "cla:2",
                "cla:3",
                "cla:keep-ends",
                "cla:dense-front",
                "cla:dense-back",
                "lckv:0",
                "lckv:2",
                "lckv:2;exact",
                "pizza-bottom:2",
                "pizza-middle:2",
                "pizza-top:2",
                "sandwich-bottom:2",
                "sandwich-middle:2",
                "sandwich-top:2",
                "lasagna-bottom:3",
                "lasagna-middle:3",
                "lasagna-top:3",
                "lasagna-top:1",
                "yoco:8",
                "mlkv:2",
                "mlkv:3",
                "0_2x2_3;passes=4;strict",
                "00_01s_1sx2;window=08")) {
            try (Engine engine = Engine.builder()
                    .model(file)
                    .contextSize(256)
                    .slots(1)
                    .threads(1)
                    .option("kv-plan", text)
                    .open()) {
                assertThat(engine.info().context().kvPlan())
                        .as(text)
                        .isEqualTo(KvPlan.parse(text, 4).toString());
            }
        }
    }

    @Test
    void aProducerWithoutWeightsIsNamed() throws IOException {
        KvPlan plan = KvPlan.parse("0_2_2_3");
        Path file = ComparedModel.forPlan(Shape.tiny(Architecture.LLAMA), plan, 1)
                .write(folder.resolve("weights.gguf"), plan);
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> open(file, "0_1_1_3"))
                .withMessageContaining("layer 1")
                .withMessageContaining("blk.1.attn_k.weight");
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> open(file, "standard"))
                .withMessageContaining("layer 1");
    }

    @Test
    void anUpwardPlanNeedsAnArchitectureThatFollowsTheSchedule() throws IOException {
        ComparedModel exaone = ComparedModel.forAnyPlan(Shape.tiny(Architecture.EXAONE), 4, 1);
        Path file = exaone.write(folder.resolve("exaone.gguf"));
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> open(file, "0_2_2_3"))
                .withMessageContaining("exaone")
                .withMessageContaining("llama");
        Path withMap = exaone.write(folder.resolve("exaone-map.gguf"), KvPlan.parse("0_2_2_3"));
        assertThatExceptionOfType(InvalidPlanException.class)
                .isThrownBy(() -> Engine.open(withMap))
                .withMessageContaining("exaone");
    }

    static Stream<Arguments> badMetadata() {
        Consumer<GgufWriter> map = w -> w.put(MAP, GgufValueType.INT32, new long[] {0, 1, 1, 3});
        return Stream.of(
                bad("too short", w -> w.put(MAP, GgufValueType.INT32, new long[] {0, 1, 1})),
                bad("too long", w -> w.put(MAP, GgufValueType.INT32, new long[] {0, 1, 1, 3, 3})),
                bad("empty", w -> w.put(MAP, GgufValueType.INT32, new long[0])),
                bad("huge", w -> w.put(MAP, GgufValueType.INT32, new long[5_000_000])),
                bad("above", w -> w.put(MAP, GgufValueType.INT32, new long[] {0, 1, 4, 3})),
                bad("far above", w -> w.put(MAP, GgufValueType.INT32, new long[] {0, 1, Integer.MAX_VALUE, 3})),
                bad("negative", w -> w.put(MAP, GgufValueType.INT32, new long[] {0, 1, -1, 3})),
                bad("far below", w -> w.put(MAP, GgufValueType.INT32, new long[] {0, 1, Integer.MIN_VALUE, 3})),
                bad("of another width", w -> w.put(MAP, GgufValueType.INT64, new long[] {0, 1, 1, 3})),
                bad("of floats", w -> w.put(MAP, new float[] {0, 1, 1, 3})),
                bad("of strings", w -> w.put(MAP, List.of("0", "1", "1", "3"))),
                bad("a number", w -> w.put(MAP, 7)),
                bad("a string", w -> w.put(MAP, "0_1_1_3")),
                bad("strict is a number", map.andThen(w -> w.put(GgufKeys.kvStrictDiagonal("llama"), 1))),
                bad("passes is a string", map.andThen(w -> w.put(GgufKeys.kvPrefillPasses("llama"), "9"))),
                bad(
                        "passes is negative",
                        map.andThen(w -> w.put(GgufKeys.kvPrefillPasses("llama"), GgufValueType.INT32, -1))),
                bad(
                        "window layers are numbers",
                        map.andThen(w -> w.put(GgufKeys.slidingWindow("llama"), 8))
                                .andThen(w -> w.put(
                                        GgufKeys.kvWindowLayers("llama"), GgufValueType.INT32, new long[] {1, 0, 0, 0
                                        }))),
                bad(
                        "window layers are too few",
                        map.andThen(w -> w.put(GgufKeys.slidingWindow("llama"), 8))
                                .andThen(w -> w.put(GgufKeys.kvWindowLayers("llama"), new boolean[] {true, false}))),
                bad(
                        "window layers without a window",
                        map.andThen(w ->
                                w.put(GgufKeys.kvWindowLayers("llama"), new boolean[] {true, false, false, false}))),
                bad(
                        "a window of nothing",
                        map.andThen(w -> w.put(GgufKeys.slidingWindow("llama"), 0))
                                .andThen(w -> w.put(
                                        GgufKeys.kvWindowLayers("llama"), new boolean[] {true, false, false, false}))));
    }

    @ParameterizedTest(name = "{0}")
    @MethodSource("badMetadata")
    void aMapInAFileIsNotTrusted(String what, Consumer<GgufWriter> metadata) throws IOException {
        Path file = folder.resolve("hostile.gguf");
        GgufWriter writer = model.writer().put("tokenizer.ggml.model", "none");
        metadata.accept(writer);
        writer.write(file);
        assertThatExceptionOfType(KvfoldException.class)
                .isThrownBy(() -> Engine.builder()
                        .model(file)
                        .contextSize(256)
                        .slots(1)
                        .threads(1)
                        .open()
                        .close())
                .satisfies(e -> assertThat(e).isInstanceOfAny(InvalidPlanException.class, InvalidModelException.class))
                .satisfies(e -> assertThat(e.getMessage()).containsAnyOf("kv_", "layer", "window"));
    }

    private static Arguments bad(String what, Consumer<GgufWriter> metadata) {
        return Arguments.of(what, metadata);
    }

    private static void open(Path file, String plan) {
        Engine.builder()
                .model(file)
                .contextSize(256)
                .slots(1)
                .threads(1)
                .option("kv-plan", plan)
                .open()
                .close();
    }
}
