package io.kvfold.convert;

import io.kvfold.gguf.GgufType;
import java.util.Locale;

/** What matrices are stored in; vectors are always {@link GgufType#F32}, as in llama.cpp's own files. */
public enum OutputType {
    /** 32-bit floats. */
    F32(GgufType.F32, 0),
    /** 16-bit IEEE floats. Values beyond ±65504 are an error. */
    F16(GgufType.F16, 1),
    /** The upper half of 32-bit floats. */
    BF16(GgufType.BF16, 32),
    /** Blocks of 32 8-bit integers; matrices whose rows do not divide into blocks become {@link #F16}. */
    Q8_0(GgufType.Q8_0, 7);

    private final GgufType type;
    private final int fileType;

    OutputType(GgufType type, int fileType) {
        this.type = type;
        this.fileType = fileType;
    }

    /** How a matrix with rows of {@code columns} elements is stored. */
    GgufType matrixType(long columns) {
        return columns % type.blockElements() == 0 ? type : GgufType.F16;
    }

    /** The {@code llama_ftype} of such a file. */
    int fileType() {
        return fileType;
    }

    @Override
    public String toString() {
        return name().toLowerCase(Locale.ROOT);
    }
}
