package io.kvfold.internal.jna;

import com.sun.jna.CallbackThreadInitializer;
import com.sun.jna.Native;
import com.sun.jna.Pointer;
import io.kvfold.LogListener;
import java.nio.charset.StandardCharsets;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.slf4j.event.Level;

/** The log of llama.cpp and ggml as the SLF4J logger {@code io.kvfold.native}, or for a listener. */
final class NativeLog implements Library.LogCallback {

    private final Library library;
    private final Logger logger;
    private volatile @Nullable LogListener listener;

    NativeLog(Library library) {
        this(library, LoggerFactory.getLogger("io.kvfold.native"));
    }

    NativeLog(Library library, Logger logger) {
        this.library = library;
        this.logger = logger;
        // Threads of the library stay attached, as daemons: attaching one costs more than writing a line.
        Native.setCallbackThreadInitializer(this, new CallbackThreadInitializer(true, false, "kvfold-native"));
    }

    /** Sends lines to {@code listener} from now on, or to the logger again. */
    void listen(@Nullable LogListener listener, Level minLevel) {
        this.listener = listener;
        if (listener == null) {
            connect();
        } else {
            library.kvfold_log_set(this, NativeLevel.of(minLevel).number, null);
        }
    }

    /** Hands this callback over with the level that the logger has now; a listener keeps the level it was given. */
    void connect() {
        if (listener != null) {
            return;
        }
        for (NativeLevel level : NativeLevel.values()) {
            if (logger.isEnabledForLevel(level.level)) {
                library.kvfold_log_set(this, level.number, null);
                return;
            }
        }
        library.kvfold_log_set(null, NativeLevel.ERROR.number, null);
    }

    @Override
    public void invoke(int level, Pointer line, @Nullable Pointer user) {
        try {
            String text = new String(JnaBridge.bytes(line), StandardCharsets.UTF_8);
            LogListener receiver = listener;
            if (receiver == null) {
                logger.atLevel(NativeLevel.of(level).level).log(text);
            } else {
                receiver.onLine(NativeLevel.of(level).level, text);
            }
        } catch (Throwable e) { // an appender's failure must not unwind into the library
            Thread thread = Thread.currentThread();
            thread.getUncaughtExceptionHandler().uncaughtException(thread, e);
        }
    }

    /** {@code kvfold_log_level}. */
    enum NativeLevel {
        DEBUG(1, Level.DEBUG),
        INFO(2, Level.INFO),
        WARN(3, Level.WARN),
        ERROR(4, Level.ERROR);

        final int number;
        private final Level level;

        NativeLevel(int number, Level level) {
            this.number = number;
            this.level = level;
        }

        static NativeLevel of(Level level) {
            for (NativeLevel candidate : values()) {
                if (candidate.level.toInt() >= level.toInt()) {
                    return candidate;
                }
            }
            return ERROR;
        }

        static NativeLevel of(int number) {
            for (NativeLevel level : values()) {
                if (level.number >= number) {
                    return level;
                }
            }
            return ERROR;
        }
    }
}
