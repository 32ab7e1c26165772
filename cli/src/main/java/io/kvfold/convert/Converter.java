package io.kvfold.convert;

import com.fasterxml.jackson.databind.JsonNode;
import io.kvfold.InvalidModelException;
import io.kvfold.InvalidPlanException;
import io.kvfold.KvPlan;
import io.kvfold.ModelNotFoundException;
import io.kvfold.gguf.GgufKeys;
import io.kvfold.gguf.GgufKvPlan;
import io.kvfold.gguf.GgufWriter;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * Converts a Hugging Face model folder into a GGUF file.
 *
 * <p>Supported are the {@code model_type}s llama, mistral, qwen2, qwen3, and those of the LCKV project: lckv-llama,
 * opt-llama and cla-llama, whose layers read other layers' keys and values. Weights come from safetensors files of type
 * F32, F16 or BF16, in one file or in shards. A folder without a tokenizer gives a model that takes token ids.
 *
 * <p>A folder of sentence-transformers says how embeddings are pooled, which the file then says, too. Its weights may be those
 * of the layers alone: without {@code model.} before their names, and without an output matrix.
 *
 * <p>What a model folds stands in the file as a {@link KvPlan}:
 *
 * <ul>
 *   <li>a model whose every layer reads its own keys and values gets no plan and is an ordinary llama.cpp file;
 *   <li>{@code force_nodiag} becomes a strict diagonal, which opt-llama always has;
 *   <li>{@code forward_passes + backward_passes}, in opt-llama {@code num_encoders + 1}, become prefill passes; {@code
 *       use_sequential} becomes an exact prefill. Without layers that read upward, neither is written;
 *   <li>{@code sliding_window} W of lckv-llama becomes a window of W + 1 tokens, which is what its flash attention, and so
 *       every published checkpoint, computes; that of mistral, qwen2 and qwen3 becomes a window of W tokens.
 * </ul>
 *
 * <p>Thread-safe; nothing is kept between calls.
 *
 * @see <a href="https://github.com/whyNLP/LCKV">LCKV</a>
 */
public final class Converter {

    private static final int QUANTIZATION_VERSION = 2; // GGML_QNT_VERSION

    private Converter() {}

    /**
     * What came out.
     *
     * @param architecture of llama.cpp
     * @param plan which layer reads whose keys and values
     * @param tensors in the file
     * @param bytes of the file
     * @param warnings what the listener was told
     */
    public record Report(String architecture, KvPlan plan, int tensors, long bytes, List<String> warnings) {

        /** Copies the list. */
        public Report {
            warnings = List.copyOf(warnings);
        }
    }

    /**
     * Converts {@code folder} and replaces {@code target} if it exists. The file appears complete or not at all.
     *
     * @throws ModelNotFoundException if {@code folder} is not a folder with a config.json
     * @throws InvalidModelException if the folder says something that is impossible, or that this converter or llama.cpp
     *     does not know; the message names it
     * @throws InvalidPlanException if the layer map is impossible
     * @throws IOException if reading or writing fails
     */
    public static Report convert(Path folder, Path target, OutputType type, ConversionListener listener)
            throws IOException {
        return convert(folder, target, type, null, listener);
    }

    /**
     * Converts a folder that does not say who reads whose keys and values, or says it in words of its own, as {@link
     * #convert(Path, Path, OutputType, ConversionListener)} does.
     *
     * @param plan as {@link KvPlan#parse(String, int)} takes it, instead of what the folder says; null for that
     * @throws InvalidPlanException if it is no plan for the model's layers
     */
    public static Report convert(
            Path folder, Path target, OutputType type, @Nullable String plan, ConversionListener listener)
            throws IOException {
        Path configFile = folder.resolve("config.json");
        if (!Files.exists(configFile)) {
            throw new ModelNotFoundException(
                    Files.isDirectory(folder) ? "no config.json in " + folder : "not a model folder: " + folder);
        }
        List<String> warnings = new ArrayList<>();
        Consumer<String> warn = message -> {
            warnings.add(message);
            listener.onWarning(message);
        };
        JsonNode json = Json.read(configFile);
        HfConfig read = HfConfig.read(configFile, json, warn);
        HfConfig config = plan == null ? read : read.withPlan(KvPlan.parse(plan, read.layers()));
        Optional<Pooling> pooling = Pooling.of(folder);
        Safetensors source = Safetensors.open(folder);
        GgufWriter writer = new GgufWriter();
        writeHyperparameters(writer, config, HfConfig.name(json).orElse(nameOf(folder)), type);
        pooling.ifPresent(how -> writer.put(GgufKeys.poolingType(config.architecture()), how.id()));
        Vocabulary vocabulary = Tokenizers.read(folder, config.vocabulary(), warn);
        vocabulary.write(writer);
        new SpecialTokens(folder, json, pooling.isPresent(), warn).write(writer, vocabulary);
        int tensors = Weights.declare(config, source, type, writer, warn);
        writer.write(target, listener::onProgress);
        return new Report(config.architecture(), config.plan(), tensors, Files.size(target), warnings);
    }

    private static void writeHyperparameters(GgufWriter writer, HfConfig config, String name, OutputType type) {
        String architecture = config.architecture();
        writer.put(GgufKeys.ARCHITECTURE, architecture)
                .put("general.type", "model")
                .put(GgufKeys.NAME, name)
                .put(GgufKeys.FILE_TYPE, type.fileType())
                .put(GgufKeys.QUANTIZATION_VERSION, QUANTIZATION_VERSION)
                .put(GgufKeys.vocabSize(architecture), config.vocabulary())
                .put(GgufKeys.contextLength(architecture), config.contextLength())
                .put(GgufKeys.embeddingLength(architecture), config.width())
                .put(GgufKeys.blockCount(architecture), config.layers())
                .put(GgufKeys.feedForwardLength(architecture), config.feedForward())
                .put(GgufKeys.headCount(architecture), config.heads())
                .put(GgufKeys.headCountKv(architecture), config.headsKv())
                .put(GgufKeys.keyLength(architecture), config.headSize())
                .put(GgufKeys.valueLength(architecture), config.headSize())
                .put(architecture + ".rope.dimension_count", config.headSize())
                .put(architecture + ".attention.layer_norm_rms_epsilon", config.normEpsilon());
        config.rope().write(writer, architecture);
        if (!config.plan().isStandard()) {
            GgufKvPlan.write(writer, architecture, config.plan());
        }
    }

    private static String nameOf(Path folder) {
        Path name = folder.toAbsolutePath().normalize().getFileName();
        return name == null ? "model" : name.toString();
    }
}
