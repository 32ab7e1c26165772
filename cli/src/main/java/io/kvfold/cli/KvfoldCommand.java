package io.kvfold.cli;

import io.kvfold.hub.Models;
import java.util.function.Supplier;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ScopeType;

/** The command without a subcommand: prints what there is. */
@Command(
        name = "kvfold",
        header = "Runs local language models (GGUF files) with a folded KV cache.",
        description = {
            "",
            "A model's attention reads the keys and values of all former tokens from the KV cache. A KV plan lets"
                    + " layers share them, so that the cache holds more tokens in the same memory. Models run inside this"
                    + " process, on a llama.cpp of its own."
        },
        synopsisSubcommandLabel = "COMMAND",
        commandListHeading = "%nCommands:%n",
        optionListHeading = "%nOptions:%n",
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold chat",
            "  kvfold chat --model model.gguf",
            "  kvfold chat --model hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF",
            "  kvfold inspect model.gguf --ctx 32768",
            "  kvfold generate -m model.gguf -p \"Once upon a time\" --max-tokens 50",
            "  kvfold compare -p \"Once upon a time\"",
            "  kvfold serve -m model.gguf --port 8080",
            "  kvfold perplexity --help"
        },
        versionProvider = VersionCommand.class,
        subcommands = {
            ChatCommand.class,
            GenerateCommand.class,
            ServeCommand.class,
            InspectCommand.class,
            PullCommand.class,
            ListCommand.class,
            RemoveCommand.class,
            LogitsCommand.class,
            PerplexityCommand.class,
            EvalCommand.class,
            PlanCommand.class,
            ConvertCommand.class,
            QuantizeCommand.class,
            CompareCommand.class,
            BenchCommand.class,
            RpcServerCommand.class,
            OptionsCommand.class,
            VersionCommand.class
        })
final class KvfoldCommand implements Runnable {

    /** What a help page about models by name ends with. */
    static final String HUB_ENVIRONMENT =
            "HF_ENDPOINT names another hub, HF_HUB_CACHE or HF_HOME another cache, HF_TOKEN the user;"
                    + " HF_HUB_OFFLINE=1 fetches nothing.";

    private final Supplier<Models> models;
    private boolean verbose;

    /** @param models where models by name are looked up */
    KvfoldCommand(Supplier<Models> models) {
        this.models = models;
    }

    @CommandLine.Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Option(
            names = {"-h", "--help"},
            usageHelp = true,
            scope = ScopeType.INHERIT,
            description = "Prints this help.")
    private boolean help;

    @Option(
            names = {"-V", "--version"},
            versionHelp = true,
            description = "Prints versions, backends and devices.")
    private boolean version;

    @Override
    public void run() {
        spec.commandLine().usage(spec.commandLine().getOut());
    }

    /** Takes effect while the command line is parsed, which is before the first logger is made. */
    @Option(
            names = "--verbose",
            scope = ScopeType.INHERIT,
            description = "Prints the engine's log, and the stack trace of an error.")
    void setVerbose(boolean verbose) {
        this.verbose = verbose;
        if (verbose) {
            System.setProperty("org.slf4j.simpleLogger.defaultLogLevel", "debug");
        }
    }

    /** Where models by name are looked up. */
    static Models models(CommandSpec command) {
        return ((KvfoldCommand) command.root().userObject()).models.get();
    }

    static boolean isVerbose(CommandLine command) {
        return command.getCommandSpec().root().userObject() instanceof KvfoldCommand root && root.verbose;
    }
}
