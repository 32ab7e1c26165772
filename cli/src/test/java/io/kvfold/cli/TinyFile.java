package io.kvfold.cli;

import io.kvfold.gguf.GgufKeys;
import io.kvfold.gguf.GgufType;
import io.kvfold.gguf.GgufValueType;
import io.kvfold.gguf.GgufWriter;
import java.util.List;

/** A model file that has a header and hardly any weights. */
final class TinyFile {

    private TinyFile() {}

    /** 4 layers, 2 KV heads of 32 elements: 2 * 2 * 32 * 2 = 256 bytes per token and layer in f16. */
    static GgufWriter header(String architecture) {
        return new GgufWriter()
                .put(GgufKeys.ARCHITECTURE, architecture)
                .put(GgufKeys.NAME, "tiny")
                .put(GgufKeys.blockCount(architecture), GgufValueType.UINT32, 4)
                .put(GgufKeys.embeddingLength(architecture), GgufValueType.UINT32, 128)
                .put(GgufKeys.contextLength(architecture), GgufValueType.UINT32, 512)
                .put(GgufKeys.headCount(architecture), GgufValueType.UINT32, 4)
                .put(GgufKeys.headCountKv(architecture), GgufValueType.UINT32, 2)
                .put(GgufKeys.vocabSize(architecture), GgufValueType.UINT32, 256)
                .tensor("output_norm.weight", GgufType.F32, List.of(128L), out -> out.write(new byte[512]));
    }
}
