package io.kvfold.cli;

import io.kvfold.InvalidRequestException;
import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;

/**
 * The file of log-probabilities that {@code llama-perplexity --kl-divergence-base} of llama.cpp writes and reads
 * (tools/perplexity/perplexity.cpp). Little endian: {@code "_logits_"}, tokens per chunk, vocabulary size and number of chunks
 * as int32, the tokens of all chunks as int32, then for each scored token a row: scale and least log-probability as float32,
 * and for each token of the vocabulary a uint16 {@code q} with {@code log p = scale * q + least}. A row has an even number of
 * elements.
 */
final class LogProbabilities {

    private static final byte[] MAGIC = "_logits_".getBytes(StandardCharsets.US_ASCII);
    private static final int HEADER_BYTES = MAGIC.length + 3 * Integer.BYTES;
    private static final float RANGE =
            16; // what is less probable than the best token by more than this is all the same
    private static final int STEPS = 65535;

    private LogProbabilities() {}

    private static ByteBuffer row(int vocabularySize) {
        return ByteBuffer.allocate(2 * Float.BYTES + (vocabularySize + 1) / 2 * 2 * Short.BYTES)
                .order(ByteOrder.LITTLE_ENDIAN);
    }

    /** Writes a file row by row. */
    static final class Writer implements AutoCloseable {

        private final OutputStream out;
        private final ByteBuffer row;

        /** @param tokens of all chunks, as the text has them */
        Writer(Path file, int[] tokens, int context, int chunks, int vocabularySize) throws IOException {
            this.row = row(vocabularySize);
            this.out = new BufferedOutputStream(Files.newOutputStream(file), 1 << 20);
            ByteBuffer head = ByteBuffer.allocate(HEADER_BYTES + context * chunks * Integer.BYTES)
                    .order(ByteOrder.LITTLE_ENDIAN)
                    .put(MAGIC)
                    .putInt(context)
                    .putInt(vocabularySize)
                    .putInt(chunks);
            for (int i = 0; i < context * chunks; i++) {
                head.putInt(tokens[i]);
            }
            out.write(head.array());
        }

        /** @param logits of the vocabulary before a scored token */
        void add(float[] logits) throws IOException {
            float max = Float.NEGATIVE_INFINITY;
            float min = Float.POSITIVE_INFINITY;
            for (float logit : logits) {
                max = Math.max(max, logit);
                min = Math.min(min, logit);
            }
            min = Math.max(min, max - RANGE);
            float logSum = logSum(logits, max);
            float scale = (max - min) / STEPS;
            row.clear().putFloat(scale).putFloat(min - max - logSum);
            float inverse = 1 / scale;
            for (float logit : logits) {
                row.putShort((short) (scale != 0 && logit > min ? (int) Math.rint(inverse * (logit - min)) : 0));
            }
            out.write(row.array(), 0, row.capacity());
        }

        @Override
        public void close() throws IOException {
            out.close();
        }
    }

    /** Reads a file row by row. */
    static final class Reader implements AutoCloseable {

        private final Path file;
        private final InputStream in;
        private final int context;
        private final int vocabularySize;
        private final int chunks;
        private final int[] tokens;
        private final ByteBuffer row;

        /** @throws InvalidRequestException if it is no such file */
        Reader(Path file) throws IOException {
            this.file = file;
            this.in = new BufferedInputStream(Files.newInputStream(file), 1 << 20);
            boolean opened = false;
            try {
                ByteBuffer header = read(HEADER_BYTES);
                byte[] magic = new byte[MAGIC.length];
                header.get(magic);
                this.context = header.getInt();
                this.vocabularySize = header.getInt();
                this.chunks = header.getInt();
                long bytes = (long) context * chunks * Integer.BYTES;
                if (!Arrays.equals(magic, MAGIC)
                        || context < 4
                        || vocabularySize < 1
                        || chunks < 1
                        || bytes > Files.size(file)) {
                    throw new InvalidRequestException(file + " holds no log-probabilities");
                }
                this.tokens = new int[context * chunks];
                read((int) bytes).asIntBuffer().get(tokens);
                this.row = row(vocabularySize);
                opened = true;
            } finally {
                if (!opened) {
                    in.close();
                }
            }
        }

        int context() {
            return context;
        }

        int vocabularySize() {
            return vocabularySize;
        }

        int chunks() {
            return chunks;
        }

        int[] tokens() {
            return tokens.clone();
        }

        /** Log-probabilities before the next scored token. */
        void next(float[] target) throws IOException {
            ByteBuffer bytes = read(row.capacity());
            float scale = bytes.getFloat();
            float least = bytes.getFloat();
            for (int i = 0; i < vocabularySize; i++) {
                target[i] = scale * (bytes.getShort() & 0xffff) + least;
            }
        }

        private ByteBuffer read(int bytes) throws IOException {
            byte[] read = in.readNBytes(bytes);
            if (read.length < bytes) {
                throw new EOFException(file + " holds fewer log-probabilities than it says");
            }
            return ByteBuffer.wrap(read).order(ByteOrder.LITTLE_ENDIAN);
        }

        @Override
        public void close() throws IOException {
            in.close();
        }
    }

    /** The logarithm of the sum of {@code exp(logit - max)}. */
    static float logSum(float[] logits, float max) {
        double sum = 0;
        for (float logit : logits) {
            sum += Math.exp(logit - max);
        }
        return (float) Math.log(sum);
    }
}
