package io.kvfold.internal.jna;

import static org.assertj.core.api.Assertions.assertThat;

import com.sun.jna.Memory;
import java.lang.reflect.Proxy;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.slf4j.Marker;
import org.slf4j.event.Level;
import org.slf4j.helpers.AbstractLogger;

class NativeLogTest {

    private final List<String> calls = new ArrayList<>();
    private final Library library = (Library) Proxy.newProxyInstance(
            Library.class.getClassLoader(), new Class<?>[] {Library.class}, (proxy, method, arguments) -> {
                calls.add(method.getName() + (arguments[0] == null ? " null " : " callback ") + arguments[1]);
                return null;
            });

    @ParameterizedTest
    @CsvSource({"TRACE, 1", "DEBUG, 1", "INFO, 2", "WARN, 3", "ERROR, 4"})
    void asksForTheLinesThatTheLoggerTakes(Level level, int number) {
        new NativeLog(library, new Capturing(level)).connect();
        assertThat(calls).containsExactly("kvfold_log_set callback " + number);
    }

    @Test
    void asksForNoneWhenTheLoggerIsOff() {
        new NativeLog(library, new Capturing(null)).connect();
        assertThat(calls).containsExactly("kvfold_log_set null 4");
    }

    @ParameterizedTest
    @EnumSource(NativeLog.NativeLevel.class)
    void passesALineOnWithItsLevel(NativeLog.NativeLevel level) {
        Capturing logger = new Capturing(Level.TRACE);
        new NativeLog(library, logger).invoke(level.number, text("größer {} als 二"), null);
        assertThat(logger.lines).containsExactly(level.name() + " größer {} als 二");
    }

    @Test
    void keepsAnAppendersFailureOutOfTheLibrary() {
        List<Throwable> failures = new ArrayList<>();
        Thread.currentThread().setUncaughtExceptionHandler((thread, failure) -> failures.add(failure));
        try {
            Capturing logger = new Capturing(Level.TRACE);
            logger.failure = new IllegalStateException("on purpose");
            new NativeLog(library, logger).invoke(2, text("a"), null);
            assertThat(failures).containsExactly(logger.failure);
        } finally {
            Thread.currentThread().setUncaughtExceptionHandler(null);
        }
    }

    @Test
    void sendsLinesToAListenerUntilItIsTakenAway() {
        Capturing logger = new Capturing(Level.ERROR);
        NativeLog log = new NativeLog(library, logger);
        List<String> lines = new ArrayList<>();
        log.listen((level, line) -> lines.add(level + " " + line), Level.TRACE);
        log.connect();
        log.invoke(2, text("größer"), null);
        log.listen(null, Level.TRACE);
        log.invoke(4, text("again"), null);
        assertThat(calls).containsExactly("kvfold_log_set callback 1", "kvfold_log_set callback 4");
        assertThat(lines).containsExactly("INFO größer");
        assertThat(logger.lines).containsExactly("ERROR again");
    }

    private static Memory text(String text) {
        byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
        Memory memory = new Memory(bytes.length + 1L);
        memory.clear();
        memory.write(0, bytes, 0, bytes.length);
        return memory;
    }

    private static final class Capturing extends AbstractLogger {
        private static final long serialVersionUID = 1L;

        private final @Nullable Level level;
        private final transient List<String> lines = new ArrayList<>();
        private @Nullable RuntimeException failure;

        Capturing(@Nullable Level level) {
            this.level = level;
        }

        private boolean takes(Level line) {
            return level != null && line.toInt() >= level.toInt();
        }

        @Override
        protected void handleNormalizedLoggingCall(
                Level line, Marker marker, String message, Object[] arguments, Throwable throwable) {
            if (failure != null) {
                throw failure;
            }
            lines.add(line + " " + message);
        }

        @Override
        protected @Nullable String getFullyQualifiedCallerName() {
            return null;
        }

        @Override
        public boolean isTraceEnabled() {
            return takes(Level.TRACE);
        }

        @Override
        public boolean isTraceEnabled(Marker marker) {
            return isTraceEnabled();
        }

        @Override
        public boolean isDebugEnabled() {
            return takes(Level.DEBUG);
        }

        @Override
        public boolean isDebugEnabled(Marker marker) {
            return isDebugEnabled();
        }

        @Override
        public boolean isInfoEnabled() {
            return takes(Level.INFO);
        }

        @Override
        public boolean isInfoEnabled(Marker marker) {
            return isInfoEnabled();
        }

        @Override
        public boolean isWarnEnabled() {
            return takes(Level.WARN);
        }

        @Override
        public boolean isWarnEnabled(Marker marker) {
            return isWarnEnabled();
        }

        @Override
        public boolean isErrorEnabled() {
            return takes(Level.ERROR);
        }

        @Override
        public boolean isErrorEnabled(Marker marker) {
            return isErrorEnabled();
        }
    }
}
