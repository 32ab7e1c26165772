package io.kvfold.convert;

/** Is told how a conversion goes, on the converting thread. */
public interface ConversionListener {

    /** Ignores everything. */
    ConversionListener NONE = new ConversionListener() {};

    /**
     * Called before the first tensor and after each one.
     *
     * @param done bytes of tensor data written
     * @param total bytes that will be written
     */
    default void onProgress(long done, long total) {}

    /** Something the user should know and that does not stop the conversion. */
    default void onWarning(String message) {}
}
