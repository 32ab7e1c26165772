package io.kvfold.gguf;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class GgufWriterTest {

    @TempDir
    Path folder;

    @Test
    void readsBackEveryTypeOfValue() throws IOException {
        Path file = folder.resolve("all.gguf");
        new GgufWriter()
                .put("u8", GgufValueType.UINT8, 255)
                .put("i8", GgufValueType.INT8, -128)
                .put("u16", GgufValueType.UINT16, 65535)
                .put("i16", GgufValueType.INT16, -32768)
                .put("u32", GgufValueType.UINT32, 4294967295L)
                .put("i32", GgufValueType.INT32, Integer.MIN_VALUE)
                .put("u64", GgufValueType.UINT64, Long.MAX_VALUE)
                .put("i64", GgufValueType.INT64, Long.MIN_VALUE)
                .put("f32", 0.1f)
                .put("f64", 0.1)
                .put("bool", true)
                .put("string", "grün 🙂")
                .put("u8s", GgufValueType.UINT8, new long[] {0, 255})
                .put("i64s", GgufValueType.INT64, new long[] {Long.MIN_VALUE, Long.MAX_VALUE})
                .put("f32s", new float[] {1, Float.NEGATIVE_INFINITY})
                .put("f64s", new double[] {Math.PI})
                .put("bools", new boolean[] {true, false, true})
                .put("strings", List.of("", "▁the"))
                .put("none", List.of())
                .write(file);

        GgufFile gguf = GgufFile.open(file);

        assertThat(gguf.integer("u8")).hasValue(255);
        assertThat(gguf.integer("i8")).hasValue(-128);
        assertThat(gguf.integer("u16")).hasValue(65535);
        assertThat(gguf.integer("i16")).hasValue(-32768);
        assertThat(gguf.integer("u32")).hasValue(4294967295L);
        assertThat(gguf.integer("i32")).hasValue(Integer.MIN_VALUE);
        assertThat(gguf.integer("u64")).hasValue(Long.MAX_VALUE);
        assertThat(gguf.integer("i64")).hasValue(Long.MIN_VALUE);
        assertThat(gguf.number("f32")).hasValue(0.1f);
        assertThat(gguf.number("f64")).hasValue(0.1);
        assertThat(gguf.bool("bool")).contains(true);
        assertThat(gguf.string("string")).contains("grün 🙂");
        assertThat(gguf.integers("u8s").orElseThrow()).containsExactly(0, 255);
        assertThat(gguf.integers("i64s").orElseThrow()).containsExactly(Long.MIN_VALUE, Long.MAX_VALUE);
        assertThat(gguf.numbers("f32s").orElseThrow()).containsExactly(1, Double.NEGATIVE_INFINITY);
        assertThat(gguf.numbers("f64s").orElseThrow()).containsExactly(Math.PI);
        assertThat(gguf.bools("bools").orElseThrow()).containsExactly(true, false, true);
        assertThat(gguf.strings("strings")).contains(List.of("", "▁the"));
        assertThat(gguf.strings("none")).contains(List.of());
        assertThat(gguf.keys()).hasSize(19).startsWith("u8", "i8").endsWith("none");
    }

    @Test
    void alignsTensorsAndReadsThemBack() throws IOException {
        Path file = folder.resolve("tensors.gguf");
        new GgufWriter()
                .alignment(64)
                .tensor("a", GgufType.I8, List.of(3L), out -> out.write(new byte[] {1, 2, 3}))
                .tensor("empty", GgufType.F32, List.of(0L, 4L), out -> {})
                .tensor(
                        "b",
                        GgufType.F32,
                        List.of(2L, 1L, 1L, 2L),
                        out -> out.write(ByteBuffer.allocate(16).putInt(12, 42).array()))
                .write(file);

        GgufFile gguf = GgufFile.open(file);

        assertThat(gguf.alignment()).isEqualTo(64);
        assertThat(gguf.dataOffset() % 64).isZero();
        GgufTensor b = gguf.tensor("b").orElseThrow();
        assertThat(b.offset()).isEqualTo(gguf.dataOffset() + 64);
        assertThat(b.shape()).containsExactly(2L, 1L, 1L, 2L);
        assertThat(b.elements()).isEqualTo(4);
        assertThat(gguf.data(b).get(15)).isEqualTo((byte) 42);
        assertThat(gguf.fileBytes()).isEqualTo(gguf.dataOffset() + 128);
    }

    @Test
    void leavesTheTargetAsItWasWhenATensorFails() throws IOException {
        Path file = folder.resolve("kept.gguf");
        Files.writeString(file, "before");

        assertThatThrownBy(() -> new GgufWriter()
                        .tensor("broken", GgufType.F32, List.of(1L), out -> {
                            throw new IOException("the disk is full");
                        })
                        .write(file))
                .isInstanceOf(IOException.class)
                .hasMessage("the disk is full");
        assertThatThrownBy(() -> new GgufWriter()
                        .tensor("short", GgufType.F32, List.of(2L), out -> out.write(new byte[4]))
                        .write(file))
                .hasMessage("tensor short gave 4 bytes of its 8");
        assertThatThrownBy(() -> new GgufWriter()
                        .tensor("long", GgufType.F32, List.of(2L), out -> out.write(new byte[12]))
                        .write(file))
                .hasMessageContaining("tensor long gave more bytes");

        assertThat(file).hasContent("before");
        try (Stream<Path> files = Files.list(folder)) {
            assertThat(files).containsExactly(file);
        }
    }

    @Test
    void reportsProgressInBytes() throws IOException {
        List<String> seen = new ArrayList<>();

        new GgufWriter()
                .tensor("a", GgufType.I8, List.of(3L), out -> out.write(new byte[3]))
                .tensor("b", GgufType.I8, List.of(5L), out -> out.write(new byte[5]))
                .write(folder.resolve("p.gguf"), (done, total) -> seen.add(done + "/" + total));

        assertThat(seen).containsExactly("0/8", "3/8", "8/8");
    }

    @Test
    void rejectsWhatAFileCannotHold() {
        GgufWriter writer = new GgufWriter().put("k", 1).tensor("t", GgufType.F32, List.of(1L), out -> {});

        assertThatThrownBy(() -> writer.put("k", 2)).hasMessageContaining("k is set twice");
        assertThatThrownBy(() -> writer.put("big", 1L << 32))
                .hasMessageContaining("4294967296 is outside 0 to 4294967295");
        assertThatThrownBy(() -> writer.put("i8", GgufValueType.INT8, 128)).hasMessageContaining("-128 to 127");
        assertThatThrownBy(() -> writer.put("", 1)).hasMessageContaining("1 to 65535 bytes");
        assertThatThrownBy(() -> writer.tensor("t", GgufType.F32, List.of(1L), out -> {}))
                .hasMessageContaining("declared twice");
        assertThatThrownBy(() -> writer.tensor("q", GgufType.Q4_K, List.of(128L), out -> {}))
                .hasMessageContaining("q4_K's block of 256");
        assertThatThrownBy(() -> writer.tensor("x".repeat(64), GgufType.F32, List.of(1L), out -> {}))
                .hasMessageContaining("64");
        assertThatThrownBy(() -> writer.tensor("d", GgufType.F32, List.of(1L, 1L, 1L, 1L, 1L), out -> {}))
                .hasMessageContaining("5 dimensions");
    }
}
