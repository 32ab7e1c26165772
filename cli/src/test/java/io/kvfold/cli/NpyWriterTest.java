package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.channels.Channels;
import java.nio.charset.StandardCharsets;
import org.junit.jupiter.api.Test;

final class NpyWriterTest {

    private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();

    @Test
    void writesAnAlignedHeaderAndRowsInOrder() throws IOException {
        NpyWriter.write(Channels.newChannel(bytes), 2, 3, row -> FloatBuffer.wrap(new float[] {row, -1.5f, 1e-30f}));

        ByteBuffer file = ByteBuffer.wrap(bytes.toByteArray()).order(ByteOrder.LITTLE_ENDIAN);
        assertThat(file.get(0)).isEqualTo((byte) 0x93);
        assertThat(new String(bytes.toByteArray(), 1, 5, StandardCharsets.US_ASCII))
                .isEqualTo("NUMPY");
        assertThat(file.get(6)).isEqualTo((byte) 1);
        assertThat(file.get(7)).isEqualTo((byte) 0);
        int data = 10 + file.getShort(8);
        assertThat(data % 64).isZero();
        assertThat(new String(bytes.toByteArray(), 10, data - 10, StandardCharsets.US_ASCII))
                .matches("\\{'descr': '<f4', 'fortran_order': False, 'shape': \\(2, 3\\), } *\\n");
        float[] values = new float[6];
        file.position(data)
                .slice()
                .order(ByteOrder.LITTLE_ENDIAN)
                .asFloatBuffer()
                .get(values);
        assertThat(values).containsExactly(0, -1.5f, 1e-30f, 1, -1.5f, 1e-30f);
        assertThat(bytes.size()).isEqualTo(data + 6 * 4);
    }

    @Test
    void rejectsARowOfAnotherLength() {
        assertThatThrownBy(() -> NpyWriter.write(Channels.newChannel(bytes), 1, 3, row -> FloatBuffer.allocate(2)))
                .hasMessage("row 0 has 2 values, not 3");
    }
}
