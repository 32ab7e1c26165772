package io.kvfold.gguf;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assumptions.assumeThat;

import io.kvfold.InvalidModelException;
import io.kvfold.InvalidPlanException;
import io.kvfold.KvPlan;
import io.kvfold.UnsupportedOperationByModelException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class MemoryEstimateTest {

    @TempDir
    Path folder;

    @Test
    void countsTinyLlamaAsTheFoldingPapersDo() throws IOException {
        GgufWriter tinyLlama = model("llama", 22, 2048, 32).put("llama.attention.head_count_kv", 4);
        KvPlan lckv = KvPlan.parse("lckv:2", 22);
        GgufFile file = open(tinyLlama);

        MemoryEstimate standard = MemoryEstimate.of(file);
        MemoryEstimate folded = MemoryEstimate.of(file, lckv, GgufType.F16, GgufType.F16);

        assertThat(standard.kvBytesPerToken()).isEqualTo(2 * 2 * 4 * 64 * 22);
        assertThat(standard.kvBytes(2048)).isEqualTo(2048 * standard.kvBytesPerToken());
        assertThat(folded.kvBytesPerToken()).isEqualTo(2 * 2 * 4 * 64 * 3);
        assertThat(folded.storage()).extracting(MemoryEstimate.Storage::layer).containsExactly(0, 20, 21);
        assertThat(standard.exact()).isTrue();
    }

    @Test
    void roundsTheContextAsLlamaCppDoes() throws IOException {
        MemoryEstimate estimate = MemoryEstimate.of(open(model("llama", 1, 64, 1)));

        assertThat(estimate.kvBytes(1)).isEqualTo(256 * 256);
        assertThat(estimate.kvBytes(1000, 3, false, 512)).isEqualTo(3 * 512 * 256);
        assertThat(estimate.kvBytes(1000, 3, true, 512)).isEqualTo(1024 * 256);
    }

    @Test
    void countsBlocksOfQuantisedKeysAndValues() throws IOException {
        GgufFile file = open(model("llama", 2, 64, 1));

        assertThat(MemoryEstimate.of(file, null, GgufType.Q8_0, GgufType.Q4_0).kvBytesPerToken())
                .isEqualTo(2 * (2 * 34 + 2 * 18));
        assertThatThrownBy(() -> MemoryEstimate.of(file, null, GgufType.Q4_K, GgufType.F16))
                .isInstanceOf(UnsupportedOperationByModelException.class)
                .hasMessageContaining("64 elements does not divide into q4_K's blocks of 256");
    }

    @Test
    void readsThePlanOfTheFileWithItsWindow() throws IOException {
        GgufWriter writer = model("llama", 4, 64, 1);
        GgufKvPlan.write(writer, "llama", KvPlan.parse("0s_1s_2_2;window=9"));

        MemoryEstimate estimate = MemoryEstimate.of(open(writer));

        assertThat(estimate.storage())
                .extracting(MemoryEstimate.Storage::windowed)
                .containsExactly(true, true, false);
        assertThat(estimate.kvBytes(4096, 1, false, 16)).isEqualTo((256 + 256 + 4096) * 256);
    }

    @Test
    void honoursHeadCountsThatDifferBetweenLayers() throws IOException {
        GgufWriter writer =
                model("deci", 3, 64, 2).put("deci.attention.head_count_kv", GgufValueType.UINT32, new long[] {2, 0, 1});

        assertThat(MemoryEstimate.of(open(writer)).kvBytesPerToken()).isEqualTo(2 * 2 * 32 * 3);
    }

    @Test
    void knowsTheWindowsOfGemma() throws IOException {
        MemoryEstimate gemma3 =
                MemoryEstimate.of(open(model("gemma3", 12, 64, 1).put("gemma3.attention.sliding_window", 512)));

        assertThat(gemma3.storage()).filteredOn(layer -> !layer.windowed()).hasSize(2);
        assertThat(gemma3.kvBytes(8192, 1, false, 512)).isEqualTo((10 * 1024 + 2 * 8192) * 256L);
        assertThat(gemma3.exact()).isTrue();

        MemoryEstimate gemma3n =
                MemoryEstimate.of(open(model("gemma3n", 30, 64, 1).put("gemma3n.attention.sliding_window", 512)));
        assertThat(gemma3n.storage()).hasSize(20);
    }

    @Test
    void saysWhenItOnlyKnowsAnUpperBound() throws IOException {
        MemoryEstimate llama4 =
                MemoryEstimate.of(open(model("llama4", 4, 64, 1).put("llama4.attention.sliding_window", 8192)));

        assertThat(llama4.exact()).isFalse();
        assertThat(llama4.note()).startsWith("upper bound");
        assertThat(llama4.kvBytesPerToken()).isEqualTo(4 * 256);
    }

    @Test
    void countsALatentCacheOnce() throws IOException {
        MemoryEstimate deepseek = MemoryEstimate.of(open(model("deepseek2", 27, 2048, 16)
                .put("deepseek2.attention.head_count_kv", 1)
                .put("deepseek2.attention.key_length", 576)
                .put("deepseek2.attention.value_length", 512)
                .put("deepseek2.attention.key_length_mla", 192)));

        assertThat(deepseek.kvBytesPerToken()).isEqualTo(27 * 576 * 2);
    }

    @ParameterizedTest
    @ValueSource(strings = {"mamba", "rwkv7", "jamba", "qwen35", "deepseek32"})
    void refusesModelsWithoutAnOrdinaryCache(String architecture) throws IOException {
        GgufFile file = open(model(architecture, 2, 64, 1));

        assertThatThrownBy(() -> MemoryEstimate.of(file))
                .isInstanceOf(UnsupportedOperationByModelException.class)
                .hasMessageContaining(architecture);
    }

    @Test
    void refusesAPlanThatTheModelCannotHave() throws IOException {
        GgufFile llama = open(model("llama", 4, 64, 1));
        assertThatThrownBy(() -> MemoryEstimate.of(llama, KvPlan.standard(5), GgufType.F16, GgufType.F16))
                .isInstanceOf(InvalidPlanException.class)
                .hasMessageContaining("the KV plan has 5 layers");

        GgufFile gemma = open(model("gemma3", 4, 64, 1).put("gemma3.attention.sliding_window", 512));
        assertThatThrownBy(() -> MemoryEstimate.of(gemma, KvPlan.parse("0_0_2_2"), GgufType.F16, GgufType.F16))
                .isInstanceOf(InvalidPlanException.class)
                .hasMessageContaining("architecture gemma3 has a KV cache of its own pattern");
        assertThat(MemoryEstimate.of(gemma, KvPlan.standard(4), GgufType.F16, GgufType.F16))
                .isEqualTo(MemoryEstimate.of(gemma));
    }

    @Test
    void rejectsAbsurdMetadata() throws IOException {
        assertThatThrownBy(() -> MemoryEstimate.of(open(new GgufWriter().put("general.architecture", "llama"))))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("no llama.block_count");
        assertThatThrownBy(() -> MemoryEstimate.of(open(model("llama", 1_000_000, 64, 1))))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("1000000 layers");
        assertThatThrownBy(() -> MemoryEstimate.of(open(model("llama", 2, 64, 0))))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("head_count");
    }

    @Test
    void countsTheStoryModel() throws IOException {
        Path stories = Path.of("../../shared/models/stories260K.gguf");
        assumeThat(Files.exists(stories)).as("the story model is not at hand").isTrue();

        MemoryEstimate estimate = MemoryEstimate.of(GgufFile.open(stories));

        assertThat(estimate.layers()).isEqualTo(5);
        assertThat(estimate.kvBytesPerToken()).isEqualTo(5 * 2 * 2 * 4 * 8);
        assertThat(estimate.weightBytes()).isBetween(1_000_000L, 1_185_376L);
    }

    private static GgufWriter model(String architecture, int layers, int width, int heads) {
        return new GgufWriter()
                .put("general.architecture", architecture)
                .put(architecture + ".block_count", layers)
                .put(architecture + ".embedding_length", width)
                .put(architecture + ".attention.head_count", heads)
                .tensor("token_embd.weight", GgufType.F32, List.of(1L), out -> out.write(new byte[4]));
    }

    private GgufFile open(GgufWriter writer) throws IOException {
        Path file = folder.resolve("model.gguf");
        writer.write(file);
        return GgufFile.open(file);
    }
}
