package io.kvfold;

import java.util.List;
import java.util.Locale;
import org.jspecify.annotations.Nullable;

/**
 * Facts about an open engine that do not change.
 *
 * @param kv the KV cache as it was when the engine opened, empty; {@link Engine#kvCacheStats()} has it now
 */
public record EngineInfo(Model model, Context context, Offload offload, KvCacheStats kv) {

    /**
     * What the GGUF file says.
     *
     * @param name the file's {@code general.name}, null if it has none
     * @param description such as {@code llama 1B Q4_0}
     * @param fileType such as {@code Q4_K - Medium}
     * @param parameters number of weights
     * @param bytes size of all tensors
     * @param heads query heads of a layer
     * @param headsKv key/value heads of a layer
     * @param contextLengthTrain tokens the model was trained to attend over
     * @param vocabularyType such as {@code spm} or {@code bpe}; {@code none} if the file has no vocabulary
     * @param chatTemplate whether the file holds a chat template
     */
    public record Model(
            String path,
            @Nullable String name,
            String architecture,
            String description,
            String fileType,
            long parameters,
            long bytes,
            int layers,
            int heads,
            int headsKv,
            int embeddingLength,
            int contextLengthTrain,
            int vocabularySize,
            String vocabularyType,
            boolean chatTemplate,
            SpecialTokens tokens) {}

    /** Ids of the tokens that begin and end a text; null where the vocabulary has none. */
    public record SpecialTokens(
            @Nullable Integer bos, @Nullable Integer eos) {}

    /**
     * How the engine was opened.
     *
     * @param size tokens in all slots together
     * @param slots requests decoded side by side
     * @param sizePerSlot tokens that one request can hold, prompt and answer together
     * @param batchSize tokens handed to a decode at most
     * @param ubatchSize tokens computed at once; a cancelled prefill stops after one ubatch
     * @param kvUnified whether the slots share one KV buffer
     * @param kvPlan which layer reads whose keys and values, in the grammar of {@link KvPlan}; empty if every layer reads
     *     its own
     */
    public record Context(
            int size,
            int slots,
            int sizePerSlot,
            int batchSize,
            int ubatchSize,
            int threads,
            boolean flashAttention,
            KvType kvTypeK,
            KvType kvTypeV,
            boolean kvUnified,
            String kvPlan) {}

    /**
     * Which device holds what.
     *
     * @param layers of the model
     * @param layersOffloaded those on a device other than the CPU
     */
    public record Offload(int layers, int layersOffloaded, List<Buffers> buffers) {
        public Offload {
            buffers = List.copyOf(buffers);
        }
    }

    /** Bytes allocated on one device. */
    public record Buffers(String device, long weights, long kv, long compute) {}

    /** A report of a few lines: the model, the context, and what each device holds. */
    @Override
    public String toString() {
        StringBuilder report = new StringBuilder();
        report.append(String.format(
                Locale.ROOT,
                "%s (%s, %s): %,d parameters, %s, %d layers%n",
                model.name == null ? model.path : model.name,
                model.architecture,
                model.fileType,
                model.parameters,
                bytes(model.bytes),
                model.layers));
        report.append(String.format(
                Locale.ROOT,
                "context: %d tokens, %d slots of %d, ubatch %d, %d threads, flash attention %s%n",
                context.size,
                context.slots,
                context.sizePerSlot,
                context.ubatchSize,
                context.threads,
                context.flashAttention ? "on" : "off"));
        report.append(String.format(
                Locale.ROOT,
                "KV cache: %s/%s, %d of %d layers with storage, %d bytes per token, %s%s%n",
                context.kvTypeK.text(),
                context.kvTypeV.text(),
                kv.layersWithStorage(),
                kv.layers(),
                kv.bytesPerToken(),
                bytes(kv.bytesAllocated()),
                context.kvPlan.isEmpty() ? "" : ", plan " + context.kvPlan));
        report.append(String.format(
                Locale.ROOT, "devices: %d of %d layers offloaded", offload.layersOffloaded, offload.layers));
        for (Buffers device : offload.buffers) {
            report.append(String.format(
                    Locale.ROOT,
                    "%n  %s: weights %s, KV cache %s, compute %s",
                    device.device,
                    bytes(device.weights),
                    bytes(device.kv),
                    bytes(device.compute)));
        }
        return report.toString();
    }

    private static String bytes(long bytes) {
        return bytes < 1 << 20
                ? String.format(Locale.ROOT, "%.1f KiB", bytes / 1024.0)
                : bytes < 1 << 30
                        ? String.format(Locale.ROOT, "%.1f MiB", bytes / 1048576.0)
                        : String.format(Locale.ROOT, "%.2f GiB", bytes / 1073741824.0);
    }
}
