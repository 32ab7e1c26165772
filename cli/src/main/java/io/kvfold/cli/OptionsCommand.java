package io.kvfold.cli;

import io.kvfold.EngineOption;
import io.kvfold.NativeLibrary;
import java.io.PrintWriter;
import java.util.Locale;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code kvfold options}. */
@Command(
        name = "options",
        header = "Lists the llama-server options that --option takes.",
        description = {
            "",
            "These are options of llama-server that have a meaning inside a process, with llama.cpp's own explanation."
                    + " Command-line commands take them as --option NAME=VALUE, builders as option(name, value).",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {"  kvfold options", "  kvfold options rope"})
final class OptionsCommand implements Callable<Integer> {

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Parameters(
            arity = "0..1",
            paramLabel = "TEXT",
            description = "Only options with this text in name or explanation.")
    private @Nullable String text;

    @Override
    public Integer call() {
        PrintWriter out = spec.commandLine().getOut();
        for (EngineOption option : NativeLibrary.options()) {
            if (text == null || matches(option, text.toLowerCase(Locale.ROOT))) {
                String value = option.value() == null ? "" : " " + option.value();
                out.println(String.join(", ", option.names()) + value);
                option.help()
                        .lines()
                        .map(String::strip)
                        .filter(line -> !line.startsWith("(env: ")) // no environment variables are read
                        .forEach(line -> out.println("    " + line));
            }
        }
        return ExitCode.OK;
    }

    private static boolean matches(EngineOption option, String text) {
        return option.names().stream().anyMatch(name -> name.contains(text))
                || option.help().toLowerCase(Locale.ROOT).contains(text);
    }
}
