package io.kvfold.gguf;

import java.util.Locale;
import java.util.Optional;

/**
 * How ggml stores the elements of a tensor: blocks of a fixed number of elements in a fixed number of bytes.
 *
 * <p>Block sizes as in {@code ggml-common.h} of llama.cpp v0.5.0. Types that upstream removed have no constant.
 */
public enum GgufType {
    /** IEEE 754, 32 bits. */
    F32(0, 1, 4),
    /** IEEE 754, 16 bits. */
    F16(1, 1, 2),
    /** 4 bits, one scale. */
    Q4_0(2, 32, 18),
    /** 4 bits, scale and minimum. */
    Q4_1(3, 32, 20),
    /** 5 bits, one scale. */
    Q5_0(6, 32, 22),
    /** 5 bits, scale and minimum. */
    Q5_1(7, 32, 24),
    /** 8 bits, one scale. */
    Q8_0(8, 32, 34),
    /** 8 bits, scale and sum; activations only. */
    Q8_1(9, 32, 36),
    /** 2 bits, super-block. */
    Q2_K(10, 256, 84),
    /** 3 bits, super-block. */
    Q3_K(11, 256, 110),
    /** 4 bits, super-block. */
    Q4_K(12, 256, 144),
    /** 5 bits, super-block. */
    Q5_K(13, 256, 176),
    /** 6 bits, super-block. */
    Q6_K(14, 256, 210),
    /** 8 bits, super-block; activations only. */
    Q8_K(15, 256, 292),
    /** 2.06 bits. */
    IQ2_XXS(16, 256, 66),
    /** 2.31 bits. */
    IQ2_XS(17, 256, 74),
    /** 3.06 bits. */
    IQ3_XXS(18, 256, 98),
    /** 1.56 bits. */
    IQ1_S(19, 256, 50),
    /** 4 bits, non-linear. */
    IQ4_NL(20, 32, 18),
    /** 3.44 bits. */
    IQ3_S(21, 256, 110),
    /** 2.56 bits. */
    IQ2_S(22, 256, 82),
    /** 4.25 bits, non-linear. */
    IQ4_XS(23, 256, 136),
    /** Signed, 8 bits. */
    I8(24, 1, 1),
    /** Signed, 16 bits. */
    I16(25, 1, 2),
    /** Signed, 32 bits. */
    I32(26, 1, 4),
    /** Signed, 64 bits. */
    I64(27, 1, 8),
    /** IEEE 754, 64 bits. */
    F64(28, 1, 8),
    /** 1.75 bits. */
    IQ1_M(29, 256, 56),
    /** The upper half of an F32. */
    BF16(30, 1, 2),
    /** Ternary, 1.69 bits. */
    TQ1_0(34, 256, 54),
    /** Ternary, 2.06 bits. */
    TQ2_0(35, 256, 66),
    /** Microscaling 4-bit float. */
    MXFP4(39, 32, 17),
    /** 4-bit float with E4M3 scales. */
    NVFP4(40, 64, 36),
    /** 1 bit, one scale. */
    Q1_0(41, 128, 18),
    /** 2 bits, one scale. */
    Q2_0(42, 64, 18);

    private final int id;
    private final int blockElements;
    private final int blockBytes;

    GgufType(int id, int blockElements, int blockBytes) {
        this.id = id;
        this.blockElements = blockElements;
        this.blockBytes = blockBytes;
    }

    /** The number that stands for this type in a file, {@code enum ggml_type}. */
    public int id() {
        return id;
    }

    /** Elements in a block; the first dimension of a tensor is a multiple of it. */
    public int blockElements() {
        return blockElements;
    }

    /** Bytes of a block. */
    public int blockBytes() {
        return blockBytes;
    }

    /**
     * Bytes of {@code elements} elements that lie in one row.
     *
     * @throws IllegalArgumentException if {@code elements} is negative or not a multiple of {@link #blockElements()}
     * @throws ArithmeticException if they are more bytes than a {@code long} counts
     */
    public long bytes(long elements) {
        if (elements < 0 || elements % blockElements != 0) {
            throw new IllegalArgumentException("a row of " + elements + " elements is not a multiple of " + label()
                    + "'s block of " + blockElements);
        }
        return Math.multiplyExact(elements / blockElements, (long) blockBytes);
    }

    /** The name llama.cpp uses, such as {@code "q8_0"}. K-quants keep their capital K: {@code "q4_K"}. */
    public String label() {
        String lower = name().toLowerCase(Locale.ROOT);
        return lower.endsWith("_k") ? lower.substring(0, lower.length() - 1) + "K" : lower;
    }

    /** The type a file calls {@code id}, empty if ggml has no such type. */
    public static Optional<GgufType> ofId(int id) {
        for (GgufType type : values()) {
            if (type.id == id) {
                return Optional.of(type);
            }
        }
        return Optional.empty();
    }

    /** The type with this {@link #label()}, in any case. */
    public static Optional<GgufType> ofLabel(String label) {
        for (GgufType type : values()) {
            if (type.name().equalsIgnoreCase(label)) {
                return Optional.of(type);
            }
        }
        return Optional.empty();
    }
}
