package io.kvfold.convert;

import java.nio.ByteBuffer;

/** The floating point formats of checkpoints and GGUF files, bit for bit as ggml converts them. */
final class Floats {

    /** Elements of a Q8_0 block, QK8_0. */
    static final int Q8_0_BLOCK = 32;

    private Floats() {}

    static float halfToFloat(short half) {
        int sign = (half & 0x8000) << 16;
        int exponent = half >>> 10 & 0x1f;
        int mantissa = half & 0x3ff;
        if (exponent == 0x1f) {
            return Float.intBitsToFloat(sign | 0x7f800000 | mantissa << 13);
        }
        if (exponent == 0) {
            float magnitude = mantissa * 0x1p-24f;
            return sign == 0 ? magnitude : -magnitude;
        }
        return Float.intBitsToFloat(sign | (exponent + 112) << 23 | mantissa << 13);
    }

    /** Rounds to nearest, ties to even; what is too large becomes infinite. */
    static short floatToHalf(float value) {
        int bits = Float.floatToRawIntBits(value);
        int sign = bits >>> 16 & 0x8000;
        int magnitude = bits & 0x7fffffff;
        if (magnitude > 0x7f800000) {
            return (short) (sign | 0x7e00);
        }
        if (magnitude >= 0x47800000) {
            return (short) (sign | 0x7c00);
        }
        if (magnitude < 0x38800000) {
            // Subnormal in 16 bits: scaling by 2^24 is exact and leaves the rounding to rint.
            return (short) (sign | (int) Math.rint(Float.intBitsToFloat(magnitude) * 0x1p24));
        }
        int shifted = magnitude - 0x38000000;
        int rounded = shifted + 0xfff + (shifted >>> 13 & 1);
        return (short) (sign | rounded >>> 13);
    }

    static float bfloatToFloat(short bfloat) {
        return Float.intBitsToFloat(bfloat << 16);
    }

    /** {@code ggml_compute_fp32_to_bf16}: to nearest, ties to even; a NaN stays one. */
    static short floatToBfloat(float value) {
        int bits = Float.floatToRawIntBits(value);
        if ((bits & 0x7fffffff) > 0x7f800000) {
            return (short) (bits >>> 16 | 64);
        }
        return (short) ((bits + 0x7fff + (bits >>> 16 & 1)) >>> 16);
    }

    /** {@code quantize_row_q8_0_ref}: appends one block per 32 values of {@code row} to {@code out}. */
    static void putQ8Row(float[] row, ByteBuffer out) {
        for (int start = 0; start < row.length; start += Q8_0_BLOCK) {
            float max = 0;
            for (int i = start; i < start + Q8_0_BLOCK; i++) {
                max = Math.max(max, Math.abs(row[i]));
            }
            float scale = max / 127;
            float inverse = scale == 0 ? 0 : 1 / scale;
            out.putShort(floatToHalf(scale));
            for (int i = start; i < start + Q8_0_BLOCK; i++) {
                out.put((byte) roundAwayFromZero(row[i] * inverse));
            }
        }
    }

    /** C's roundf. Adding a half is exact in double precision. */
    private static int roundAwayFromZero(float value) {
        int magnitude = (int) (Math.abs((double) value) + 0.5);
        return value < 0 ? -magnitude : magnitude;
    }
}
