package io.kvfold.gguf;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.kvfold.InvalidModelException;
import io.kvfold.InvalidPlanException;
import io.kvfold.KvPlan;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class GgufKvPlanTest {

    @TempDir
    Path folder;

    @ParameterizedTest
    @ValueSource(
            strings = {
                "0_1_2_3",
                "0_0_2_2",
                "0_2_2_3;strict;passes=9",
                "0_2_2_3;exact",
                "0s_1s_2_2;window=9",
                "1_0_3s_2;window=1",
                "0_1s_2s_2;window=1024;sinks=4"
            })
    void readsBackWhatItWrote(String text) throws IOException {
        KvPlan plan = KvPlan.parse(text);
        GgufWriter writer = model();
        GgufKvPlan.write(writer, "llama", plan);

        assertThat(GgufKvPlan.read(open(writer))).contains(plan);
    }

    @Test
    void findsNoPlanInAnOrdinaryModel() throws IOException {
        assertThat(GgufKvPlan.read(open(model().put("llama.attention.sliding_window", 4096))))
                .isEmpty();
    }

    @Test
    void rejectsHostileMetadata() throws IOException {
        assertThatThrownBy(() -> read(model().put("llama.attention.kv_layer_map", GgufValueType.INT32, new long[3])))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("has 3 elements, the model has 4 layers");
        assertThatThrownBy(() ->
                        read(model().put("llama.attention.kv_layer_map", GgufValueType.INT32, new long[] {0, 1, 2, 4})))
                .isInstanceOf(InvalidPlanException.class)
                .hasMessageContaining("layer 3 reads layer 4");
        assertThatThrownBy(() -> read(model().put("llama.attention.kv_layer_map", GgufValueType.INT64, new long[4])))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("expected INT32");
        assertThatThrownBy(() -> read(model().put("llama.attention.kv_layer_map", "0_0_2_2")))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("STRING");
        assertThatThrownBy(() -> read(model().put("llama.attention.kv_strict_diagonal", true)))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("without llama.attention.kv_layer_map");
        assertThatThrownBy(() ->
                        read(map().put("llama.attention.kv_window_layers", new boolean[] {true, false, false, false})))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("without llama.attention.sliding_window");
        assertThatThrownBy(() -> read(map().put("llama.attention.kv_window_layers", new boolean[5])))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("has 5 elements");
        assertThatThrownBy(() -> read(map().put("llama.attention.kv_window_sinks", 4)))
                .isInstanceOf(InvalidPlanException.class)
                .hasMessageContaining("sinks=4 is given, but no layer reads through a window");
        assertThatThrownBy(() -> read(map().put("llama.attention.kv_prefill_passes", 1L << 31)))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("2147483648");
    }

    @Test
    void aCopyHasAnotherPlanAndEverythingElse() throws IOException {
        GgufWriter writer = map().put("llama.attention.sliding_window", 7)
                .put("llama.attention.kv_window_layers", new boolean[] {true, false, true, false})
                .put("llama.attention.kv_prefill_passes", 3)
                .put("a.string", "ä")
                .put("a.bool", true)
                .put("a.float", 0.1f)
                .put("a.double", 0.1)
                .put("a.byte", GgufValueType.INT8, -3)
                .put("some.strings", List.of("", "b"))
                .put("some.floats", new float[] {0.1f, -1})
                .put("some.doubles", new double[] {0.1})
                .put("some.bools", new boolean[] {true, false})
                .put("some.shorts", GgufValueType.UINT16, new long[] {65535})
                .alignment(64)
                .tensor(
                        "one",
                        GgufType.F32,
                        List.of(3L),
                        out -> out.write(new byte[] {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}))
                .tensor("two", GgufType.F16, List.of(1L, 2L), out -> out.write(new byte[] {13, 14, 15, 16}));
        GgufFile source = open(writer);
        KvPlan plan = KvPlan.parse("0_1s_0s_3;window=9;sinks=2");
        Path target = folder.resolve("copy.gguf");

        GgufKvPlan.copy(source, plan, target, (done, total) -> assertThat(total).isEqualTo(16));

        GgufFile copy = GgufFile.open(target);
        assertThat(GgufKvPlan.read(copy)).contains(plan);
        assertThat(copy.keys()).contains("a.string").doesNotContain("llama.attention.kv_prefill_passes");
        assertThat(copy.integer("llama.attention.sliding_window")).hasValue(9);
        assertThat(copy.string("a.string")).contains("ä");
        assertThat(copy.bool("a.bool")).contains(true);
        assertThat(copy.number("a.float")).hasValue(0.1f);
        assertThat(copy.number("a.double")).hasValue(0.1);
        assertThat(copy.type("a.byte")).contains(GgufValueType.INT8);
        assertThat(copy.integer("a.byte")).hasValue(-3);
        assertThat(copy.strings("some.strings")).contains(List.of("", "b"));
        assertThat(copy.elementType("some.floats")).contains(GgufValueType.FLOAT32);
        assertThat(copy.numbers("some.floats").orElseThrow()).containsExactly(0.1f, -1);
        assertThat(copy.numbers("some.doubles").orElseThrow()).containsExactly(0.1);
        assertThat(copy.bools("some.bools").orElseThrow()).containsExactly(true, false);
        assertThat(copy.elementType("some.shorts")).contains(GgufValueType.UINT16);
        assertThat(copy.integers("some.shorts").orElseThrow()).containsExactly(65535);
        assertThat(copy.alignment()).isEqualTo(64);
        assertThat(copy.tensors()).extracting(GgufTensor::name).containsExactly("one", "two");
        assertThat(copy.data(copy.tensors().get(0)))
                .isEqualTo(source.data(source.tensors().get(0)));
        assertThat(copy.data(copy.tensors().get(1)))
                .isEqualTo(source.data(source.tensors().get(1)));
        assertThatThrownBy(() -> GgufKvPlan.copy(copy, plan, target, (done, total) -> {}))
                .isInstanceOf(IOException.class)
                .hasMessageContaining("is the file to copy");
    }

    private static GgufWriter model() {
        return new GgufWriter().put("general.architecture", "llama").put("llama.block_count", 4);
    }

    private static GgufWriter map() {
        return model().put("llama.attention.kv_layer_map", GgufValueType.INT32, new long[] {0, 0, 2, 2});
    }

    private void read(GgufWriter writer) throws IOException {
        assertThat(GgufKvPlan.read(open(writer))).isPresent();
    }

    private GgufFile open(GgufWriter writer) throws IOException {
        Path file = folder.resolve("plan.gguf");
        writer.write(file);
        return GgufFile.open(file);
    }
}
