package io.kvfold.internal.jna;

import com.sun.jna.CallbackThreadInitializer;
import com.sun.jna.Native;
import com.sun.jna.Pointer;
import java.nio.charset.StandardCharsets;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.slf4j.event.Level;

/** The log of llama.cpp and ggml as the SLF4J logger {@code io.kvfold.native}. */
final class NativeLog implements Library.LogCallback {

    private static final Logger LOG = LoggerFactory.getLogger("io.kvfold.native");

    private final Library library;

    NativeLog(Library library) {
        this.library = library;
        // Threads of the library stay attached, as daemons: attaching one costs more than writing a line.
        Native.setCallbackThreadInitializer(this, new CallbackThreadInitializer(true, false, "kvfold-native"));
    }

    /** Hands this callback over with the level that the logger has now. */
    void connect() {
        for (NativeLevel level : NativeLevel.values()) {
            if (LOG.isEnabledForLevel(level.level)) {
                library.kvfold_log_set(this, level.number(), null);
                return;
            }
        }
        library.kvfold_log_set(null, NativeLevel.ERROR.number(), null);
    }

    @Override
    public void invoke(int level, Pointer line, @Nullable Pointer user) {
        try {
            LOG.atLevel(NativeLevel.of(level).level).log(new String(JnaBridge.bytes(line), StandardCharsets.UTF_8));
        } catch (Throwable e) { // an appender's failure must not unwind into the library
            Thread thread = Thread.currentThread();
            thread.getUncaughtExceptionHandler().uncaughtException(thread, e);
        }
    }

    /** {@code kvfold_log_level}, from 1 on. */
    enum NativeLevel {
        DEBUG(Level.DEBUG),
        INFO(Level.INFO),
        WARN(Level.WARN),
        ERROR(Level.ERROR);

        private final Level level;

        NativeLevel(Level level) {
            this.level = level;
        }

        int number() {
            return ordinal() + 1;
        }

        static NativeLevel of(int number) {
            return values()[Math.max(0, Math.min(number - 1, values().length - 1))];
        }
    }
}
