package io.kvfold.javallama;

import com.fasterxml.jackson.databind.node.ObjectNode;
import de.kherud.llama.LogLevel;
import de.kherud.llama.args.LogFormat;
import io.kvfold.NativeLibrary;
import java.time.Clock;
import java.util.function.BiConsumer;
import org.jspecify.annotations.Nullable;
import org.slf4j.event.Level;

/** Where the log of the process goes: to SLF4J until {@code setLogger} is called, nowhere after {@code disableLog}. */
final class NativeLogSink {

    private static final Clock CLOCK = Clock.systemUTC();

    private static boolean given;
    private static boolean silenced;

    private NativeLogSink() {}

    /** {@link LlamaModel#setLogger}. */
    @SuppressWarnings("SystemOut") // java-llama.cpp's own default
    static synchronized void set(@Nullable LogFormat format, @Nullable BiConsumer<LogLevel, String> callback) {
        given = true;
        boolean json = format == LogFormat.JSON;
        BiConsumer<LogLevel, String> receiver = callback == null ? (level, line) -> System.out.println(line) : callback;
        NativeLibrary.logTo(
                (level, line) -> {
                    LogLevel theirs = level(level);
                    receiver.accept(theirs, json ? json(theirs, line) : line);
                },
                callback == null ? Level.INFO : Level.DEBUG);
    }

    /** A model is opened with or without {@code disableLog}. */
    static synchronized void silence(boolean silent) {
        if (!given && silent != silenced) {
            NativeLibrary.logTo(silent ? (level, line) -> {} : null, Level.ERROR);
            silenced = silent;
        }
    }

    private static LogLevel level(Level level) {
        return switch (level) {
            case ERROR -> LogLevel.ERROR;
            case WARN -> LogLevel.WARN;
            case INFO -> LogLevel.INFO;
            case DEBUG, TRACE -> LogLevel.DEBUG;
        };
    }

    private static String json(LogLevel level, String line) {
        ObjectNode json = CompletionRequest.JSON_MAPPER
                .createObjectNode()
                .put("timestamp", CLOCK.millis() / 1000)
                .put("level", level.name())
                .put("message", line);
        return json.toString();
    }
}
