package io.kvfold.gguf;

import java.util.List;

/**
 * One line of a file's tensor table.
 *
 * @param name unique in the file, at most 63 bytes
 * @param type how the elements are stored
 * @param shape 0 to 4 dimensions in ggml's order: the first one is contiguous in memory, so that a matrix of {@code rows
 *     × columns} has the shape {@code [columns, rows]}
 * @param offset of the first byte from the start of the file
 * @param bytes of the data, without padding
 */
public record GgufTensor(String name, GgufType type, List<Long> shape, long offset, long bytes) {

    /** Copies the shape. */
    public GgufTensor {
        shape = List.copyOf(shape);
    }

    /** Number of elements, the product of the shape; 1 for a scalar. */
    public long elements() {
        long elements = 1;
        for (long dimension : shape) {
            elements *= dimension;
        }
        return elements;
    }
}
