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
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

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

    private static int rowBytes(int vocabularySize) {
        return 2 * Float.BYTES + (vocabularySize + 1) / 2 * 2 * Short.BYTES;
    }

    private static ByteBuffer allocate(int bytes) {
        return ByteBuffer.allocate(bytes).order(ByteOrder.LITTLE_ENDIAN);
    }

    /** Writes a file row by row. */
    static final class Writer implements AutoCloseable {

        private final OutputStream out;

        /**
         * @param tokens of all chunks, as the text has them
         * @throws InvalidRequestException if there is no room for the file
         */
        Writer(Path file, int[] tokens, int context, int chunks, int vocabularySize) throws IOException {
            long bytes = (long) chunks * (context - 1 - context / 2) * rowBytes(vocabularySize);
            long free = Files.getFileStore(file.toAbsolutePath().getParent()).getUsableSpace();
            if (bytes > free) {
                throw new InvalidRequestException(
                        Values.format(
                                "the predictions of %d chunks of %d tokens take %s in %s, where %s are free; see --chunks",
                                chunks, context, Values.bytes(bytes), file, Values.bytes(free)),
                        bytes,
                        free);
            }
            this.out = new BufferedOutputStream(Files.newOutputStream(file), 1 << 20);
            ByteBuffer head = allocate(HEADER_BYTES + context * chunks * Integer.BYTES)
                    .put(MAGIC)
                    .putInt(context)
                    .putInt(vocabularySize)
                    .putInt(chunks);
            for (int i = 0; i < context * chunks; i++) {
                head.putInt(tokens[i]);
            }
            out.write(head.array());
        }

        /** The next scored tokens. */
        void add(List<Prediction> predictions) throws IOException {
            for (ByteBuffer row : predictions.parallelStream().map(Writer::row).toList()) {
                out.write(row.array());
            }
        }

        private static ByteBuffer row(Prediction prediction) {
            int size = prediction.vocabularySize();
            float max = prediction.logit(prediction.top());
            float least = max;
            for (int i = 0; i < size; i++) {
                least = Math.min(least, prediction.logit(i));
            }
            float min = Math.max(least, max - RANGE);
            float scale = (max - min) / STEPS;
            float inverse = 1 / scale;
            ByteBuffer row = allocate(rowBytes(size)).putFloat(scale).putFloat((float)
                    (min - max + prediction.logProbability(prediction.top())));
            for (int i = 0; i < size; i++) {
                float above = prediction.logit(i) - min;
                row.putShort((short) (scale != 0 && above > 0 ? (int) Math.rint(inverse * above) : 0));
            }
            return row;
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
        private final ByteBuffer bytes;
        private final List<float[]> rows = new ArrayList<>();

        /** @throws InvalidRequestException if it is no such file */
        Reader(Path file) throws IOException {
            this.file = file;
            this.in = new BufferedInputStream(Files.newInputStream(file), 1 << 20);
            boolean opened = false;
            try {
                ByteBuffer header = read(allocate(HEADER_BYTES));
                byte[] magic = new byte[MAGIC.length];
                header.get(magic);
                this.context = header.getInt();
                this.vocabularySize = header.getInt();
                this.chunks = header.getInt();
                long tokenBytes = (long) context * chunks * Integer.BYTES;
                if (!Arrays.equals(magic, MAGIC)
                        || context < 4
                        || vocabularySize < 1
                        || chunks < 1
                        || tokenBytes > Files.size(file)) {
                    throw new InvalidRequestException(file + " holds no log-probabilities");
                }
                this.tokens = new int[context * chunks];
                read(allocate((int) tokenBytes)).asIntBuffer().get(tokens);
                this.bytes = allocate(rowBytes(vocabularySize));
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

        /** Log-probabilities of the vocabulary before each of the next scored tokens; valid until the next call. */
        List<float[]> next(int count) throws IOException {
            while (rows.size() < count) {
                rows.add(new float[vocabularySize]);
            }
            for (float[] row : rows.subList(0, count)) {
                read(bytes);
                float scale = bytes.getFloat();
                float least = bytes.getFloat();
                for (int i = 0; i < vocabularySize; i++) {
                    row[i] = scale * (bytes.getShort() & 0xffff) + least;
                }
            }
            return rows.subList(0, count);
        }

        /** Fills it. */
        private ByteBuffer read(ByteBuffer bytes) throws IOException {
            if (in.readNBytes(bytes.array(), 0, bytes.capacity()) < bytes.capacity()) {
                throw new EOFException(file + " holds fewer log-probabilities than it says");
            }
            return bytes.clear();
        }

        /** The name of the file. */
        @Override
        public String toString() {
            return file.toString();
        }

        @Override
        public void close() throws IOException {
            in.close();
        }
    }
}
