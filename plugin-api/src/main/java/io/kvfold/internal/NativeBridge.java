package io.kvfold.internal;

import io.kvfold.LoadProgressListener;

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

    void quantize(String source, String target, byte[] options) throws NativeStatusException;
}
