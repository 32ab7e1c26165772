package io.kvfold.langchain4j;

import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.KvType;
import io.kvfold.NativeLibrary;
import java.nio.file.Files;
import java.nio.file.Path;

/** A real model of 260,000 weights that tells stories; it has no chat template, so llama.cpp's default (ChatML) applies. */
final class StoriesModel {

    private static final Path PATH = Path.of("../../shared/models/stories260K.gguf");

    private StoriesModel() {}

    /** The model's file; skips the test, and says why, where file or native library are missing. */
    static Path path() {
        assumeTrue(Files.exists(PATH), "no real model: " + PATH + " is missing");
        assumeTrue(NativeLibrary.isAvailable(), () -> "no native library: " + NativeLibrary.unavailabilityCause());
        return PATH;
    }

    /**
     * Without flash attention, whose sums on the CPU depend on what else is in the batch, and with cells of its own for each
     * slot, since in a pool the order of a sum depends on who else has cells. Keys and values are stored as they are computed:
     * how many tokens of a prompt are computed together depends on what a slot still holds of it, and rounded to F16 the last bit
     * of a key is another one, which is another token once in a few hundred.
     */
    static Engine.Builder engine() {
        return Engine.builder()
                .model(path())
                .contextSize(2048)
                .slots(4)
                .threads(1)
                .option("kv-unified", false)
                .kvCacheTypes(KvType.F32, KvType.F32)
                .flashAttention(FlashAttention.OFF);
    }
}
