package io.kvfold.gguf;

import io.kvfold.InvalidModelException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Walks once over a GGUF header and checks it. The input is hostile until this has returned. */
final class GgufHeaderReader {

    static final long MAX_HEADER_BYTES = Integer.MAX_VALUE;

    /** "GGUF", little endian. */
    static final int MAGIC = 0x46554747;

    static final int DEFAULT_ALIGNMENT = 32;

    /** {@code GGML_MAX_NAME} with its terminating zero. */
    static final int MAX_TENSOR_NAME_BYTES = 63;

    /** {@code GGML_MAX_DIMS}. */
    static final int MAX_DIMENSIONS = 4;

    /** The format's own limit. */
    static final int MAX_KEY_BYTES = 65535;

    // Far above any real model. The file size alone would allow counts whose Java objects need many times its bytes.
    private static final long MAX_KEYS = 1 << 16;
    private static final long MAX_TENSORS = 1 << 18;

    // Length of the key, one byte of it, type, one byte of value.
    private static final int MIN_KEY_BYTES = 8 + 1 + 4 + 1;
    // Length of the name, number of dimensions, type, offset.
    private static final int MIN_TENSOR_BYTES = 8 + 4 + 4 + 8;

    private final Path path;
    private final ByteBuffer in;
    private final long fileBytes;
    private int position;

    private GgufHeaderReader(Path path, ByteBuffer in, long fileBytes) {
        this.path = path;
        this.in = in;
        this.fileBytes = fileBytes;
    }

    /** {@code in} is the file from its start, little endian, up to {@link #MAX_HEADER_BYTES}. */
    static GgufFile.Header read(Path path, ByteBuffer in, long fileBytes) {
        return new GgufHeaderReader(path, in, fileBytes).read();
    }

    /** The string whose length starts at {@code position}, which {@link #read} has checked. */
    static String string(ByteBuffer header, int position) {
        byte[] bytes = new byte[(int) header.getLong(position)];
        header.get(position + 8, bytes);
        return new String(bytes, StandardCharsets.UTF_8);
    }

    static long align(long offset, long alignment) {
        return (offset + alignment - 1) & -alignment;
    }

    private GgufFile.Header read() {
        if (fileBytes < 4 || readInt("magic") != MAGIC) {
            throw invalid("not a GGUF file, it does not start with \"GGUF\"");
        }
        int version = readInt("version");
        if ((version & 0xffff) == 0) {
            throw invalid("a big-endian GGUF file, only little endian is supported");
        }
        if (version < 2 || version > 3) {
            throw outOfLimits(
                    "GGUF version " + Integer.toUnsignedString(version) + ", only 2 and 3 are supported", version, 3);
        }
        int tensorCount = readCount("number of tensors", MIN_TENSOR_BYTES, MAX_TENSORS);
        int keyCount = readCount("number of metadata keys", MIN_KEY_BYTES, MAX_KEYS);

        Map<String, GgufFile.Value> metadata = new LinkedHashMap<>();
        for (int i = 0; i < keyCount; i++) {
            String key = readString("name of metadata key " + i, 1, MAX_KEY_BYTES);
            if (metadata.put(key, readValue(key)) != null) {
                throw invalid("metadata key " + key + " appears twice");
            }
        }
        long alignment = alignment(metadata.get(GgufKeys.ALIGNMENT));

        List<PendingTensor> pending = new ArrayList<>(tensorCount);
        for (int i = 0; i < tensorCount; i++) {
            pending.add(readTensor(i));
        }
        long dataOffset = tensorCount == 0 ? position : align(position, alignment);
        return new GgufFile.Header(version, alignment, dataOffset, metadata, place(pending, dataOffset, alignment));
    }

    private record PendingTensor(String name, GgufType type, List<Long> shape, long offset, long bytes) {}

    private PendingTensor readTensor(int index) {
        String name = readString("name of tensor " + index, 0, MAX_TENSOR_NAME_BYTES);
        int dimensions = readInt("number of dimensions");
        if (dimensions < 0 || dimensions > MAX_DIMENSIONS) {
            throw outOfLimits(
                    "tensor " + name + " has " + Integer.toUnsignedString(dimensions) + " dimensions, at most "
                            + MAX_DIMENSIONS + " are possible",
                    Integer.toUnsignedLong(dimensions),
                    MAX_DIMENSIONS);
        }
        List<Long> shape = new ArrayList<>(dimensions);
        long elements = 1;
        for (int i = 0; i < dimensions; i++) {
            long dimension = readLong("dimension");
            if (dimension < 0 || (dimension != 0 && elements > Long.MAX_VALUE / dimension)) {
                throw outOfLimits(
                        "tensor " + name + " has a dimension of " + Long.toUnsignedString(dimension)
                                + ", its elements cannot be counted",
                        dimension,
                        Long.MAX_VALUE);
            }
            shape.add(dimension);
            elements *= dimension;
        }
        int typeId = readInt("tensor type");
        GgufType type = GgufType.ofId(typeId)
                .orElseThrow(() -> invalid("tensor " + name + " has the unknown type "
                        + Integer.toUnsignedString(typeId) + ", the last known one is "
                        + GgufType.Q2_0.id()));
        long row = dimensions == 0 ? 1 : shape.get(0);
        if (row % type.blockElements() != 0) {
            throw outOfLimits(
                    "tensor " + name + " has rows of " + row + " elements, not a multiple of " + type.label()
                            + "'s block of " + type.blockElements(),
                    row,
                    type.blockElements());
        }
        if (elements / type.blockElements() > fileBytes / type.blockBytes()) {
            throw outOfLimits(
                    "truncated, tensor " + name + " has " + elements + " elements of " + type.label()
                            + " but the whole file has " + fileBytes + " bytes",
                    elements,
                    fileBytes / type.blockBytes() * type.blockElements());
        }
        return new PendingTensor(name, type, shape, readLong("tensor offset"), type.bytes(elements));
    }

    /** llama.cpp wants the data of all tensors in the order of the table, without gaps other than padding. */
    private Map<String, GgufTensor> place(List<PendingTensor> pending, long dataOffset, long alignment) {
        Map<String, GgufTensor> tensors = new LinkedHashMap<>();
        long expected = 0;
        for (PendingTensor tensor : pending) {
            if (tensor.offset() != expected) {
                throw outOfLimits(
                        "tensor " + tensor.name() + " has offset " + Long.toUnsignedString(tensor.offset())
                                + ", expected " + expected,
                        tensor.offset(),
                        expected);
            }
            if (tensor.bytes() > fileBytes - dataOffset - expected) {
                throw outOfLimits(
                        "truncated, tensor " + tensor.name() + " has " + tensor.bytes()
                                + " bytes but the file has "
                                + Math.max(0, fileBytes - dataOffset - expected) + " left for it",
                        tensor.bytes(),
                        Math.max(0, fileBytes - dataOffset - expected));
            }
            GgufTensor placed =
                    new GgufTensor(tensor.name(), tensor.type(), tensor.shape(), dataOffset + expected, tensor.bytes());
            if (tensors.put(tensor.name(), placed) != null) {
                throw invalid("tensor " + tensor.name() + " appears twice");
            }
            expected = align(expected + tensor.bytes(), alignment);
        }
        return tensors;
    }

    private GgufFile.Value readValue(String key) {
        GgufValueType type = readType(key);
        if (type != GgufValueType.ARRAY) {
            return new GgufFile.Value(type, null, 1, skip(key, type, 1));
        }
        GgufValueType elementType = readType(key);
        if (elementType == GgufValueType.ARRAY) {
            throw invalid(key + " is an array of arrays, which llama.cpp does not read");
        }
        int count = readCount(
                "length of " + key, elementType == GgufValueType.STRING ? 8 : elementType.bytes(), Integer.MAX_VALUE);
        return new GgufFile.Value(type, elementType, count, skip(key, elementType, count));
    }

    private GgufValueType readType(String key) {
        int id = readInt("type of " + key);
        if (id < 0 || id >= GgufValueType.count()) {
            throw outOfLimits(
                    key + " has the unknown type " + Integer.toUnsignedString(id) + ", the last known one is "
                            + (GgufValueType.count() - 1),
                    Integer.toUnsignedLong(id),
                    GgufValueType.count() - 1);
        }
        return GgufValueType.ofId(id);
    }

    /** Checks {@code count} values and leaves the position behind them. Returns where they start. */
    private int skip(String key, GgufValueType type, int count) {
        int start = position;
        if (type == GgufValueType.STRING) {
            for (int i = 0; i < count; i++) {
                skipString("string in " + key, 0, Integer.MAX_VALUE);
            }
        } else {
            require("value of " + key, (long) type.bytes() * count);
            if (type == GgufValueType.BOOL) {
                checkBools(key, count);
            }
            position += type.bytes() * count;
        }
        return start;
    }

    private void checkBools(String key, int count) {
        for (int i = 0; i < count; i++) {
            int value = in.get(position + i) & 0xff;
            if (value > 1) {
                throw outOfLimits(key + " has the boolean " + value + ", it must be 0 or 1", value, 1);
            }
        }
    }

    private long alignment(GgufFile.@Nullable Value value) {
        if (value == null) {
            return DEFAULT_ALIGNMENT;
        }
        if (value.type() != GgufValueType.UINT32) {
            throw invalid(GgufKeys.ALIGNMENT + " is " + value.type() + ", expected UINT32");
        }
        long alignment = Integer.toUnsignedLong(in.getInt(value.position()));
        if (Long.bitCount(alignment) != 1 || alignment > fileBytes) {
            throw outOfLimits(
                    GgufKeys.ALIGNMENT + " is " + alignment
                            + ", it must be a power of two and not greater than the file's " + fileBytes + " bytes",
                    alignment,
                    fileBytes);
        }
        return alignment;
    }

    private int readCount(String what, int minBytesEach, long limit) {
        long count = readLong(what);
        long fits = Math.min((in.limit() - position) / minBytesEach, limit);
        if (count < 0 || count > fits) {
            throw outOfLimits(
                    what + " is " + Long.toUnsignedString(count) + ", possible are 0 to " + fits, count, fits);
        }
        return (int) count;
    }

    private String readString(String what, int minBytes, int maxBytes) {
        int start = position;
        skipString(what, minBytes, maxBytes);
        return string(in, start);
    }

    private void skipString(String what, int minBytes, int maxBytes) {
        long length = readLong(what);
        long limit = Math.min(maxBytes, in.limit() - position);
        if (length < minBytes || length > limit) {
            throw outOfLimits(
                    what + " has " + Long.toUnsignedString(length) + " bytes, possible are " + minBytes + " to "
                            + limit,
                    length,
                    limit);
        }
        position += (int) length;
    }

    private int readInt(String what) {
        require(what, 4);
        int value = in.getInt(position);
        position += 4;
        return value;
    }

    private long readLong(String what) {
        require(what, 8);
        long value = in.getLong(position);
        position += 8;
        return value;
    }

    private void require(String what, long bytes) {
        int left = in.limit() - position;
        if (bytes > left) {
            throw outOfLimits(
                    "truncated at byte " + position + ", " + what + " needs " + bytes + " bytes but " + left
                            + " are left"
                            + (fileBytes > MAX_HEADER_BYTES
                                    ? " of the " + MAX_HEADER_BYTES + " a header may have"
                                    : ""),
                    bytes,
                    (long) left);
        }
    }

    private InvalidModelException outOfLimits(String message, long value, long limit) {
        return new InvalidModelException(path + ": " + message, value, limit);
    }

    private InvalidModelException invalid(String message) {
        return new InvalidModelException(path + ": " + message);
    }
}
