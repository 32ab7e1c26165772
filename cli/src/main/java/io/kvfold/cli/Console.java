package io.kvfold.cli;

import java.io.IOException;
import java.util.logging.Level;
import java.util.logging.Logger;
import org.jline.terminal.spi.SystemStream;
import org.jline.terminal.spi.TerminalProvider;
import org.jspecify.annotations.Nullable;

/** Which of the process's streams are terminals. */
final class Console {

    private static final @Nullable TerminalProvider PROVIDER = provider();

    private Console() {}

    /** Whether a person reads and answers: standard input and output are both terminals. */
    static boolean isInteractive() {
        return PROVIDER != null
                && PROVIDER.isSystemStream(SystemStream.Input)
                && PROVIDER.isSystemStream(SystemStream.Output);
    }

    /** The width of the terminal that standard error is, or 0 where it is none. */
    static int errorWidth() {
        return width(SystemStream.Error);
    }

    /** The same of standard output. */
    static int outputWidth() {
        return width(SystemStream.Output);
    }

    private static int width(SystemStream stream) {
        if (PROVIDER == null || !PROVIDER.isSystemStream(stream)) {
            return 0;
        }
        int width = PROVIDER.systemStreamWidth(stream);
        return width > 0 ? width : 80;
    }

    private static @Nullable TerminalProvider provider() {
        try {
            return TerminalProvider.load("jni");
        } catch (IOException | LinkageError e) {
            Logger.getLogger(Console.class.getName()).log(Level.FINE, "no terminal support on this platform", e);
            return null;
        }
    }
}
