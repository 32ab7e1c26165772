package io.kvfold.convert;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assumptions.assumeThat;

import io.kvfold.InvalidModelException;
import io.kvfold.InvalidPlanException;
import io.kvfold.KvPlan;
import io.kvfold.ModelNotFoundException;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKvPlan;
import io.kvfold.gguf.GgufTensor;
import io.kvfold.gguf.GgufType;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class ConverterTest {

    private static final Path GOLDEN = Path.of("../../shared/golden");

    @TempDir
    Path folder;

    @ParameterizedTest
    @CsvSource({
        "llama, 0_1_2_3_4_5_6_7",
        "cla2, 0_0_2_2_4_4_6_6",
        "lckv_w2, 0_6_6_6_6_6_6_7;passes=9",
        "lckv_w2_nodiag, 0_6_6_6_6_6_6_7;strict;passes=9",
        "yoco_sw8, 0s_1s_2s_3s_4_4_4_4;window=9"
    })
    void convertsTheGoldenModels(String name, String plan) throws IOException {
        assumeThat(GOLDEN).as("the golden models are not at hand").exists();

        GgufFile file = convert(GOLDEN.resolve(name), OutputType.F32);

        KvPlan expected = KvPlan.parse(plan);
        assertThat(file.architecture()).isEqualTo("llama");
        assertThat(GgufKvPlan.read(file).orElse(KvPlan.standard(8))).isEqualTo(expected);
        assertThat(GgufKvPlan.read(file).isEmpty()).isEqualTo(expected.isStandard());
        for (int layer = 0; layer < 8; layer++) {
            for (String tensor : List.of("attn_k", "attn_v")) {
                assertThat(file.tensor("blk." + layer + "." + tensor + ".weight")
                                .isPresent())
                        .isEqualTo(expected.isProducer(layer));
            }
        }
        assertThat(file.tensors()).hasSize(3 + 8 * 7 + 2 * expected.kvLayerCount());
        assertThat(file.integer("llama.vocab_size")).hasValue(256);
        assertThat(file.string("tokenizer.ggml.model")).contains("none");
    }

    @Test
    void writesTheHyperparametersThatLlamaCppReads() throws IOException {
        GgufFile file = convert(
                ModelFolder.of(folder, "llama").set("rope_theta", 500000.0).write(), OutputType.F32);

        assertThat(file.integer("llama.block_count")).hasValue(3);
        assertThat(file.integer("llama.context_length")).hasValue(256);
        assertThat(file.integer("llama.embedding_length")).hasValue(32);
        assertThat(file.integer("llama.feed_forward_length")).hasValue(64);
        assertThat(file.integer("llama.attention.head_count")).hasValue(4);
        assertThat(file.integer("llama.attention.head_count_kv")).hasValue(2);
        assertThat(file.integer("llama.attention.key_length")).hasValue(8);
        assertThat(file.integer("llama.rope.dimension_count")).hasValue(8);
        assertThat(file.number("llama.rope.freq_base")).hasValue(500000);
        assertThat(file.number("llama.attention.layer_norm_rms_epsilon")).hasValue(1e-5f);
        assertThat(file.integer("general.file_type")).hasValue(0);
    }

    @Test
    void interleavesTheRotaryHalvesOfQueriesAndKeysOnly() throws IOException {
        ModelFolder model = ModelFolder.of(folder, "llama");
        GgufFile file = convert(model.write(), OutputType.F32);

        float[] query = model.values("model.layers.1.self_attn.q_proj.weight");
        float[] converted = floats(file, "blk.1.attn_q.weight");
        for (int head = 0; head < 4; head++) {
            for (int pair = 0; pair < 4; pair++) {
                assertThat(row(converted, head * 8 + 2 * pair)).isEqualTo(row(query, head * 8 + pair));
                assertThat(row(converted, head * 8 + 2 * pair + 1)).isEqualTo(row(query, head * 8 + 4 + pair));
            }
        }
        assertThat(row(floats(file, "blk.1.attn_k.weight"), 9))
                .isEqualTo(row(model.values("model.layers.1.self_attn.k_proj.weight"), 12));
        assertThat(floats(file, "blk.1.attn_v.weight"))
                .isEqualTo(model.values("model.layers.1.self_attn.v_proj.weight"));
    }

    @Test
    void convertsQwenWithItsBiasesAndNormsAsTheyStand() throws IOException {
        ModelFolder qwen2 = ModelFolder.of(folder.resolve("qwen2"), "qwen2");
        ModelFolder qwen3 = ModelFolder.of(folder.resolve("qwen3"), "qwen3");
        for (int layer = 0; layer < 3; layer++) {
            String prefix = "model.layers." + layer + ".self_attn.";
            qwen2.add(prefix + "q_proj.bias", 32)
                    .add(prefix + "k_proj.bias", 16)
                    .add(prefix + "v_proj.bias", 16);
            qwen3.add(prefix + "q_norm.weight", 8).add(prefix + "k_norm.weight", 8);
        }
        qwen2.set("use_sliding_window", false).set("sliding_window", 128).set("max_window_layers", 1);

        GgufFile second = convert(qwen2.write(), OutputType.F32);
        GgufFile third = convert(qwen3.write(), OutputType.F32);

        assertThat(second.architecture()).isEqualTo("qwen2");
        assertThat(floats(second, "blk.2.attn_q.bias")).isEqualTo(qwen2.values("model.layers.2.self_attn.q_proj.bias"));
        assertThat(floats(second, "blk.0.attn_q.weight"))
                .isEqualTo(qwen2.values("model.layers.0.self_attn.q_proj.weight"));
        assertThat(GgufKvPlan.read(second)).isEmpty();
        assertThat(third.architecture()).isEqualTo("qwen3");
        assertThat(third.tensor("blk.0.attn_k_norm.weight")).isPresent();

        qwen2.remove("model.layers.1.self_attn.v_proj.bias");
        assertThatThrownBy(() -> convert(qwen2.write(), OutputType.F32))
                .hasMessageContaining("no tensor model.layers.1.self_attn.v_proj.bias");
    }

    @Test
    void permutesBiasesOfLlamaLikeTheirMatrices() throws IOException {
        ModelFolder model = ModelFolder.of(folder, "llama")
                .set("attention_bias", true)
                .add("model.layers.0.self_attn.q_proj.bias", 32)
                .add("model.layers.0.self_attn.o_proj.bias", 32);

        GgufFile file = convert(model.write(), OutputType.F32);

        float[] bias = model.values("model.layers.0.self_attn.q_proj.bias");
        assertThat(floats(file, "blk.0.attn_q.bias")).startsWith(bias[0], bias[4], bias[1], bias[5]);
        assertThat(file.tensor("blk.0.attn_output.bias")).isPresent();
    }

    @Test
    void readsShardsLikeOneFile() throws IOException {
        Path one = ModelFolder.of(folder.resolve("one"), "llama")
                .set("_name_or_path", "x")
                .write();
        Path shards = ModelFolder.of(folder.resolve("shards"), "llama")
                .set("_name_or_path", "x")
                .writeSharded();

        assertThat(convert(shards, OutputType.F32).path())
                .hasSameBinaryContentAs(convert(one, OutputType.F32).path());
    }

    @ParameterizedTest
    @CsvSource({"F16, 1, F16", "BF16, 32, BF16", "Q8_0, 7, Q8_0"})
    void storesMatricesInTheTypeAskedForAndVectorsInFull(OutputType type, long fileType, GgufType stored)
            throws IOException {
        ModelFolder model = ModelFolder.of(folder, "llama");
        GgufFile file = convert(model.write(), type);

        assertThat(file.integer("general.file_type")).hasValue(fileType);
        GgufTensor matrix = file.tensor("output.weight").orElseThrow();
        assertThat(matrix.type()).isEqualTo(stored);
        assertThat(file.tensor("blk.0.attn_norm.weight").orElseThrow().type()).isEqualTo(GgufType.F32);
        float[] original = model.values("lm_head.weight");
        ByteBuffer data = file.data(matrix);
        for (int i = 0; i < original.length; i++) {
            float read = switch (type) {
                case F16 -> Floats.halfToFloat(data.getShort(2 * i));
                case BF16 -> Floats.bfloatToFloat(data.getShort(2 * i));
                default -> Floats.halfToFloat(data.getShort(i / 32 * 34)) * data.get(i / 32 * 34 + 2 + i % 32);
            };
            assertThat((double) read).isCloseTo(original[i], org.assertj.core.data.Offset.offset(0.004));
        }
    }

    @Test
    void fallsBackToF16WhereRowsDoNotDivideIntoBlocks() throws IOException {
        ModelFolder model = ModelFolder.of(folder, "llama").set("intermediate_size", 48);
        for (int layer = 0; layer < 3; layer++) {
            String prefix = "model.layers." + layer + ".mlp.";
            model.add(prefix + "gate_proj.weight", 48, 32)
                    .add(prefix + "up_proj.weight", 48, 32)
                    .add(prefix + "down_proj.weight", 32, 48);
        }

        GgufFile file = convert(model.write(), OutputType.Q8_0);

        assertThat(file.tensor("blk.0.ffn_down.weight").orElseThrow().type()).isEqualTo(GgufType.F16);
        assertThat(file.tensor("blk.0.ffn_up.weight").orElseThrow().type()).isEqualTo(GgufType.Q8_0);
    }

    @Test
    void refusesToLetAValueOverflow() throws IOException {
        ModelFolder model = ModelFolder.of(folder, "llama");
        model.values("lm_head.weight")[5] = 1e6f;

        assertThatThrownBy(() -> convert(model.write(), OutputType.F16))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("lm_head.weight has the value 1000000.0, f16 ends at 65504");
        try (Stream<Path> files = Files.list(folder)) {
            assertThat(files.map(file -> file.getFileName().toString()))
                    .containsExactlyInAnyOrder("config.json", "model.safetensors");
        }
    }

    @Test
    void leavesOutATiedOutputMatrix() throws IOException {
        ModelFolder model = ModelFolder.of(folder, "llama").set("tie_word_embeddings", true);

        assertThat(convert(model.write(), OutputType.F32).tensor("output.weight"))
                .isEmpty();
        assertThat(convert(model.remove("lm_head.weight").write(), OutputType.F32)
                        .tensor("output.weight"))
                .isEmpty();
        model.set("tie_word_embeddings", false);
        assertThatThrownBy(() -> convert(model.write(), OutputType.F32))
                .hasMessageContaining("no tensor lm_head.weight");
    }

    @Test
    void namesTheProducerThatLacksKeysAndWhoReadsThem() throws IOException {
        Path lacking = ModelFolder.of(folder, "lckv-llama")
                .set("layer_types", "0_2_2")
                .consumers(1)
                .remove("model.layers.2.self_attn.v_proj.weight")
                .write();

        assertThatThrownBy(() -> convert(lacking, OutputType.F32))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("layer 2, whose keys and values are read by layers [1, 2], has no tensor"
                        + " model.layers.2.self_attn.v_proj.weight");
    }

    @Test
    void leavesOutKeysThatNobodyReadsWithAWarning() throws IOException {
        ModelFolder model = ModelFolder.of(folder, "lckv-llama").set("layer_types", "0_2_2");
        List<String> warnings = new ArrayList<>();

        Converter.Report report = convert(model.write(), OutputType.F32, warnings);

        assertThat(warnings)
                .anySatisfy(
                        warning -> assertThat(warning)
                                .contains(
                                        "nobody reads, of layers [1]: 2 tensors such as model.layers.1.self_attn.k_proj.weight"));
        assertThat(report.warnings()).isEqualTo(warnings);
        assertThat(report.plan()).isEqualTo(KvPlan.parse("0_2_2;passes=9"));
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "{\"layer_types\":\"0_2_2\",\"force_nodiag\":true}                        | 0_2_2;strict;passes=9",
                "{\"layer_types\":\"0_2_2\",\"forward_passes\":3,\"backward_passes\":1}   | 0_2_2;passes=4",
                "{\"layer_types\":\"0_2_2\",\"use_sequential\":true}                      | 0_2_2;exact",
                "{\"layer_types\":\"0_0s_2\",\"use_sequential\":true}                     | 0_0s_2;window=4097",
                "{\"layer_types\":\"0_0s_2s\",\"sliding_window\":16}                      | 0_0s_2s;window=17",
                "{\"layer_types\":\"1_2_0\"}                                              | 1_2_0;passes=9",
                "{\"layer_types\":\"0_1_2\",\"force_nodiag\":true}                        | 0_1_2;strict",
                "{}                                                                       | 0_1_2"
            })
    void readsThePlansOfLckv(String extra, String plan) throws IOException {
        assertThat(planOf("lckv-llama", extra)).isEqualTo(KvPlan.parse(plan));
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "opt-llama | {\"layer_types\":\"0_1_2\",\"num_encoders\":8,\"num_trained_encoders\":1,\"target_layer\":-1} | 0_2_2;strict;passes=9",
                "opt-llama | {\"layer_types\":\"1_2_0\",\"num_encoders\":4,\"target_layer\":-2,\"train_kv\":false}        | 1_1_2;strict;passes=5",
                "opt-llama | {\"layer_types\":\"2_1_0\"}                                                                  | 0_0_2;strict",
                "cla-llama | {\"layer_types\":\"2_1_1\"}                                                                  | 0_0_0",
                "cla-llama | {\"layer_types\":\"0_2_1\"}                                                                  | 0_1_1",
                "mistral   | {\"sliding_window\":16}                                                                      | 0s_1s_2s;window=16",
                "mistral   | {\"sliding_window\":4096}                                                                    | 0_1_2",
                "mistral   | {\"sliding_window\":null}                                                                    | 0_1_2",
                "qwen3     | {\"sliding_window\":16,\"use_sliding_window\":true,\"max_window_layers\":1}                  | 0_1s_2s;window=16",
                "qwen3     | {\"sliding_window\":16,\"layer_types\":[\"sliding_attention\",\"full_attention\",\"full_attention\"]} | 0s_1_2;window=16"
            })
    void readsThePlansOfOtherModels(String modelType, String extra, String plan) throws IOException {
        assertThat(planOf(modelType, extra)).isEqualTo(KvPlan.parse(plan));
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "gemma2     | {}                                                   | model_type is \"gemma2\", supported are",
                "llama      | {\"hidden_act\":\"gelu\"}                            | hidden_act is \"gelu\"",
                "llama      | {\"num_local_experts\":8}                            | unknown key num_local_experts = 8",
                "llama      | {\"quantization_config\":{\"bits\":4}}               | unknown key quantization_config",
                "llama      | {\"num_hidden_layers\":0}                            | num_hidden_layers is 0, possible are 1 to 512",
                "llama      | {\"num_hidden_layers\":\"3\"}                        | num_hidden_layers is \"3\", expected a whole number",
                "llama      | {\"num_key_value_heads\":3}                          | not a multiple of num_key_value_heads 3",
                "llama      | {\"vocab_size\":41}                                  | has the shape [40, 32], the configuration says [41, 32]",
                "llama      | {\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}       | has the type \"dynamic\", supported are",
                "llama      | {\"rope_scaling\":{\"type\":\"linear\"}}             | needs a positive factor",
                "llama      | {\"rope_scaling\":{\"type\":\"linear\",\"factor\":2,\"odd\":1}} | has odd = 1, which is not supported",
                "llama      | {\"sliding_window\":5}                               | sliding_window is set",
                "llama      | {\"partial_rotary_factor\":0.5}                      | partial_rotary_factor is 0.5, supported is only 1.0",
                "lckv-llama | {\"layer_types\":\"cla:2\"}                          | layer_types is \"cla:2\"",
                "opt-llama  | {\"layer_types\":\"0_2_2\"}                          | two targets, layers 1 and 2",
                "opt-llama  | {\"layer_types\":\"0_1_1\"}                          | has no target",
                "opt-llama  | {\"layer_types\":\"0_1_2\",\"target_layer\":1}       | the target at layer 2",
                "opt-llama  | {}                                                   | layer_types is missing, expected a text",
                "cla-llama  | {\"layer_types\":\"1_2_1\"}                          | but there is none",
                "cla-llama  | {\"layer_types\":\"2_1\"}                            | has 2 layers, num_hidden_layers is 3",
                "cla-llama  | {\"layer_types\":\"2_1_3\"}                          | layer 2 is \"3\", expected 0, 1 or 2"
            })
    void namesTheKeyThatItCannotConvert(String modelType, String extra, String message) {
        assertThatThrownBy(() -> planOf(modelType, extra))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining(message);
    }

    @Test
    void rejectsAMapOfTheWrongLengthOrWithALayerThatIsNotThere() {
        assertThatThrownBy(() -> planOf("lckv-llama", "{\"layer_types\":\"0_1\"}"))
                .isInstanceOf(InvalidPlanException.class);
        assertThatThrownBy(() -> planOf("lckv-llama", "{\"layer_types\":\"0_1_3\"}"))
                .isInstanceOf(InvalidPlanException.class);
    }

    @Test
    void rejectsATensorThatItDoesNotKnow() {
        ModelFolder model = ModelFolder.of(folder, "llama").add("model.layers.0.self_attn.g_proj.weight", 1);

        assertThatThrownBy(() -> convert(model.write(), OutputType.F32))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("model.layers.0.self_attn.g_proj.weight is not one that model_type llama has");
    }

    @Test
    void tellsAMissingFolderFromOneWithoutAModel() {
        assertThatThrownBy(() -> convert(folder.resolve("none"), OutputType.F32))
                .isInstanceOf(ModelNotFoundException.class)
                .hasMessageContaining("not a model folder");
        assertThatThrownBy(() -> convert(folder, OutputType.F32))
                .isInstanceOf(ModelNotFoundException.class)
                .hasMessageContaining("no config.json");
    }

    @Test
    void writesLlama3sFrequencyFactors() throws IOException {
        GgufFile file = convert(
                ModelFolder.of(folder, "llama")
                        .set("rope_theta", 500000.0)
                        .set(
                                "rope_scaling",
                                Map.of(
                                        "rope_type", "llama3",
                                        "factor", 8.0,
                                        "low_freq_factor", 1.0,
                                        "high_freq_factor", 4.0,
                                        "original_max_position_embeddings", 8192))
                        .write(),
                OutputType.F32);

        // Wavelengths 2π·500000^(i/4): 6.28, 167, 4443, 118143 against the ramp from 2048 to 8192.
        double wavelength = 2 * Math.PI * Math.pow(500000, 0.5);
        double smooth = (8192 / wavelength - 1) / 3;
        float[] factors = floats(file, "rope_freqs.weight");
        assertThat(factors).hasSize(4);
        assertThat(factors[0]).isEqualTo(1);
        assertThat(factors[1]).isEqualTo(1);
        assertThat(factors[2]).isEqualTo((float) (1 / ((1 - smooth) / 8 + smooth)));
        assertThat(factors[3]).isEqualTo(8);
    }

    @Test
    void writesLinearAndYarnScaling() throws IOException {
        GgufFile linear = convert(
                ModelFolder.of(folder.resolve("linear"), "llama")
                        .set("rope_scaling", Map.of("type", "linear", "factor", 4.0))
                        .write(),
                OutputType.F32);
        GgufFile yarn = convert(
                ModelFolder.of(folder.resolve("yarn"), "llama")
                        .set(
                                "rope_parameters",
                                Map.of(
                                        "rope_type", "yarn",
                                        "rope_theta", 1000000.0,
                                        "factor", 4.0,
                                        "attention_factor", 1.0,
                                        "original_max_position_embeddings", 64))
                        .write(),
                OutputType.F32);

        assertThat(linear.string("llama.rope.scaling.type")).contains("linear");
        assertThat(linear.number("llama.rope.scaling.factor")).hasValue(4);
        assertThat(yarn.string("llama.rope.scaling.type")).contains("yarn");
        assertThat(yarn.number("llama.rope.freq_base")).hasValue(1000000);
        assertThat(yarn.integer("llama.rope.scaling.original_context_length")).hasValue(64);
        assertThat(yarn.number("llama.rope.scaling.attn_factor")).hasValue((float) (1 / (0.1 * Math.log(4) + 1)));
    }

    @Test
    void reportsProgressUpToTheWholeFile() throws IOException {
        List<Long> done = new ArrayList<>();
        long[] expected = new long[1];
        Converter.convert(
                ModelFolder.of(folder, "llama").write(),
                folder.resolve("out.gguf"),
                OutputType.F32,
                new ConversionListener() {
                    @Override
                    public void onProgress(long bytes, long total) {
                        done.add(bytes);
                        expected[0] = total;
                    }
                });

        assertThat(done).startsWith(0L).isSorted().endsWith(expected[0]);
    }

    private KvPlan planOf(String modelType, String extra) throws IOException {
        ModelFolder model = ModelFolder.of(folder, modelType);
        Json.parse("extra", extra.getBytes(java.nio.charset.StandardCharsets.UTF_8))
                .properties()
                .forEach(entry -> model.config.set(entry.getKey(), entry.getValue()));
        if (modelType.startsWith("qwen3")) {
            for (int layer = 0; layer < 3; layer++) {
                String prefix = "model.layers." + layer + ".self_attn.";
                model.add(prefix + "q_norm.weight", 8).add(prefix + "k_norm.weight", 8);
            }
        }
        return convert(model.write(), OutputType.F32, new ArrayList<>()).plan();
    }

    private Converter.Report convert(Path source, OutputType type, List<String> warnings) throws IOException {
        return Converter.convert(source, folder.resolve("warned.gguf"), type, new ConversionListener() {
            @Override
            public void onWarning(String message) {
                warnings.add(message);
            }
        });
    }

    private GgufFile convert(Path source, OutputType type) throws IOException {
        Path target = folder.resolve(source.getFileName() + ".gguf");
        Converter.convert(source, target, type, ConversionListener.NONE);
        return GgufFile.open(target);
    }

    private static float[] floats(GgufFile file, String name) {
        GgufTensor tensor = file.tensor(name).orElseThrow();
        float[] values = new float[(int) tensor.elements()];
        file.data(tensor).asFloatBuffer().get(values);
        return values;
    }

    private static List<Float> row(float[] matrix, int row) {
        return IntStream.range(row * 32, row * 32 + 32).mapToObj(i -> matrix[i]).toList();
    }
}
