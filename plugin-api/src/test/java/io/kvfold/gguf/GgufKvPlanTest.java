package io.kvfold.gguf;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.kvfold.InvalidModelException;
import io.kvfold.InvalidPlanException;
import io.kvfold.KvPlan;
import java.io.IOException;
import java.nio.file.Path;
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
                "1_0_3s_2;window=1"
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
        assertThatThrownBy(() -> read(map().put("llama.attention.kv_prefill_passes", 1L << 31)))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("2147483648");
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
