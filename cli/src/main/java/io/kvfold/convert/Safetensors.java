package io.kvfold.convert;

import com.fasterxml.jackson.databind.JsonNode;
import io.kvfold.InvalidModelException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import org.jspecify.annotations.Nullable;

/**
 * The tensors of a folder: {@code model.safetensors}, or the shards that {@code model.safetensors.index.json} names.
 *
 * <p>Headers are checked against the file before anything is allocated for them; data is memory-mapped.
 *
 * @see <a href="https://github.com/huggingface/safetensors#format">the format</a>
 */
final class Safetensors {

    static final String SINGLE_FILE = "model.safetensors";
    static final String INDEX_FILE = "model.safetensors.index.json";

    // The reference implementation's own limit.
    private static final long MAX_HEADER_BYTES = 100_000_000;
    private static final int MAX_DIMENSIONS = 8;

    /** Element types that a conversion reads. */
    enum Type {
        F32(4),
        F16(2),
        BF16(2);

        private final int bytes;

        Type(int bytes) {
            this.bytes = bytes;
        }
    }

    /**
     * A tensor in a file.
     *
     * @param type null if it is none of {@link Type}, which is an error only if the tensor is needed
     * @param typeName as the file calls it
     * @param shape in PyTorch's order, the contiguous dimension last
     * @param offset from the start of the file
     */
    record Tensor(
            String name, @Nullable Type type, String typeName, List<Long> shape, Path file, long offset, long bytes) {

        /** Elements in a row: the last dimension. */
        long columns() {
            return shape.isEmpty() ? 1 : shape.get(shape.size() - 1);
        }

        /** Product of all dimensions but the last. */
        long rows() {
            long rows = 1;
            for (int i = 0; i < shape.size() - 1; i++) {
                rows *= shape.get(i);
            }
            return rows;
        }
    }

    /** Reads rows of one tensor, in any order. */
    static final class Rows {
        // Mapped as a whole if possible; a larger tensor in pieces of whole rows.
        private static final long MAX_PIECE_BYTES = 1 << 30;

        private final Type type;
        private final int columns;
        private final long rowsPerPiece;
        private final List<ByteBuffer> pieces = new ArrayList<>();

        Rows(Tensor tensor) throws IOException {
            if (tensor.type() == null) {
                throw new InvalidModelException(tensor.file() + ": tensor " + tensor.name() + " is " + tensor.typeName()
                        + ", supported are F32, F16 and BF16");
            }
            type = tensor.type();
            if (tensor.columns() * type.bytes > MAX_PIECE_BYTES) {
                throw new InvalidModelException(
                        tensor.file() + ": tensor " + tensor.name() + " has rows of " + tensor.columns()
                                + " elements, at most " + MAX_PIECE_BYTES / type.bytes + " are supported",
                        tensor.columns(),
                        MAX_PIECE_BYTES / type.bytes);
            }
            columns = (int) tensor.columns();
            long rowBytes = Math.max(1, (long) columns * type.bytes);
            rowsPerPiece = MAX_PIECE_BYTES / rowBytes;
            try (FileChannel channel = FileChannel.open(tensor.file(), StandardOpenOption.READ)) {
                for (long at = 0; at < tensor.bytes(); at += rowsPerPiece * rowBytes) {
                    long bytes = Math.min(rowsPerPiece * rowBytes, tensor.bytes() - at);
                    pieces.add(channel.map(FileChannel.MapMode.READ_ONLY, tensor.offset() + at, bytes)
                            .order(ByteOrder.LITTLE_ENDIAN));
                }
            }
        }

        void read(long row, float[] into) {
            ByteBuffer piece = pieces.get((int) (row / rowsPerPiece));
            int start = (int) (row % rowsPerPiece) * columns * type.bytes;
            switch (type) {
                case F32 -> {
                    for (int i = 0; i < columns; i++) {
                        into[i] = piece.getFloat(start + 4 * i);
                    }
                }
                case F16 -> {
                    for (int i = 0; i < columns; i++) {
                        into[i] = Floats.halfToFloat(piece.getShort(start + 2 * i));
                    }
                }
                case BF16 -> {
                    for (int i = 0; i < columns; i++) {
                        into[i] = Floats.bfloatToFloat(piece.getShort(start + 2 * i));
                    }
                }
            }
        }
    }

    private final Path folder;
    private final Map<String, Tensor> tensors = new TreeMap<>();

    private Safetensors(Path folder) {
        this.folder = folder;
    }

    /**
     * @throws InvalidModelException if there is no safetensors file, or one is malformed or truncated, or the index and
     *     the shards contradict each other
     */
    static Safetensors open(Path folder) throws IOException {
        Safetensors result = new Safetensors(folder);
        Path index = folder.resolve(INDEX_FILE);
        if (Files.exists(index)) {
            result.readShards(index);
        } else if (Files.exists(folder.resolve(SINGLE_FILE))) {
            result.readFile(folder.resolve(SINGLE_FILE));
        } else {
            String instead = Files.exists(folder.resolve("pytorch_model.bin"))
                            || Files.exists(folder.resolve("pytorch_model.bin.index.json"))
                    ? ", only pytorch_model.bin, which is a program to be run; save the model as safetensors first"
                    : "";
            throw new InvalidModelException(folder + ": neither " + SINGLE_FILE + " nor " + INDEX_FILE + instead);
        }
        return result;
    }

    Set<String> names() {
        return tensors.keySet();
    }

    @Nullable
    Tensor find(String name) {
        return tensors.get(name);
    }

    private void readShards(Path index) throws IOException {
        JsonNode map = Json.read(index).path("weight_map");
        if (!map.isObject() || map.isEmpty()) {
            throw new InvalidModelException(index + ": no weight_map");
        }
        Set<String> shards = new TreeSet<>();
        for (Map.Entry<String, JsonNode> entry : map.properties()) {
            String shard = entry.getValue().asText();
            if (!entry.getValue().isTextual()
                    || !shard.equals(Path.of(shard).normalize().toString())
                    || Path.of(shard).getNameCount() != 1
                    || Path.of(shard).isAbsolute()
                    || shard.startsWith("..")) {
                throw new InvalidModelException(index + ": weight_map places " + entry.getKey() + " in "
                        + entry.getValue() + ", expected the name of a file in the folder");
            }
            shards.add(shard);
        }
        for (String shard : shards) {
            Path file = folder.resolve(shard);
            if (!Files.exists(file)) {
                throw new InvalidModelException(index + ": names " + shard + ", which does not exist");
            }
            readFile(file);
        }
        for (Map.Entry<String, JsonNode> entry : map.properties()) {
            Tensor tensor = tensors.get(entry.getKey());
            if (tensor == null
                    || !tensor.file().equals(folder.resolve(entry.getValue().asText()))) {
                throw new InvalidModelException(index + ": places tensor " + entry.getKey() + " in "
                        + entry.getValue().asText() + ", which does not hold it");
            }
        }
    }

    private void readFile(Path file) throws IOException {
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
            long fileBytes = channel.size();
            if (fileBytes < 8) {
                throw new InvalidModelException(
                        file + ": truncated, a safetensors file has at least 8 bytes, this one " + fileBytes,
                        fileBytes,
                        8L);
            }
            long headerBytes = readFully(file, channel, 0, 8).getLong();
            long limit = Math.min(MAX_HEADER_BYTES, fileBytes - 8);
            if (headerBytes < 2 || headerBytes > limit) {
                throw new InvalidModelException(
                        file + ": the header has " + Long.toUnsignedString(headerBytes) + " bytes, possible are 2 to "
                                + limit,
                        headerBytes,
                        limit);
            }
            JsonNode header = Json.parse(
                    file.toString(),
                    readFully(file, channel, 8, (int) headerBytes).array());
            List<Tensor> found = new ArrayList<>();
            for (Map.Entry<String, JsonNode> entry : header.properties()) {
                if (!entry.getKey().equals("__metadata__")) {
                    found.add(tensor(file, entry.getKey(), entry.getValue(), 8 + headerBytes, fileBytes));
                }
            }
            found.sort(Comparator.comparingLong(Tensor::offset).thenComparingLong(Tensor::bytes));
            long end = 8 + headerBytes;
            for (Tensor tensor : found) {
                if (tensor.offset() < end) {
                    throw new InvalidModelException(file + ": tensor " + tensor.name() + " overlaps another one");
                }
                end = tensor.offset() + tensor.bytes();
                Tensor other = tensors.put(tensor.name(), tensor);
                if (other != null) {
                    throw new InvalidModelException(
                            "tensor " + tensor.name() + " is both in " + other.file() + " and in " + file);
                }
            }
        }
    }

    private static Tensor tensor(Path file, String name, JsonNode entry, long dataStart, long fileBytes) {
        String typeName = entry.path("dtype").asText("");
        JsonNode shapeNode = entry.path("shape");
        JsonNode offsets = entry.path("data_offsets");
        if (typeName.isEmpty()
                || !shapeNode.isArray()
                || shapeNode.size() > MAX_DIMENSIONS
                || offsets.size() != 2
                || !isCount(offsets.path(0))
                || !isCount(offsets.path(1))) {
            throw new InvalidModelException(file + ": tensor " + name + " needs dtype, shape and data_offsets, it has "
                    + abbreviate(entry.toString()));
        }
        List<Long> shape = new ArrayList<>();
        long elements = 1;
        for (JsonNode dimension : shapeNode) {
            if (!isCount(dimension)
                    || (dimension.asLong() != 0 && elements > Long.MAX_VALUE / 16 / dimension.asLong())) {
                throw new InvalidModelException(
                        file + ": tensor " + name + " has the shape " + abbreviate(shapeNode.toString()));
            }
            shape.add(dimension.asLong());
            elements *= dimension.asLong();
        }
        long begin = offsets.path(0).asLong();
        long end = offsets.path(1).asLong();
        if (begin > end || end > fileBytes - dataStart) {
            throw new InvalidModelException(
                    file + ": truncated, tensor " + name + " ends at byte " + end + " of the data, which has "
                            + (fileBytes - dataStart),
                    end,
                    fileBytes - dataStart);
        }
        Type type = null;
        for (Type candidate : Type.values()) {
            if (candidate.name().equals(typeName.toUpperCase(Locale.ROOT))) {
                type = candidate;
            }
        }
        if (type != null && end - begin != elements * type.bytes) {
            throw new InvalidModelException(
                    file + ": tensor " + name + " of shape " + shape + " and type " + typeName + " has " + (end - begin)
                            + " bytes, expected " + elements * type.bytes,
                    end - begin,
                    elements * type.bytes);
        }
        return new Tensor(name, type, typeName, List.copyOf(shape), file, dataStart + begin, end - begin);
    }

    private static boolean isCount(JsonNode node) {
        return node.isIntegralNumber() && node.canConvertToLong() && node.asLong() >= 0;
    }

    private static String abbreviate(String text) {
        return text.length() <= 200 ? text : text.substring(0, 200) + "…";
    }

    private static ByteBuffer readFully(Path file, FileChannel channel, long position, int bytes) throws IOException {
        ByteBuffer buffer = ByteBuffer.allocate(bytes).order(ByteOrder.LITTLE_ENDIAN);
        while (buffer.hasRemaining()) {
            if (channel.read(buffer, position + buffer.position()) < 0) {
                throw new InvalidModelException(file + ": truncated while it was read");
            }
        }
        return buffer.flip();
    }
}
