package io.kvfold.internal;

import io.kvfold.LoadProgressListener;
import io.kvfold.LogListener;
import org.jspecify.annotations.Nullable;
import org.slf4j.event.Level;

/**
 * libkvfold in Java types: text and JSON are UTF-8 bytes, handles are objects, a failed status is a
 * {@link NativeStatusException}. {@code native/include/kvfold.h} documents each function.
 *
 * <p>Thread-safe. Using an engine or request after its {@code close()} is undefined, as in C; the callers of this
 * interface guard against it.
 */
public interface NativeBridge {

    byte[] buildInfo() throws NativeStatusException;

    byte[] options() throws NativeStatusException;

    NativeEngine open(byte[] options, LoadProgressListener progress) throws NativeStatusException;

    byte[] schemaToGrammar(byte[] schema) throws NativeStatusException;

    /** Null goes back to SLF4J, whose configuration then decides about levels. */
    void logTo(@Nullable LogListener listener, Level minLevel);

    void quantize(String source, String target, byte[] options) throws NativeStatusException;

    /** Returns only by an exception. */
    void serveRpc(byte[] options) throws NativeStatusException;
}
