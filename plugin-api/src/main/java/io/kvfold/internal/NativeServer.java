package io.kvfold.internal;

/** A {@code kvfold_server}. */
public interface NativeServer {

    /** What {@code kvfold_serve()} said about it. */
    byte[] info();

    /** Called once. */
    void close();
}
