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

    /** Takes the logits of some positions. */
    interface LogitsReceiver {
        /**
         * @param logits {@code count * vocabularySize} of the positions from {@code position} on; valid until this returns
         * @return whether to go on
         */
        boolean receive(int position, int count, FloatBuffer logits);
    }

    /** Hands out the logits of the positions from {@code first} on, in their order, on this thread. */
    void evaluate(int[] tokens, int first, int vocabularySize, LogitsReceiver receiver) throws NativeStatusException;

    /**
     * {@code values} is direct, in native byte order, and of the shape in the answer; null to be told the shape only.
     */
    byte[] observe(byte[] what, int[] tokens, @Nullable FloatBuffer values) throws NativeStatusException;

    /** Called once, and while no other call of this handle runs. */
    void close();
}
