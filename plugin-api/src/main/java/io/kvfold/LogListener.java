package io.kvfold;

import org.slf4j.event.Level;

/**
 * Receives the log of the native library; see {@link NativeLibrary#logTo}. Called from any thread, also concurrently, and
 * must not call back into an engine. What it throws goes to the thread's uncaught exception handler.
 */
@FunctionalInterface
public interface LogListener {

    /** Takes one line without its line break. */
    void onLine(Level level, String line);
}
