package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;

import io.kvfold.Engine;
import io.kvfold.GenerationCancelledException;
import io.kvfold.InternalEngineException;
import io.kvfold.InvalidModelException;
import io.kvfold.ModelNotFoundException;
import io.kvfold.UnknownOptionException;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Function;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import picocli.CommandLine;

final class MainTest {

    private static final String[] GENERATE = {"generate", "--model", "m.gguf", "--prompt", "a"};

    private static CommandRun failing(RuntimeException error, String... arguments) {
        Function<Engine.Builder, Engine> opener = builder -> {
            throw error;
        };
        return CommandRun.of(opener, arguments);
    }

    @Test
    void givesScriptsAnExitCodePerKindOfError() {
        assertThat(failing(new ModelNotFoundException("m"), GENERATE).exitCode())
                .isEqualTo(4);
        assertThat(failing(new InvalidModelException("m"), GENERATE).exitCode()).isEqualTo(4);
        assertThat(failing(new UnknownOptionException("m"), GENERATE).exitCode())
                .isEqualTo(2);
        assertThat(failing(new GenerationCancelledException("m"), GENERATE).exitCode())
                .isEqualTo(130);
        assertThat(failing(new InternalEngineException("m"), GENERATE).exitCode())
                .isEqualTo(1);
        assertThat(CommandRun.of(Engine.Builder::open, "generat").exitCode()).isEqualTo(2);
        assertThat(CommandRun.of(Engine.Builder::open).exitCode()).isZero();
    }

    @Test
    void printsAnErrorInOneLineAndItsTraceOnlyWhenAsked() {
        RuntimeException error = new ModelNotFoundException("there is no file m.gguf");

        assertThat(failing(error, GENERATE).err())
                .isEqualTo("kvfold: there is no file m.gguf" + System.lineSeparator());
        String verbose = failing(error, "generate", "--model", "m.gguf", "--prompt", "a", "--verbose")
                .err();
        assertThat(verbose).startsWith("kvfold: there is no file m.gguf").contains("\tat io.kvfold.cli.");
    }

    @Test
    void suggestsWhatMayHaveBeenMeant() {
        CommandRun run = CommandRun.of(Engine.Builder::open, "perplexty");

        assertThat(run.err()).contains("perplexty", "Did you mean: kvfold perplexity", "Try 'kvfold --help'.");
    }

    @Test
    void reportsABadValueWithTheLibrarysOwnMessage() {
        CommandRun run = CommandRun.of(
                Engine.Builder::open, "generate", "--model", "m.gguf", "--prompt", "a", "--kv-type", "f99");

        assertThat(run.exitCode()).isEqualTo(ExitCode.USAGE);
        assertThat(run.err()).contains("--kv-type", "no KV cache type is called 'f99'");
    }

    @Test
    void givesEveryCommandExamplesThatParseAndTheExitCodes() {
        CommandLine root = Main.commandLine(Engine.Builder::open);
        List<CommandLine> all = new ArrayList<>(root.getSubcommands().values());
        all.add(root);
        for (CommandLine command : all) {
            assertThat(command.getUsageMessage()).contains("Exit codes:", "130");
            List<String[]> examples = examples(command);
            assertThat(examples).as(command.getCommandName()).isNotEmpty();
            for (String[] example : examples) {
                Main.commandLine(Engine.Builder::open).parseArgs(example);
            }
        }
    }

    /** The arguments of the lines of a help page's end that call kvfold. */
    private static List<String[]> examples(CommandLine command) {
        List<String[]> examples = new ArrayList<>();
        for (String line : command.getCommandSpec().usageMessage().footer()) {
            Matcher call = Pattern.compile("(?:^|\\| )\\s*kvfold ([^|>]*?)(?: 2)?\\s*(?:[|>].*)?$")
                    .matcher(line);
            if (call.find()) {
                examples.add(Pattern.compile("\"([^\"]*)\"|\\S+")
                        .matcher(call.group(1))
                        .results()
                        .map(word -> word.group(1) != null ? word.group(1) : word.group())
                        .toArray(String[]::new));
            }
        }
        return examples;
    }
}
