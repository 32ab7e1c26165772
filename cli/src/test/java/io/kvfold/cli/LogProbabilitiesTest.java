package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import io.kvfold.InvalidRequestException;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

final class LogProbabilitiesTest {

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path directory;

    private Path write(float[]... rows) throws IOException {
        Path file = directory.resolve("base.kld");
        try (LogProbabilities.Writer writer =
                new LogProbabilities.Writer(file, new int[] {1, 2, 3, 4, 5, 6, 7, 8, 9}, 4, 2, rows[0].length)) {
            writer.add(Stream.of(rows).map(Prediction::new).toList());
        }
        return file;
    }

    /** The layout of tools/perplexity/perplexity.cpp. */
    @Test
    void hasTheLayoutOfLlamaPerplexity() throws IOException {
        ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(write(new float[] {2, 1, 0})))
                .order(ByteOrder.LITTLE_ENDIAN);

        byte[] magic = new byte[8];
        bytes.get(magic);
        assertThat(new String(magic, java.nio.charset.StandardCharsets.US_ASCII))
                .isEqualTo("_logits_");
        assertThat(bytes.getInt()).isEqualTo(4);
        assertThat(bytes.getInt()).isEqualTo(3);
        assertThat(bytes.getInt()).isEqualTo(2);
        for (int token = 1; token <= 8; token++) {
            assertThat(bytes.getInt()).isEqualTo(token);
        }
        float logSum = (float) Math.log(1 + Math.exp(-1) + Math.exp(-2));
        assertThat(bytes.getFloat()).isCloseTo(2f / 65535, within(1e-9f));
        assertThat(bytes.getFloat()).isCloseTo(-2 - logSum, within(1e-6f));
        assertThat(bytes.getShort() & 0xffff).isEqualTo(65535);
        assertThat(bytes.getShort() & 0xffff).isBetween(32767, 32768);
        assertThat(bytes.getShort()).isZero();
        assertThat(bytes.remaining()).isEqualTo(2); // rows have an even number of elements
    }

    @Test
    void givesBackWhatItWasGiven() throws IOException {
        float[] wide = {100, 99.5f, 90, 50, -1000};
        float[] flat = {7, 7, 7, 7, 7};
        try (LogProbabilities.Reader reader = new LogProbabilities.Reader(write(wide, flat))) {
            assertThat(reader.context()).isEqualTo(4);
            assertThat(reader.chunks()).isEqualTo(2);
            assertThat(reader.tokens()).containsExactly(1, 2, 3, 4, 5, 6, 7, 8);
            List<float[]> rows = reader.next(2);
            Prediction expected = new Prediction(wide);
            for (int i : new int[] {0, 1, 2}) {
                assertThat(rows.get(0)[i]).isCloseTo((float) expected.logProbability(i), within(1e-3f));
            }
            assertThat(rows.get(0)[4]).isCloseTo((float) expected.logProbability(0) - 16, within(1e-3f));
            assertThat(rows.get(1)).containsOnly(rows.get(1)[0]);
            assertThat(rows.get(1)[0]).isCloseTo((float) -Math.log(5), within(1e-6f));
            assertThatThrownBy(() -> reader.next(1))
                    .isInstanceOf(EOFException.class)
                    .hasMessageContaining("base.kld");
        }
    }

    @Test
    void refusesOtherFiles() throws IOException {
        byte[] good = Files.readAllBytes(write(new float[] {1, 2}));
        byte[] huge = good.clone();
        Arrays.fill(huge, 16, 20, (byte) 0x7f);
        byte[] magic = good.clone();
        magic[0] = 'x';
        for (byte[] bad : new byte[][] {huge, magic}) {
            Path file = Files.write(directory.resolve("bad"), bad);
            assertThatThrownBy(() -> new LogProbabilities.Reader(file))
                    .isInstanceOf(InvalidRequestException.class)
                    .hasMessageContaining("bad holds no log-probabilities");
        }
        Path empty = Files.write(directory.resolve("empty"), new byte[3]);
        assertThatThrownBy(() -> new LogProbabilities.Reader(empty)).isInstanceOf(EOFException.class);
    }
}
