package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;

import io.kvfold.Engine;
import io.kvfold.ScriptedEngine;
import io.kvfold.hub.Models;
import io.kvfold.internal.NativeStatus;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import picocli.CommandLine;

final class MainTest {

    private static final String[] GENERATE = {"generate", "--model", "m.gguf", "--prompt", "a"};

    private static CommandRun failing(int status, String... arguments) {
        return CommandRun.of(ScriptedEngine.answering().failingToOpen(status, "no such thing")::builder, arguments);
    }

    @Test
    void givesScriptsAnExitCodePerKindOfError() {
        assertThat(failing(NativeStatus.ERROR_MODEL_NOT_FOUND, GENERATE).exitCode())
                .isEqualTo(4);
        assertThat(failing(NativeStatus.ERROR_MODEL_INVALID, GENERATE).exitCode())
                .isEqualTo(4);
        assertThat(failing(NativeStatus.ERROR_UNKNOWN_OPTION, GENERATE).exitCode())
                .isEqualTo(2);
        assertThat(failing(NativeStatus.ERROR_CANCELLED, GENERATE).exitCode()).isEqualTo(130);
        assertThat(failing(NativeStatus.ERROR_INTERNAL, GENERATE).exitCode()).isEqualTo(1);
        assertThat(CommandRun.of(Engine::builder, "generat").exitCode()).isEqualTo(2);
        assertThat(CommandRun.of(Engine::builder).exitCode()).isZero();
    }

    @Test
    void printsAnErrorInOneLineAndItsTraceOnlyWhenAsked() {
        assertThat(failing(NativeStatus.ERROR_MODEL_NOT_FOUND, GENERATE).err())
                .isEqualTo("kvfold: no such thing" + System.lineSeparator());
        assertThat(failing(
                                NativeStatus.ERROR_MODEL_NOT_FOUND,
                                "generate",
                                "--model",
                                "m.gguf",
                                "--prompt",
                                "a",
                                "--verbose")
                        .err())
                .startsWith("kvfold: no such thing")
                .contains("\tat io.kvfold.cli.");
    }

    @Test
    void suggestsWhatMayHaveBeenMeant() {
        CommandRun run = CommandRun.of(Engine::builder, "perplexty");

        assertThat(run.err()).contains("perplexty", "Did you mean: kvfold perplexity", "Try 'kvfold --help'.");
    }

    @Test
    void reportsABadValueWithTheLibrarysOwnMessage() {
        CommandRun run =
                CommandRun.of(Engine::builder, "generate", "--model", "m.gguf", "--prompt", "a", "--kv-type", "f99");

        assertThat(run.exitCode()).isEqualTo(ExitCode.USAGE);
        assertThat(run.err()).contains("--kv-type", "no KV cache type is called 'f99'");
    }

    /** Options that several commands have, of which one has its own default. */
    @ParameterizedTest
    @CsvSource({
        "inspect, -m, which is fetched",
        "perplexity, -c, trained with",
        "compare, -c, prompt and answer together",
    })
    void saysTheSameOfAnOptionAsOfTheCommand(String command, String option, String contradiction) {
        String help = CommandRun.of(Engine::builder, command, "--help").out();

        assertThat(help).contains(option + ", --");
        assertThat(help.replaceAll("\\s+", " ")).doesNotContain(contradiction);
        assertThat(CommandRun.of(Engine::builder, "plan", "lazy", "--help").out())
                .doesNotContain("--ctx-size", "--slots");
    }

    @Test
    void givesEveryCommandExamplesThatParseAndTheExitCodes() {
        CommandLine root = Main.commandLine(Engine::builder, Models::fromEnvironment);
        List<CommandLine> all = new ArrayList<>(root.getSubcommands().values());
        all.add(root);
        for (CommandLine command : all) {
            assertThat(command.getUsageMessage()).contains("Exit codes:", "130");
            assertThat(command.getCommandSpec().usageMessage().footer()).allMatch(line -> line.length() < 80);
            List<String[]> examples = examples(command);
            assertThat(examples).as(command.getCommandName()).isNotEmpty();
            for (String[] example : examples) {
                Main.commandLine(Engine::builder, Models::fromEnvironment).parseArgs(example);
            }
        }
    }

    /** A percent sign that is not doubled makes picocli print a warning and the text as it stands in the source. */
    @Test
    void printsNothingBesideAHelpPage() {
        PrintStream before = System.err;
        ByteArrayOutputStream warnings = new ByteArrayOutputStream();
        System.setErr(new PrintStream(warnings, true, StandardCharsets.UTF_8));
        try {
            printHelp(Main.commandLine(Engine::builder, Models::fromEnvironment));
        } finally {
            System.setErr(before);
        }
        assertThat(warnings.toString(StandardCharsets.UTF_8)).isEmpty();
    }

    private static void printHelp(CommandLine command) {
        assertThat(command.getUsageMessage()).doesNotContain("%%").doesNotContain("%n");
        command.getSubcommands().values().forEach(MainTest::printHelp);
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
