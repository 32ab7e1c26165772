package io.kvfold;

import java.nio.FloatBuffer;
import java.util.Objects;

/**
 * Logits of every position of a token sequence: float32 {@code [tokens, vocabularySize]}. Row <i>i</i> scores the token
 * after position <i>i</i>. Immutable; its memory lies outside the Java heap and is freed with this object, or, if a
 * {@link LogitsListener} was told of it, when that returns.
 */
public final class Logits {

    private final FloatBuffer values;
    private final int tokens;
    private final int vocabularySize;

    /** {@code values} belongs to the new object. */
    Logits(FloatBuffer values, int tokens, int vocabularySize) {
        this.values = values;
        this.tokens = tokens;
        this.vocabularySize = vocabularySize;
    }

    /** Number of rows. */
    public int tokens() {
        return tokens;
    }

    /** Number of columns. */
    public int vocabularySize() {
        return vocabularySize;
    }

    /** The logit of token {@code id} after position {@code token}. */
    public float get(int token, int id) {
        return values.get(start(token) + Objects.checkIndex(id, vocabularySize));
    }

    /** A read-only view of the {@code vocabularySize} logits after position {@code token}; nothing is copied. */
    public FloatBuffer row(int token) {
        return values.slice(start(token), vocabularySize).asReadOnlyBuffer();
    }

    /** Copies the logits after position {@code token} to the first {@code vocabularySize} elements of {@code target}. */
    public void copyRow(int token, float[] target) {
        values.get(start(token), target, 0, vocabularySize);
    }

    /** Copies all rows to the rows of {@code target} from {@code first} on. */
    void copyTo(FloatBuffer target, int first) {
        target.put(first * vocabularySize, values, 0, tokens * vocabularySize);
    }

    private int start(int token) {
        return Objects.checkIndex(token, tokens) * vocabularySize;
    }

    @Override
    public String toString() {
        return "Logits[" + tokens + ", " + vocabularySize + "]";
    }
}
