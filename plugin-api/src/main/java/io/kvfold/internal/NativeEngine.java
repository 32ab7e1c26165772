package io.kvfold.internal;

import java.nio.FloatBuffer;
import org.jspecify.annotations.Nullable;

/** A {@code kvfold_engine}. */
public interface NativeEngine {

    byte[] info() throws NativeStatusException;

    byte[] kvStats() throws NativeStatusException;

    byte[] tokenStats() throws NativeStatusException;

    /** @param state which files of KV state the request begins with and leaves, as JSON; null for none */
    NativeRequest open(String route, byte[] body, byte @Nullable [] state) throws NativeStatusException;

    NativeServer serve(byte[] options) throws NativeStatusException;

    /** {@code logits} is direct, in native byte order, and holds {@code tokens.length * vocabularySize} floats. */
    void evaluate(int[] tokens, FloatBuffer logits) throws NativeStatusException;

    /** {@code values} as {@code logits}, of the shape in the answer; null to be told the shape only. */
    byte[] observe(byte[] what, int[] tokens, @Nullable FloatBuffer values) throws NativeStatusException;

    /** Called once, and while no other call of this handle runs. */
    void close();
}
