package io.kvfold.gguf;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.kvfold.InvalidModelException;
import io.kvfold.ModelNotFoundException;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Assertions;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class GgufFileTest {

    @TempDir
    Path folder;

    private Path file;

    @BeforeEach
    void nameTheFile() {
        file = folder.resolve("model.gguf");
    }

    @Test
    void readsAFileLaidOutByHandAsTheFormatSays() throws IOException {
        ByteBuffer bytes = little(4096);
        bytes.put("GGUF".getBytes(StandardCharsets.US_ASCII))
                .putInt(3)
                .putLong(1)
                .putLong(3);
        string(bytes, "general.architecture").putInt(8);
        string(bytes, "llama");
        string(bytes, "llama.block_count").putInt(4).putInt(5);
        string(bytes, "tokens").putInt(9).putInt(8).putLong(2);
        string(bytes, "a");
        string(bytes, "é");
        string(bytes, "token_embd.weight")
                .putInt(2)
                .putLong(4)
                .putLong(2)
                .putInt(0)
                .putLong(0);
        int dataOffset = (bytes.position() + 31) / 32 * 32;
        bytes.position(dataOffset);
        for (int i = 0; i < 8; i++) {
            bytes.putFloat(i);
        }
        write(bytes);

        GgufFile gguf = GgufFile.open(file);

        assertThat(gguf.version()).isEqualTo(3);
        assertThat(gguf.architecture()).isEqualTo("llama");
        assertThat(gguf.integer("llama.block_count")).hasValue(5);
        assertThat(gguf.strings("tokens")).contains(List.of("a", "é"));
        assertThat(gguf.dataOffset()).isEqualTo(dataOffset);
        assertThat(gguf.tensors())
                .containsExactly(new GgufTensor("token_embd.weight", GgufType.F32, List.of(4L, 2L), dataOffset, 32));
        assertThat(gguf.data(gguf.tensors().get(0)).getFloat(28)).isEqualTo(7);
    }

    @ParameterizedTest
    @ValueSource(ints = {0, 1, 4, 0x03000000, -1})
    void rejectsOtherVersions(int version) throws IOException {
        write(little(24)
                .put("GGUF".getBytes(StandardCharsets.US_ASCII))
                .putInt(version)
                .putLong(0)
                .putLong(0));

        assertThatThrownBy(() -> GgufFile.open(file))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining(version == 0x03000000 || version == 0 ? "big-endian" : "version");
    }

    @Test
    void readsVersionTwo() throws IOException {
        write(little(24)
                .put("GGUF".getBytes(StandardCharsets.US_ASCII))
                .putInt(2)
                .putLong(0)
                .putLong(0));

        assertThat(GgufFile.open(file).version()).isEqualTo(2);
    }

    @Test
    void tellsAMissingFileFromADirectoryFromAnEmptyFile() throws IOException {
        assertThatThrownBy(() -> GgufFile.open(file))
                .isInstanceOf(ModelNotFoundException.class)
                .hasMessageContaining("no such file");
        assertThatThrownBy(() -> GgufFile.open(folder))
                .isInstanceOf(ModelNotFoundException.class)
                .hasMessageContaining("directory");
        if (Files.exists(Path.of("/dev/null"))) {
            assertThatThrownBy(() -> GgufFile.open(Path.of("/dev/null")))
                    .isInstanceOf(ModelNotFoundException.class)
                    .hasMessageContaining("not a regular file: /dev/null");
        }
        Files.createFile(file);
        assertThatThrownBy(() -> GgufFile.open(file))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("not a GGUF file");
    }

    @Test
    void namesACountThatTheFileHasNoRoomFor() throws IOException {
        write(little(24)
                .put("GGUF".getBytes(StandardCharsets.US_ASCII))
                .putInt(3)
                .putLong(0)
                .putLong(Long.MAX_VALUE));

        assertThatThrownBy(() -> GgufFile.open(file))
                .isInstanceOfSatisfying(InvalidModelException.class, e -> {
                    assertThat(e.value()).hasValue(Long.MAX_VALUE);
                    assertThat(e.limit()).hasValue(0);
                })
                .hasMessageContaining("number of metadata keys is 9223372036854775807");
    }

    @ParameterizedTest
    @ValueSource(longs = {0x8000000000000000L, -1, 1L << 32, 1000})
    void rejectsAStringThatIsLongerThanTheFile(long length) throws IOException {
        ByteBuffer bytes = little(200)
                .put("GGUF".getBytes(StandardCharsets.US_ASCII))
                .putInt(3)
                .putLong(0)
                .putLong(1);
        string(bytes, "k").putInt(8).putLong(length);
        write(bytes);

        assertThatThrownBy(() -> GgufFile.open(file))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("string in k has " + Long.toUnsignedString(length) + " bytes");
    }

    @Test
    void rejectsAnArrayOfArraysADoubleKeyAndABooleanThatIsNone() throws IOException {
        ByteBuffer nested = header(0, 1);
        string(nested, "k").putInt(9).putInt(9).putLong(0);
        write(nested);
        assertThatThrownBy(() -> GgufFile.open(file)).hasMessageContaining("array of arrays");

        ByteBuffer twice = header(0, 2);
        string(twice, "k").putInt(4).putInt(1);
        string(twice, "k").putInt(4).putInt(1);
        write(twice);
        assertThatThrownBy(() -> GgufFile.open(file)).hasMessageContaining("k appears twice");

        ByteBuffer bool = header(0, 1);
        string(bool, "k").putInt(7).put((byte) 2);
        write(bool);
        assertThatThrownBy(() -> GgufFile.open(file)).hasMessageContaining("boolean 2");
    }

    @ParameterizedTest
    @ValueSource(ints = {0, 3, 1 << 30, 0x80000000})
    void rejectsAnAlignmentThatIsNoPowerOfTwoOrExceedsTheFile(int alignment) throws IOException {
        ByteBuffer bytes = header(0, 1);
        string(bytes, "general.alignment").putInt(4).putInt(alignment);
        write(bytes);

        assertThatThrownBy(() -> GgufFile.open(file))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("general.alignment is " + Integer.toUnsignedString(alignment));
    }

    @Test
    void rejectsTensorsThatCannotBe() throws IOException {
        assertThatThrownBy(() -> openTensor(5, 0, 0, 1, 1, 1, 1, 1)).hasMessageContaining("5 dimensions");
        assertThatThrownBy(() -> openTensor(1, 0, 0, -1)).hasMessageContaining("dimension");
        assertThatThrownBy(() -> openTensor(2, 0, 0, 1L << 62, 4)).hasMessageContaining("cannot be counted");
        assertThatThrownBy(() -> openTensor(1, 0, 0, 1L << 62))
                .hasMessageContaining("elements of f32 but the whole file");
        assertThatThrownBy(() -> openTensor(1, 4, 0, 32)).hasMessageContaining("unknown type 4");
        assertThatThrownBy(() -> openTensor(1, 8, 0, 31)).hasMessageContaining("q8_0's block of 32");
        assertThatThrownBy(() -> openTensor(1, 0, 32, 4)).hasMessageContaining("offset 32, expected 0");
        assertThatThrownBy(() -> openTensor(1, 0, 0, 1L << 40)).hasMessageContaining("truncated");
    }

    @Test
    void readsAnOffsetBeyondTwoGibibytes() throws IOException {
        long rows = (3L << 30) / 4;
        ByteBuffer bytes = header(2, 0);
        string(bytes, "big").putInt(1).putLong(rows).putInt(0).putLong(0);
        string(bytes, "last").putInt(1).putLong(1).putInt(0).putLong(rows * 4);
        write(bytes);
        long dataOffset = (bytes.position() + 31) / 32 * 32;
        try (RandomAccessFile sparse = new RandomAccessFile(file.toFile(), "rw")) {
            sparse.setLength(dataOffset + rows * 4 + 4);
            sparse.seek(dataOffset + rows * 4);
            sparse.write(new byte[] {0, 0, (byte) 0x80, 0x3f});
        }

        GgufFile gguf = GgufFile.open(file);

        assertThat(gguf.tensorBytes()).isEqualTo(rows * 4 + 4);
        assertThat(gguf.data(gguf.tensor("last").orElseThrow()).getFloat(0)).isEqualTo(1);
        assertThatThrownBy(() -> gguf.data(gguf.tensor("big").orElseThrow()))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("3221225472 bytes");
    }

    @Test
    void rejectsEveryTruncationOfAValidFile() throws IOException {
        byte[] whole = validFile();
        long needed = GgufFile.open(file).tensors().stream()
                .mapToLong(tensor -> tensor.offset() + tensor.bytes())
                .max()
                .orElseThrow();
        for (int length = 0; length < whole.length; length++) {
            Files.write(file, Arrays.copyOf(whole, length));
            if (length >= needed) {
                assertThat(GgufFile.open(file).tensors()).hasSize(3);
            } else {
                assertThatThrownBy(() -> GgufFile.open(file)).isInstanceOf(InvalidModelException.class);
            }
        }
    }

    /** One that is read in pieces, and one that is too large for the heap and mapped. */
    @ParameterizedTest
    @ValueSource(ints = {3, 70})
    void readsAHeaderOfManyMebibytes(int mebibytes) throws IOException {
        boolean[] values = new boolean[mebibytes << 20];
        values[values.length - 1] = true;
        new GgufWriter().put("many", values).put("last", 7).write(file);
        assertThat(GgufFile.open(file).integer("last")).hasValue(7);

        try (RandomAccessFile whole = new RandomAccessFile(file.toFile(), "rw")) {
            whole.setLength(values.length - 9);
        }
        assertThatThrownBy(() -> GgufFile.open(file))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("many")
                .hasMessageContaining(String.valueOf(values.length));
    }

    @Test
    void survivesTenThousandRandomMutationsOfAHeader() throws IOException {
        byte[] whole = validFile();
        int headerBytes = (int) GgufFile.open(file).dataOffset();
        Random random = new Random(20240521);
        int[] opened = new int[1];
        Assertions.assertTimeout(Duration.ofSeconds(60), () -> {
            for (int round = 0; round < 10_000; round++) {
                byte[] mutated = whole.clone();
                mutate(mutated, headerBytes, random);
                try {
                    readEverything(GgufFile.of(file, ByteBuffer.wrap(mutated), mutated.length));
                    opened[0]++;
                } catch (InvalidModelException expected) {
                    assertThat(expected).hasMessageContaining("model.gguf");
                }
            }
        });
        assertThat(opened[0]).isBetween(100, 9_000);
    }

    @Test
    void saysWhichTypeAKeyHasWhenAnotherWasAskedFor() throws IOException {
        validFile();
        GgufFile gguf = GgufFile.open(file);

        assertThatThrownBy(() -> gguf.string("u32"))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("u32 is UINT32, expected a string");
        assertThatThrownBy(() -> gguf.integers("strings"))
                .hasMessageContaining("strings is ARRAY of STRING, expected an array of whole numbers");
        assertThat(gguf.string("absent")).isEmpty();
        assertThat(gguf.integer("absent")).isEmpty();
    }

    private static void mutate(byte[] bytes, int headerBytes, Random random) {
        int edits = 1 + random.nextInt(4);
        for (int i = 0; i < edits; i++) {
            int at = random.nextInt(headerBytes);
            switch (random.nextInt(4)) {
                case 0 -> bytes[at] = (byte) random.nextInt(256);
                case 1 -> bytes[at] ^= (byte) (1 << random.nextInt(8));
                case 2 -> {
                    long extreme =
                            new long[] {-1, Long.MIN_VALUE, Long.MAX_VALUE, 1L << 31, 1L << 32, 0}[random.nextInt(6)];
                    for (int b = 0; b < 8 && at + b < headerBytes; b++) {
                        bytes[at + b] = (byte) (extreme >>> (8 * b));
                    }
                }
                default -> {
                    int from = random.nextInt(headerBytes);
                    int length = Math.min(random.nextInt(32), headerBytes - Math.max(at, from));
                    System.arraycopy(bytes, from, bytes, at, length);
                }
            }
        }
    }

    private static void readEverything(GgufFile gguf) {
        for (String key : gguf.keys()) {
            GgufValueType type = gguf.type(key).orElseThrow();
            GgufValueType element = gguf.elementType(key).orElse(type);
            boolean array = type == GgufValueType.ARRAY;
            try {
                Object value = switch (element) {
                    case STRING -> array ? gguf.strings(key) : gguf.string(key);
                    case BOOL -> array ? gguf.bools(key) : gguf.bool(key);
                    case FLOAT32, FLOAT64 -> array ? gguf.numbers(key) : gguf.number(key);
                    default -> array ? gguf.integers(key) : gguf.integer(key);
                };
                assertThat(value.toString()).isNotEqualTo("Optional.empty");
            } catch (InvalidModelException e) {
                assertThat(e).hasMessageContaining("is supported");
            }
        }
    }

    private byte[] validFile() throws IOException {
        new GgufWriter()
                .put("general.architecture", "llama")
                .put("u32", 7)
                .put("u64", GgufValueType.UINT64, 7)
                .put("float", 1.5f)
                .put("double", 2.5)
                .put("bool", true)
                .put("strings", List.of("", "a", "tokens"))
                .put("integers", GgufValueType.INT32, new long[] {0, 1, 1, 2})
                .put("bools", new boolean[] {true, false})
                .put("floats", new float[] {0, 1})
                .tensor("token_embd.weight", GgufType.F32, List.of(8L, 2L), out -> out.write(new byte[64]))
                .tensor("blk.0.attn_q.weight", GgufType.Q8_0, List.of(32L, 1L), out -> out.write(new byte[34]))
                .tensor("output_norm.weight", GgufType.F32, List.of(8L), out -> out.write(new byte[32]))
                .write(file);
        return Files.readAllBytes(file);
    }

    private void openTensor(int dimensions, int type, long offset, long... shape) throws IOException {
        ByteBuffer bytes = header(1, 0);
        string(bytes, "t").putInt(dimensions);
        for (long dimension : shape) {
            bytes.putLong(dimension);
        }
        bytes.putInt(type).putLong(offset);
        write(bytes);
        GgufFile.open(file);
    }

    private static ByteBuffer header(long tensors, long keys) {
        return little(4096)
                .put("GGUF".getBytes(StandardCharsets.US_ASCII))
                .putInt(3)
                .putLong(tensors)
                .putLong(keys);
    }

    private static ByteBuffer little(int bytes) {
        return ByteBuffer.allocate(bytes).order(ByteOrder.LITTLE_ENDIAN);
    }

    private static ByteBuffer string(ByteBuffer out, String text) {
        byte[] utf8 = text.getBytes(StandardCharsets.UTF_8);
        return out.putLong(utf8.length).put(utf8);
    }

    private void write(ByteBuffer bytes) throws IOException {
        Files.write(file, Arrays.copyOf(bytes.array(), bytes.position()));
    }
}
