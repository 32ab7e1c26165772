package io.kvfold.convert;

import io.kvfold.InvalidModelException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * A SentencePiece {@code tokenizer.model}: the few fields of sentencepiece_model.proto that a conversion needs.
 *
 * @param addDummyPrefix whether a text gets a space in front
 * @param bos id of the beginning-of-text token, -1 for none
 * @param eos id of the end-of-text token, -1 for none
 */
record SentencePieceModel(
        List<Piece> pieces,
        boolean bpe,
        boolean byteFallback,
        boolean addDummyPrefix,
        boolean removeExtraWhitespaces,
        boolean hasCharacterMap,
        int bos,
        int eos) {

    /** U+2581, which stands for a space inside a piece. */
    static final char SPACE = '▁';

    private static final int MAX_PIECES = 1 << 24;

    /** {@code type} is one of {@link Vocabulary.TokenType}, which are SentencePiece's numbers. */
    record Piece(String text, float score, int type) {}

    /** @throws InvalidModelException if the bytes are not such a model */
    static SentencePieceModel parse(Path file, byte[] bytes) {
        List<Piece> pieces = new ArrayList<>();
        boolean bpe = false;
        boolean byteFallback = false;
        boolean addDummyPrefix = true;
        boolean removeExtraWhitespaces = true;
        boolean hasCharacterMap = false;
        int bos = 1;
        int eos = 2;
        Message model = new Message(file, ByteBuffer.wrap(bytes));
        while (model.next()) {
            if (model.isMessage(1)) {
                if (pieces.size() >= MAX_PIECES) {
                    throw new InvalidModelException(
                            file + ": more than " + MAX_PIECES + " pieces", MAX_PIECES + 1L, (long) MAX_PIECES);
                }
                pieces.add(piece(model.message()));
            } else if (model.isMessage(2)) {
                Message trainer = model.message();
                while (trainer.next()) {
                    switch (trainer.field) {
                        case 3 -> bpe = trainer.number() == 2;
                        case 35 -> byteFallback = trainer.number() != 0;
                        case 41 -> bos = (int) trainer.number();
                        case 42 -> eos = (int) trainer.number();
                        default -> {}
                    }
                }
            } else if (model.isMessage(3)) {
                Message normalizer = model.message();
                while (normalizer.next()) {
                    switch (normalizer.field) {
                        case 2 -> hasCharacterMap = normalizer.message().hasRemaining();
                        case 3 -> addDummyPrefix = normalizer.number() != 0;
                        case 4 -> removeExtraWhitespaces = normalizer.number() != 0;
                        default -> {}
                    }
                }
            }
        }
        if (pieces.isEmpty()) {
            throw new InvalidModelException(file + ": not a SentencePiece model, it has no pieces");
        }
        return new SentencePieceModel(
                List.copyOf(pieces),
                bpe,
                byteFallback,
                addDummyPrefix,
                removeExtraWhitespaces,
                hasCharacterMap,
                bos,
                eos);
    }

    private static Piece piece(Message message) {
        String text = "";
        float score = 0;
        int type = Vocabulary.TokenType.NORMAL;
        while (message.next()) {
            switch (message.field) {
                case 1 -> text = message.text();
                case 2 -> score = Float.intBitsToFloat((int) message.number());
                case 3 -> type = (int) message.number();
                default -> {}
            }
        }
        return new Piece(text, score, type);
    }

    /** One protocol buffer message, read field by field. */
    private static final class Message {
        private static final int VARINT = 0;
        private static final int FIXED64 = 1;
        private static final int BYTES = 2;
        private static final int FIXED32 = 5;

        private final Path file;
        private final ByteBuffer in;
        private int field;
        private int wireType;
        private long number;
        private ByteBuffer bytes = ByteBuffer.allocate(0);

        Message(Path file, ByteBuffer in) {
            this.file = file;
            this.in = in.order(ByteOrder.LITTLE_ENDIAN);
        }

        boolean next() {
            if (!in.hasRemaining()) {
                return false;
            }
            long tag = varint();
            field = (int) (tag >>> 3);
            wireType = (int) (tag & 7);
            switch (wireType) {
                case VARINT -> number = varint();
                case FIXED64 -> number = require(8).getLong();
                case FIXED32 -> number = require(4).getInt();
                case BYTES -> {
                    long length = varint();
                    if (length < 0 || length > in.remaining()) {
                        throw malformed("a field has " + Long.toUnsignedString(length) + " bytes, " + in.remaining()
                                + " are left");
                    }
                    bytes = in.slice(in.position(), (int) length).order(ByteOrder.LITTLE_ENDIAN);
                    in.position(in.position() + (int) length);
                }
                default -> throw malformed("wire type " + wireType);
            }
            return true;
        }

        boolean isMessage(int number) {
            return field == number && wireType == BYTES;
        }

        boolean hasRemaining() {
            return in.hasRemaining();
        }

        Message message() {
            expect(wireType == BYTES);
            return new Message(file, bytes);
        }

        String text() {
            expect(wireType == BYTES);
            return StandardCharsets.UTF_8.decode(bytes).toString();
        }

        long number() {
            expect(wireType != BYTES);
            return number;
        }

        private void expect(boolean asExpected) {
            if (!asExpected) {
                throw malformed("field " + field + " has wire type " + wireType);
            }
        }

        private long varint() {
            long value = 0;
            for (int shift = 0; shift < 64; shift += 7) {
                byte b = require(1).get();
                value |= (long) (b & 0x7f) << shift;
                if (b >= 0) {
                    return value;
                }
            }
            throw malformed("a number of more than 64 bits");
        }

        private ByteBuffer require(int count) {
            if (in.remaining() < count) {
                throw malformed("it ends within a field");
            }
            return in;
        }

        private InvalidModelException malformed(String what) {
            return new InvalidModelException(file + ": not a SentencePiece model: " + what);
        }
    }
}
