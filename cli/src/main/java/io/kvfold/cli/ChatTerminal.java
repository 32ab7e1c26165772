package io.kvfold.cli;

import io.kvfold.KvfoldException;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Objects;
import org.jline.keymap.KeyMap;
import org.jline.reader.EndOfFileException;
import org.jline.reader.LineReader;
import org.jline.reader.LineReaderBuilder;
import org.jline.reader.Reference;
import org.jline.reader.UserInterruptException;
import org.jline.reader.impl.DefaultParser;
import org.jline.terminal.Terminal;
import org.jline.terminal.TerminalBuilder;
import org.jline.utils.AttributedString;
import org.jline.utils.AttributedStyle;

/** The chat on a terminal. */
final class ChatTerminal {

    private static final String PROMPT = "> ";
    private static final String CONTINUED = "  ";

    private final Conversation conversation;
    private final Path history;

    /** Interrupts since the last question; the second one leaves. */
    private volatile int interrupts;

    ChatTerminal(Conversation conversation, Path history) {
        this.conversation = conversation;
        this.history = history;
    }

    /** Returns the exit code when the user leaves. */
    int run(String greeting) throws IOException {
        try (Terminal terminal = TerminalBuilder.builder()
                .system(true)
                .encoding(StandardCharsets.UTF_8)
                .nativeSignals(true)
                .build()) {
            terminal.handle(Terminal.Signal.INT, signal -> interrupt());
            LineReader reader = reader(terminal);
            PrintWriter out = terminal.writer();
            out.println(greeting);
            while (true) {
                String line;
                try {
                    line = reader.readLine(PROMPT);
                } catch (UserInterruptException e) {
                    if (++interrupts >= 2 && e.getPartialLine().isEmpty()) {
                        return ExitCode.CANCELLED;
                    }
                    out.println("(Ctrl-C again or Ctrl-D leaves)");
                    continue;
                } catch (EndOfFileException e) {
                    return ExitCode.OK;
                }
                interrupts = 0;
                ChatCommand.Input input = ChatCommand.Input.of(line);
                switch (input) {
                    case EXIT -> {
                        return ExitCode.OK;
                    }
                    case QUESTION -> answer(line, terminal);
                    default -> ChatCommand.control(input, line, conversation, out);
                }
            }
        }
    }

    private void answer(String question, Terminal terminal) {
        PrintWriter out = terminal.writer();
        try {
            Conversation.Answer answer = conversation.ask(question, piece -> {
                out.print(piece);
                out.flush();
            });
            out.println();
            dim(terminal, conversation.report(answer));
        } catch (KvfoldException e) {
            out.println();
            out.println("kvfold: " + e.getMessage());
        }
        out.flush();
    }

    /** Called by the signal thread while an answer runs; at the prompt, Ctrl-C reaches the line reader instead. */
    private void interrupt() {
        if (++interrupts >= 2) {
            Runtime.getRuntime().halt(ExitCode.CANCELLED);
        }
        conversation.cancel();
    }

    private static void dim(Terminal terminal, String text) {
        new AttributedString(text, AttributedStyle.DEFAULT.faint()).println(terminal);
    }

    private LineReader reader(Terminal terminal) throws IOException {
        Path directory = history.toAbsolutePath().getParent();
        if (directory != null) {
            Files.createDirectories(directory);
        }
        DefaultParser plainText = new DefaultParser().quoteChars(new char[0]).escapeChars(new char[0]);
        LineReader reader = LineReaderBuilder.builder()
                .terminal(terminal)
                .parser(plainText)
                .variable(LineReader.HISTORY_FILE, history)
                .variable(LineReader.SECONDARY_PROMPT_PATTERN, CONTINUED)
                .option(LineReader.Option.DISABLE_EVENT_EXPANSION, true)
                .option(LineReader.Option.BRACKETED_PASTE, true)
                .build();
        reader.getWidgets().put("insert-newline", () -> {
            reader.getBuffer().write('\n');
            return true;
        });
        Objects.requireNonNull(reader.getKeyMaps().get(LineReader.MAIN))
                .bind(new Reference("insert-newline"), KeyMap.alt('\r'), KeyMap.alt('\n'));
        return reader;
    }
}
