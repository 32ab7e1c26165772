package io.kvfold.gguf;

import io.kvfold.InvalidModelException;
import io.kvfold.ModelNotFoundException;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalDouble;
import java.util.OptionalLong;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * Metadata and tensor table of a GGUF file, version 2 or 3, little endian.
 *
 * <p>{@link #open} checks the whole header: every length, count, dimension, offset and alignment is compared with the
 * size of the file before anything is allocated for it, and what llama.cpp would refuse in a header is refused here. The
 * header is memory-mapped, values are decoded when asked for, so that a vocabulary costs no heap until then. Files of any
 * size work; a header may have at most 2 GiB.
 *
 * <p>Immutable and thread-safe. Nothing has to be closed: the mapping goes with the object. A file that is truncated by
 * somebody else while it is mapped makes later reads fail.
 *
 * <p>A typed accessor gives nothing where the key is absent and throws {@link InvalidModelException} where the value is
 * of another type.
 */
public final class GgufFile {

    // A mapping lasts until its buffer is collected: the file then cannot be replaced on Windows, and its pages count
    // as the
    // process's. So only what is too large for the heap is mapped; the headers of today's models have up to 20 MiB.
    private static final int FIRST_READ_BYTES = 1 << 20;
    private static final int LAST_READ_BYTES = 1 << 26;

    private final Path path;
    private final long fileBytes;
    private final int version;
    private final long alignment;
    private final long dataOffset;
    private final ByteBuffer header;
    private final Map<String, Value> metadata;
    private final Map<String, GgufTensor> tensors;

    /** Where a value, or the first element of an array, lies in {@link #header}. A scalar has count 1. */
    record Value(GgufValueType type, @Nullable GgufValueType elementType, int count, int position) {}

    /** What {@link GgufHeaderReader} found. */
    record Header(
            int version,
            long alignment,
            long dataOffset,
            Map<String, Value> metadata,
            Map<String, GgufTensor> tensors) {}

    private GgufFile(Path path, long fileBytes, ByteBuffer header, Header parsed) {
        this.path = path;
        this.fileBytes = fileBytes;
        this.header = header;
        this.version = parsed.version();
        this.alignment = parsed.alignment();
        this.dataOffset = parsed.dataOffset();
        this.metadata = Collections.unmodifiableMap(parsed.metadata());
        this.tensors = Collections.unmodifiableMap(parsed.tensors());
    }

    /**
     * Reads the header of {@code path}.
     *
     * @throws ModelNotFoundException if the file is missing, unreadable or a directory
     * @throws InvalidModelException if it is not a GGUF file of version 2 or 3, is truncated or contradicts itself
     */
    public static GgufFile open(Path path) {
        if (!Files.exists(path)) {
            throw new ModelNotFoundException("no such file: " + path);
        }
        if (Files.isDirectory(path)) {
            throw new ModelNotFoundException("a directory, not a GGUF file: " + path);
        }
        if (!Files.isRegularFile(path)) { // opening a pipe waits for whoever writes to it
            throw new ModelNotFoundException("not a regular file: " + path);
        }
        try (FileChannel channel = FileChannel.open(path, StandardOpenOption.READ)) {
            long fileBytes = channel.size();
            Optional<GgufFile> small = read(path, fileBytes, bytes -> start(channel, bytes));
            if (small.isPresent()) {
                return small.get();
            }
            return of(
                    path,
                    channel.map(
                            FileChannel.MapMode.READ_ONLY, 0, Math.min(fileBytes, GgufHeaderReader.MAX_HEADER_BYTES)),
                    fileBytes);
        } catch (IOException e) {
            throw new ModelNotFoundException("cannot read " + path + ": " + e, e);
        }
    }

    /** The beginning of a file that is somewhere else. */
    @FunctionalInterface
    public interface Start {

        /**
         * Called with growing numbers until the header is complete.
         *
         * @param bytes no more than the file has
         * @return the first {@code bytes} of the file
         */
        ByteBuffer read(int bytes) throws IOException;
    }

    /**
     * Reads the header of a file that is not on this machine, as {@link #open(Path)}; headers of up to 64 MiB. The data of
     * its tensors cannot be read.
     *
     * @param path what to call it
     * @param fileBytes its size
     * @throws InvalidModelException as above, and for a larger header
     * @throws IOException as {@code start} throws it
     */
    public static GgufFile open(Path path, long fileBytes, Start start) throws IOException {
        return read(path, fileBytes, start)
                .orElseThrow(() ->
                        new InvalidModelException(path + ": the header has more than " + LAST_READ_BYTES + " bytes"));
    }

    private static Optional<GgufFile> read(Path path, long fileBytes, Start start) throws IOException {
        for (int bytes = FIRST_READ_BYTES; bytes <= LAST_READ_BYTES; bytes *= 4) {
            try {
                return Optional.of(of(path, start.read((int) Math.min(bytes, fileBytes)), fileBytes));
            } catch (InvalidModelException e) {
                if (fileBytes <= bytes) {
                    throw e;
                }
                // the header may go on behind what was read
            }
        }
        return Optional.empty();
    }

    private static ByteBuffer start(FileChannel channel, int bytes) throws IOException {
        ByteBuffer start = ByteBuffer.allocate(bytes);
        while (start.hasRemaining()) {
            if (channel.read(start, start.position()) < 0) {
                break;
            }
        }
        return start.flip();
    }

    /** {@code start} is the file from its first byte, up to {@link GgufHeaderReader#MAX_HEADER_BYTES}. */
    static GgufFile of(Path path, ByteBuffer start, long fileBytes) {
        ByteBuffer header = start.order(ByteOrder.LITTLE_ENDIAN);
        return new GgufFile(path, fileBytes, header, GgufHeaderReader.read(path, header, fileBytes));
    }

    /** The file that was opened. */
    public Path path() {
        return path;
    }

    /** Size of the file in bytes. */
    public long fileBytes() {
        return fileBytes;
    }

    /** Version of the format, 2 or 3. */
    public int version() {
        return version;
    }

    /** Tensor data starts at multiples of this many bytes, counted from {@link #dataOffset()}. */
    public long alignment() {
        return alignment;
    }

    /** Offset of the first tensor's data from the start of the file. */
    public long dataOffset() {
        return dataOffset;
    }

    /** Metadata keys in the order of the file. */
    public Set<String> keys() {
        return metadata.keySet();
    }

    /** Type of the value under {@code key}, empty if there is none. */
    public Optional<GgufValueType> type(String key) {
        return Optional.ofNullable(metadata.get(key)).map(Value::type);
    }

    /** Type of the elements of the array under {@code key}, empty if there is no array. */
    public Optional<GgufValueType> elementType(String key) {
        return Optional.ofNullable(metadata.get(key)).map(Value::elementType);
    }

    /** Number of elements of the array under {@code key}; 1 for any other value, 0 if there is none. */
    public int length(String key) {
        Value value = metadata.get(key);
        return value == null ? 0 : value.count();
    }

    /** Tensors in the order of the file. */
    public List<GgufTensor> tensors() {
        return List.copyOf(tensors.values());
    }

    /** The tensor of this name. */
    public Optional<GgufTensor> tensor(String name) {
        return Optional.ofNullable(tensors.get(name));
    }

    /** Bytes of all tensors, without padding. */
    public long tensorBytes() {
        long bytes = 0;
        for (GgufTensor tensor : tensors.values()) {
            bytes += tensor.bytes();
        }
        return bytes;
    }

    /**
     * The data of one of this file's tensors, memory-mapped, read-only, little endian.
     *
     * @throws InvalidModelException if the tensor has more than 2 GiB
     * @throws ModelNotFoundException if the file cannot be read any more
     */
    public ByteBuffer data(GgufTensor tensor) {
        if (tensor.bytes() > Integer.MAX_VALUE) {
            throw new InvalidModelException(
                    "tensor " + tensor.name() + " has " + tensor.bytes() + " bytes, one buffer holds "
                            + Integer.MAX_VALUE,
                    tensor.bytes(),
                    (long) Integer.MAX_VALUE);
        }
        try (FileChannel channel = FileChannel.open(path, StandardOpenOption.READ)) {
            return channel.map(FileChannel.MapMode.READ_ONLY, tensor.offset(), tensor.bytes())
                    .order(ByteOrder.LITTLE_ENDIAN);
        } catch (IOException e) {
            throw new ModelNotFoundException("cannot read " + path + ": " + e, e);
        }
    }

    /** Writes the data of one of this file's tensors, of any size, to {@code out}. */
    void copy(GgufTensor tensor, OutputStream out) throws IOException {
        ByteBuffer chunk = ByteBuffer.allocate((int) Math.min(tensor.bytes(), 1 << 20));
        try (FileChannel channel = FileChannel.open(path, StandardOpenOption.READ)) {
            for (long done = 0; done < tensor.bytes(); ) {
                chunk.clear().limit((int) Math.min(chunk.capacity(), tensor.bytes() - done));
                int read = channel.read(chunk, tensor.offset() + done);
                if (read < 0) {
                    throw new IOException(path + " ends within tensor " + tensor.name());
                }
                out.write(chunk.array(), 0, read);
                done += read;
            }
        }
    }

    /**
     * The value of {@link GgufKeys#ARCHITECTURE}.
     *
     * @throws InvalidModelException if the file names none
     */
    public String architecture() {
        return string(GgufKeys.ARCHITECTURE)
                .orElseThrow(() -> new InvalidModelException(path + ": no " + GgufKeys.ARCHITECTURE));
    }

    /** A string. Bytes that are not UTF-8 become U+FFFD. */
    public Optional<String> string(String key) {
        return scalar(key, GgufValueType.STRING).map(value -> GgufHeaderReader.string(header, value.position()));
    }

    /** A boolean. */
    public Optional<Boolean> bool(String key) {
        return scalar(key, GgufValueType.BOOL).map(value -> header.get(value.position()) != 0);
    }

    /** A whole number of any width and signedness. */
    public OptionalLong integer(String key) {
        Value value = metadata.get(key);
        if (value == null) {
            return OptionalLong.empty();
        }
        if (!value.type().isInteger()) {
            throw wrongType(key, value, "a whole number");
        }
        return OptionalLong.of(integerAt(key, value.type(), value.position()));
    }

    /** A number of any kind, as a double. */
    public OptionalDouble number(String key) {
        Value value = metadata.get(key);
        if (value == null) {
            return OptionalDouble.empty();
        }
        if (value.type() == GgufValueType.FLOAT32) {
            return OptionalDouble.of(header.getFloat(value.position()));
        }
        if (value.type() == GgufValueType.FLOAT64) {
            return OptionalDouble.of(header.getDouble(value.position()));
        }
        if (!value.type().isInteger()) {
            throw wrongType(key, value, "a number");
        }
        return OptionalDouble.of((double) integerAt(key, value.type(), value.position()));
    }

    /** An array of strings, decoded now. */
    public Optional<List<String>> strings(String key) {
        return array(key, "strings", type -> type == GgufValueType.STRING).map(value -> {
            List<String> strings = new ArrayList<>(value.count());
            int position = value.position();
            for (int i = 0; i < value.count(); i++) {
                strings.add(GgufHeaderReader.string(header, position));
                position += 8 + (int) header.getLong(position);
            }
            return Collections.unmodifiableList(strings);
        });
    }

    /** An array of whole numbers of any width and signedness. The array is the caller's. */
    public Optional<long[]> integers(String key) {
        return array(key, "whole numbers", GgufValueType::isInteger).map(value -> {
            GgufValueType type = elementTypeOf(value);
            long[] integers = new long[value.count()];
            for (int i = 0; i < integers.length; i++) {
                integers[i] = integerAt(key, type, value.position() + i * type.bytes());
            }
            return integers;
        });
    }

    /** An array of floating point numbers. The array is the caller's. */
    public Optional<double[]> numbers(String key) {
        return array(
                        key,
                        "floating point numbers",
                        type -> type == GgufValueType.FLOAT32 || type == GgufValueType.FLOAT64)
                .map(value -> {
                    GgufValueType type = elementTypeOf(value);
                    double[] numbers = new double[value.count()];
                    for (int i = 0; i < numbers.length; i++) {
                        int position = value.position() + i * type.bytes();
                        numbers[i] =
                                type == GgufValueType.FLOAT32 ? header.getFloat(position) : header.getDouble(position);
                    }
                    return numbers;
                });
    }

    /** An array of booleans. The array is the caller's. */
    public Optional<boolean[]> bools(String key) {
        return array(key, "booleans", type -> type == GgufValueType.BOOL).map(value -> {
            boolean[] bools = new boolean[value.count()];
            for (int i = 0; i < bools.length; i++) {
                bools[i] = header.get(value.position() + i) != 0;
            }
            return bools;
        });
    }

    @Override
    public String toString() {
        return path + " (GGUF " + version + ", " + metadata.size() + " keys, " + tensors.size() + " tensors)";
    }

    private Optional<Value> scalar(String key, GgufValueType type) {
        Value value = metadata.get(key);
        if (value != null && value.type() != type) {
            throw wrongType(key, value, type == GgufValueType.BOOL ? "a boolean" : "a string");
        }
        return Optional.ofNullable(value);
    }

    private Optional<Value> array(String key, String expected, java.util.function.Predicate<GgufValueType> accepts) {
        Value value = metadata.get(key);
        if (value != null && (value.elementType() == null || !accepts.test(elementTypeOf(value)))) {
            throw wrongType(key, value, "an array of " + expected);
        }
        return Optional.ofNullable(value);
    }

    private static GgufValueType elementTypeOf(Value value) {
        GgufValueType type = value.elementType();
        if (type == null) {
            throw new IllegalArgumentException("not an array");
        }
        return type;
    }

    private InvalidModelException wrongType(String key, Value value, String expected) {
        String actual = value.elementType() == null ? value.type().name() : value.type() + " of " + value.elementType();
        return new InvalidModelException(path + ": " + key + " is " + actual + ", expected " + expected);
    }

    private long integerAt(String key, GgufValueType type, int position) {
        return switch (type) {
            case UINT8 -> header.get(position) & 0xff;
            case INT8 -> header.get(position);
            case UINT16 -> header.getShort(position) & 0xffff;
            case INT16 -> header.getShort(position);
            case UINT32 -> header.getInt(position) & 0xffffffffL;
            case INT32 -> header.getInt(position);
            case INT64 -> header.getLong(position);
            case UINT64 -> {
                long value = header.getLong(position);
                if (value < 0) {
                    throw new InvalidModelException(path + ": " + key + " is " + Long.toUnsignedString(value)
                            + ", at most " + Long.MAX_VALUE + " is supported");
                }
                yield value;
            }
            default -> throw new IllegalArgumentException(type.name());
        };
    }
}
