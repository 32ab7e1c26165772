package io.kvfold.gguf;

import java.io.BufferedOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.Channels;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.AtomicMoveNotSupportedException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Writes a GGUF file, version 3, little endian.
 *
 * <p>Metadata and tensors are declared first, in the order they shall have in the file; {@link #write} then streams the
 * tensors one after the other. The file appears at its target complete or not at all: it is written beside it under a
 * temporary name and renamed at the end.
 *
 * <p>Not thread-safe. A writer can write several times.
 */
public final class GgufWriter {

    private static final int VERSION = 3;

    private final Map<String, byte[]> metadata = new LinkedHashMap<>();
    private final List<Pending> tensors = new ArrayList<>();
    private final Set<String> names = new HashSet<>();
    private long alignment = GgufHeaderReader.DEFAULT_ALIGNMENT;

    /** Writes the data of one tensor. */
    @FunctionalInterface
    public interface TensorData {
        /** Writes exactly the declared number of bytes to {@code out}. {@code out} is buffered and need not be closed. */
        void writeTo(OutputStream out) throws IOException;
    }

    /** Is told how much of the tensor data is written. */
    @FunctionalInterface
    public interface Progress {
        /**
         * Called before the first tensor and after each one.
         *
         * @param done bytes of tensor data written so far, without padding
         * @param total bytes of all tensors
         */
        void onBytes(long done, long total);
    }

    private record Pending(String name, GgufType type, List<Long> shape, long bytes, TensorData data) {}

    /** Adds a whole number that must fit {@code type}. Unsigned 64-bit values above 2^63-1 are given as negative ones. */
    public GgufWriter put(String key, GgufValueType type, long value) {
        checkRange(key, type, value);
        ByteBuffer out = value(type, type.bytes());
        putInteger(out, type, value);
        return add(key, out);
    }

    /** Adds a {@link GgufValueType#UINT32}, the type llama.cpp wants for most hyperparameters. */
    public GgufWriter put(String key, long value) {
        return put(key, GgufValueType.UINT32, value);
    }

    /** Adds a {@link GgufValueType#FLOAT32}. */
    public GgufWriter put(String key, float value) {
        return add(key, value(GgufValueType.FLOAT32, 4).putFloat(value));
    }

    /** Adds a {@link GgufValueType#FLOAT64}. */
    public GgufWriter put(String key, double value) {
        return add(key, value(GgufValueType.FLOAT64, 8).putDouble(value));
    }

    /** Adds a {@link GgufValueType#BOOL}. */
    public GgufWriter put(String key, boolean value) {
        return add(key, value(GgufValueType.BOOL, 1).put((byte) (value ? 1 : 0)));
    }

    /** Adds a {@link GgufValueType#STRING}. */
    public GgufWriter put(String key, String value) {
        byte[] utf8 = value.getBytes(StandardCharsets.UTF_8);
        return add(
                key,
                value(GgufValueType.STRING, 8L + utf8.length)
                        .putLong(utf8.length)
                        .put(utf8));
    }

    /** Adds an array of whole numbers, each of which must fit {@code elementType}. */
    public GgufWriter put(String key, GgufValueType elementType, long[] values) {
        for (long value : values) {
            checkRange(key, elementType, value);
        }
        ByteBuffer out = array(elementType, values.length, (long) elementType.bytes() * values.length);
        for (long value : values) {
            putInteger(out, elementType, value);
        }
        return add(key, out);
    }

    /** Adds an array of {@link GgufValueType#FLOAT32}. */
    public GgufWriter put(String key, float[] values) {
        ByteBuffer out = array(GgufValueType.FLOAT32, values.length, 4L * values.length);
        for (float value : values) {
            out.putFloat(value);
        }
        return add(key, out);
    }

    /** Adds an array of {@link GgufValueType#FLOAT64}. */
    public GgufWriter put(String key, double[] values) {
        ByteBuffer out = array(GgufValueType.FLOAT64, values.length, 8L * values.length);
        for (double value : values) {
            out.putDouble(value);
        }
        return add(key, out);
    }

    /** Adds an array of {@link GgufValueType#BOOL}. */
    public GgufWriter put(String key, boolean[] values) {
        ByteBuffer out = array(GgufValueType.BOOL, values.length, values.length);
        for (boolean value : values) {
            out.put((byte) (value ? 1 : 0));
        }
        return add(key, out);
    }

    /** Adds an array of {@link GgufValueType#STRING}. */
    public GgufWriter put(String key, List<String> values) {
        List<byte[]> encoded = new ArrayList<>(values.size());
        long bytes = 0;
        for (String value : values) {
            byte[] utf8 = value.getBytes(StandardCharsets.UTF_8);
            encoded.add(utf8);
            bytes += 8L + utf8.length;
        }
        ByteBuffer out = array(GgufValueType.STRING, values.size(), bytes);
        for (byte[] utf8 : encoded) {
            out.putLong(utf8.length).put(utf8);
        }
        return add(key, out);
    }

    /**
     * Sets the alignment of tensor data, 32 by default, and writes it as {@link GgufKeys#ALIGNMENT}.
     *
     * @throws IllegalArgumentException if it is not a power of two between 8 and 65536
     */
    public GgufWriter alignment(int bytes) {
        if (Integer.bitCount(bytes) != 1 || bytes < 8 || bytes > 65536) {
            throw new IllegalArgumentException("an alignment of " + bytes + " is not a power of two from 8 to 65536");
        }
        put(GgufKeys.ALIGNMENT, bytes);
        alignment = bytes;
        return this;
    }

    /**
     * Declares a tensor.
     *
     * @param name at most 63 bytes, used once
     * @param type how the elements are stored
     * @param shape 0 to 4 dimensions in ggml's order, the contiguous one first
     * @param data called during {@link #write}
     * @throws IllegalArgumentException if the name or the shape is not possible
     */
    public GgufWriter tensor(String name, GgufType type, List<Long> shape, TensorData data) {
        int nameBytes = name.getBytes(StandardCharsets.UTF_8).length;
        if (nameBytes == 0 || nameBytes > GgufHeaderReader.MAX_TENSOR_NAME_BYTES) {
            throw new IllegalArgumentException("a tensor name has 1 to " + GgufHeaderReader.MAX_TENSOR_NAME_BYTES
                    + " bytes, this one has " + nameBytes + ": " + name);
        }
        if (!names.add(name)) {
            throw new IllegalArgumentException("tensor " + name + " is declared twice");
        }
        if (shape.size() > GgufHeaderReader.MAX_DIMENSIONS) {
            throw new IllegalArgumentException("tensor " + name + " has " + shape.size() + " dimensions, at most "
                    + GgufHeaderReader.MAX_DIMENSIONS + " are possible");
        }
        long elements = 1;
        for (long dimension : shape) {
            if (dimension < 0) {
                throw new IllegalArgumentException("tensor " + name + " has a dimension of " + dimension);
            }
            elements = Math.multiplyExact(elements, dimension);
        }
        long row = shape.isEmpty() ? 1 : shape.get(0);
        if (row % type.blockElements() != 0) {
            throw new IllegalArgumentException("tensor " + name + " has rows of " + row
                    + " elements, not a multiple of " + type.label() + "'s block of " + type.blockElements());
        }
        tensors.add(new Pending(name, type, List.copyOf(shape), type.bytes(elements), data));
        return this;
    }

    /** {@link #write(Path, Progress)} without a listener. */
    public void write(Path target) throws IOException {
        write(target, (done, total) -> {});
    }

    /**
     * Writes the file and replaces {@code target} if it exists.
     *
     * @throws IOException if writing fails or a tensor gives more or fewer bytes than declared; {@code target} is then
     *     as it was
     */
    public void write(Path target, Progress progress) throws IOException {
        Path absolute = target.toAbsolutePath();
        Path directory = absolute.getParent();
        Path name = absolute.getFileName();
        if (directory == null || name == null) {
            throw new IOException("not a file name: " + target);
        }
        Path temporary = directory.resolve(
                "." + name + "." + ProcessHandle.current().pid() + "-" + Long.toHexString(System.nanoTime()) + ".part");
        try {
            try (FileChannel channel =
                    FileChannel.open(temporary, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE)) {
                writeTo(channel, progress);
                channel.force(true);
            }
            move(temporary, absolute);
        } finally {
            Files.deleteIfExists(temporary);
        }
    }

    private void writeTo(FileChannel channel, Progress progress) throws IOException {
        CountingStream out = new CountingStream(new BufferedOutputStream(Channels.newOutputStream(channel), 1 << 20));
        writeHeader(out);
        long total = 0;
        for (Pending tensor : tensors) {
            total += tensor.bytes();
        }
        long done = 0;
        progress.onBytes(0, total);
        for (Pending tensor : tensors) {
            out.pad(alignment);
            long start = out.count;
            out.limit = start + tensor.bytes();
            out.tensor = tensor.name();
            tensor.data().writeTo(out);
            out.limit = Long.MAX_VALUE;
            if (out.count - start != tensor.bytes()) {
                throw new IOException(
                        "tensor " + tensor.name() + " gave " + (out.count - start) + " bytes of its " + tensor.bytes());
            }
            done += tensor.bytes();
            progress.onBytes(done, total);
        }
        out.pad(alignment);
        out.flush();
    }

    private void writeHeader(OutputStream out) throws IOException {
        out.write(contents(le(24).putInt(GgufHeaderReader.MAGIC)
                .putInt(VERSION)
                .putLong(tensors.size())
                .putLong(metadata.size())));
        for (Map.Entry<String, byte[]> entry : metadata.entrySet()) {
            writeString(out, entry.getKey());
            out.write(entry.getValue());
        }
        long offset = 0;
        for (Pending tensor : tensors) {
            writeString(out, tensor.name());
            ByteBuffer info = le(4 + 8 * tensor.shape().size() + 12);
            info.putInt(tensor.shape().size());
            tensor.shape().forEach(info::putLong);
            out.write(contents(info.putInt(tensor.type().id()).putLong(offset)));
            offset = GgufHeaderReader.align(offset + tensor.bytes(), alignment);
        }
    }

    private static void writeString(OutputStream out, String text) throws IOException {
        byte[] utf8 = text.getBytes(StandardCharsets.UTF_8);
        out.write(contents(le(8).putLong(utf8.length)));
        out.write(utf8);
    }

    private static void move(Path from, Path to) throws IOException {
        try {
            Files.move(from, to, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
        } catch (AtomicMoveNotSupportedException e) {
            Files.move(from, to, StandardCopyOption.REPLACE_EXISTING);
        }
    }

    private GgufWriter add(String key, ByteBuffer value) {
        int keyBytes = key.getBytes(StandardCharsets.UTF_8).length;
        if (keyBytes == 0 || keyBytes > GgufHeaderReader.MAX_KEY_BYTES) {
            throw new IllegalArgumentException(
                    "a metadata key has 1 to " + GgufHeaderReader.MAX_KEY_BYTES + " bytes, this one has " + keyBytes);
        }
        if (metadata.putIfAbsent(key, contents(value)) != null) {
            throw new IllegalArgumentException("metadata key " + key + " is set twice");
        }
        return this;
    }

    private static ByteBuffer value(GgufValueType type, long bytes) {
        return le(Math.addExact(4, Math.toIntExact(bytes))).putInt(type.id());
    }

    private static ByteBuffer array(GgufValueType elementType, int count, long bytes) {
        return value(GgufValueType.ARRAY, 12 + bytes).putInt(elementType.id()).putLong(count);
    }

    private static byte[] contents(ByteBuffer written) {
        byte[] bytes = new byte[written.flip().remaining()];
        written.get(bytes);
        return bytes;
    }

    private static ByteBuffer le(int bytes) {
        return ByteBuffer.allocate(bytes).order(ByteOrder.LITTLE_ENDIAN);
    }

    private static void checkRange(String key, GgufValueType type, long value) {
        if (!type.isInteger()) {
            throw new IllegalArgumentException(key + " is a whole number, not a " + type);
        }
        int bits = 8 * type.bytes();
        boolean signed = type == GgufValueType.INT8
                || type == GgufValueType.INT16
                || type == GgufValueType.INT32
                || type == GgufValueType.INT64;
        long min = signed ? -1L << (bits - 1) : 0;
        long max = signed ? ~min : bits == 64 ? Long.MAX_VALUE : (1L << bits) - 1;
        if (bits < 64 && (value < min || value > max)) {
            throw new IllegalArgumentException(key + " = " + value + " is outside " + min + " to " + max);
        }
    }

    private static void putInteger(ByteBuffer out, GgufValueType type, long value) {
        switch (type.bytes()) {
            case 1 -> out.put((byte) value);
            case 2 -> out.putShort((short) value);
            case 4 -> out.putInt((int) value);
            default -> out.putLong(value);
        }
    }

    /** Counts what passes, and stops a tensor that gives too much before it reaches the disk. */
    private static final class CountingStream extends OutputStream {
        private final OutputStream out;
        private long count;
        private long limit = Long.MAX_VALUE;
        private String tensor = "";

        private CountingStream(OutputStream out) {
            this.out = out;
        }

        @Override
        public void write(int b) throws IOException {
            claim(1);
            out.write(b);
        }

        @Override
        public void write(byte[] bytes, int offset, int length) throws IOException {
            claim(length);
            out.write(bytes, offset, length);
        }

        @Override
        public void flush() throws IOException {
            out.flush();
        }

        private void pad(long alignment) throws IOException {
            write(new byte[(int) (GgufHeaderReader.align(count, alignment) - count)]);
        }

        private void claim(int bytes) throws IOException {
            if (bytes > limit - count) {
                throw new IOException("tensor " + tensor + " gave more bytes than it declared");
            }
            count += bytes;
        }
    }
}
