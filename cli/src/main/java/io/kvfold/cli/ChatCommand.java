package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.EngineInfo;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code kvfold chat}. */
@Command(
        name = "chat",
        header = "Talks to a model.",
        description = {
            "",
            "On a terminal: type and press Enter; paste several lines, or break a line with Alt-Enter. Ctrl-C ends the"
                    + " running answer, a second one leaves. With a pipe, each line of standard input is one question,"
                    + " answers go to standard output and figures to standard error. After each answer you see its speed"
                    + " and what of the KV cache is used.",
            "",
            "Without --model it asks on a terminal which one, and takes demo:folded elsewhere.",
            "",
            "/help, /reset (forget what was said) and /exit are commands.",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold chat",
            "  kvfold chat --model hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF",
            "  kvfold chat --model model.gguf --ctx-size 8192",
            "  kvfold chat --model model.gguf --system \"Answer in one sentence.\"",
            "  kvfold chat --model model.gguf --temperature 0.2 --option top-p=0.9",
            "  echo \"Why is the sky blue?\" | kvfold chat --model model.gguf 2>/dev/null"
        })
final class ChatCommand implements Callable<Integer> {

    /** What a line of input asks for. */
    enum Input {
        QUESTION,
        NOTHING,
        HELP,
        KV,
        RESET,
        EXIT,
        UNKNOWN_COMMAND;

        static Input of(String line) {
            String text = line.strip();
            return switch (text) {
                case "" -> NOTHING;
                case "/help" -> HELP;
                case "/kv" -> KV;
                case "/reset" -> RESET;
                case "/exit" -> EXIT;
                default -> text.matches("/[a-z]+") ? UNKNOWN_COMMAND : QUESTION;
            };
        }
    }

    private static final String HELP = String.join(
            System.lineSeparator(),
            "/help   prints this",
            "/kv     prints what the KV cache takes: in use, committed, reserved, and which layers are lazy",
            "/reset  forgets what was said and frees its part of the KV cache with the next question",
            "/exit   leaves, as does Ctrl-D");

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Mixin
    @SuppressWarnings("NullAway.Init")
    private EngineOptions engineOptions;

    @Mixin
    private final ContextOption context = new ContextOption();

    @Mixin
    private final SamplingOptions sampling = new SamplingOptions();

    @Option(
            names = "--system",
            paramLabel = "TEXT",
            description = "A first message that tells the model how to behave.")
    private @Nullable String system;

    @Option(
            names = "--history",
            paramLabel = "FILE",
            description = "Where a terminal's input is kept for the arrow keys. Default:"
                    + " $$XDG_STATE_HOME/kvfold/history, or .local/state/kvfold/history in the home directory.")
    private @Nullable Path history;

    @Override
    public Integer call() throws IOException {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        if (Console.isInteractive() && !engineOptions.hasModel()) {
            ModelFile chosen = new ModelMenu(KvfoldCommand.models(spec))
                    .ask(in, spec.commandLine().getOut());
            if (chosen == null) {
                return ExitCode.OK;
            }
            if (!chosen.isDefault()) {
                engineOptions.choose(chosen);
            }
        }
        try (Engine engine = engineOptions.open(context.size, 1)) {
            Conversation conversation = new Conversation(engine, sampling, system);
            if (Console.isInteractive()) {
                return new ChatTerminal(conversation, history != null ? history : defaultHistory())
                        .run(greeting(engine.info()));
            }
            return pipe(conversation, in);
        }
    }

    private static String greeting(EngineInfo info) {
        return Values.format(
                "%s: %s, %d layers, %d tokens of context. /help lists commands, Ctrl-D leaves.",
                Path.of(info.model().path()).getFileName(),
                info.model().architecture(),
                info.model().layers(),
                info.context().sizePerSlot());
    }

    /** Answers each line; the first question that fails ends the chat, because the ones after it may refer to it. */
    int pipe(Conversation conversation, BufferedReader in) throws IOException {
        PrintWriter out = spec.commandLine().getOut();
        PrintWriter err = spec.commandLine().getErr();
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            Input input = Input.of(line);
            if (input == Input.EXIT) {
                break;
            }
            if (input != Input.QUESTION) {
                control(input, line, conversation, err);
                continue;
            }
            Conversation.Answer answer = conversation.ask(line, piece -> {
                out.print(piece);
                if (out.checkError()) {
                    conversation.cancel();
                }
            });
            out.println();
            if (out.checkError()) {
                break;
            }
            err.println(conversation.report(answer));
        }
        return ExitCode.OK;
    }

    /** Carries out what is not a question. */
    static void control(Input input, String line, Conversation conversation, PrintWriter out) {
        switch (input) {
            case HELP -> out.println(HELP);
            case KV -> conversation.memory().forEach(out::println);
            case RESET -> {
                conversation.reset();
                out.println("[forgotten]");
            }
            case UNKNOWN_COMMAND -> out.println("There is no command " + line.strip() + "; /help lists them.");
            default -> {}
        }
        out.flush();
    }

    private static Path defaultHistory() {
        String state = System.getenv("XDG_STATE_HOME");
        Path directory = state != null && !state.isEmpty()
                ? Path.of(state)
                : Path.of(System.getProperty("user.home"), ".local", "state");
        return directory.resolve("kvfold").resolve("history");
    }
}
