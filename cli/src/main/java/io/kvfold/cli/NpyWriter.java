package io.kvfold.cli;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.channels.WritableByteChannel;
import java.nio.charset.StandardCharsets;
import java.util.function.IntFunction;

/**
 * Writes a float32 matrix in NumPy's file format, version 1.0.
 *
 * @see <a href="https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html">numpy.lib.format</a>
 */
final class NpyWriter {

    private static final byte[] MAGIC = {(byte) 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};
    private static final int ALIGNMENT = 64;

    private NpyWriter() {}

    /**
     * Writes a C-ordered little-endian float32 array of shape [rows, columns].
     *
     * @param row gives the {@code columns} values of a row, asked for in order
     */
    static void write(WritableByteChannel out, int rows, int columns, IntFunction<FloatBuffer> row) throws IOException {
        writeFully(out, header(rows, columns));
        ByteBuffer bytes = ByteBuffer.allocate(columns * Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);
        for (int i = 0; i < rows; i++) {
            FloatBuffer values = row.apply(i);
            if (values.remaining() != columns) {
                throw new IllegalArgumentException(
                        "row " + i + " has " + values.remaining() + " values, not " + columns);
            }
            bytes.clear();
            bytes.asFloatBuffer().put(values);
            writeFully(out, bytes);
        }
    }

    /** Magic, length of the dictionary, and the dictionary, padded so that the data starts aligned. */
    private static ByteBuffer header(int rows, int columns) {
        String dictionary = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + rows + ", " + columns + "), }";
        int unpadded = MAGIC.length + Short.BYTES + dictionary.length() + 1;
        int padding = Math.floorMod(-unpadded, ALIGNMENT);
        String padded = dictionary + " ".repeat(padding) + "\n";
        return ByteBuffer.allocate(unpadded + padding)
                .order(ByteOrder.LITTLE_ENDIAN)
                .put(MAGIC)
                .putShort((short) padded.length())
                .put(padded.getBytes(StandardCharsets.US_ASCII))
                .flip();
    }

    private static void writeFully(WritableByteChannel out, ByteBuffer bytes) throws IOException {
        while (bytes.hasRemaining()) {
            out.write(bytes);
        }
    }
}
