package io.kvfold.internal;

import java.nio.FloatBuffer;

/** A {@code kvfold_engine}. */
public interface NativeEngine {

    byte[] info() throws NativeStatusException;

    byte[] kvStats() throws NativeStatusException;

    byte[] tokenStats() throws NativeStatusException;

    NativeRequest open(String route, byte[] body) throws NativeStatusException;

    /** {@code logits} is direct, in native byte order, and holds {@code tokens.length * vocabularySize} floats. */
    void evaluate(int[] tokens, FloatBuffer logits) throws NativeStatusException;

    /** Called once, and while no other call of this handle runs. */
    void close();
}
