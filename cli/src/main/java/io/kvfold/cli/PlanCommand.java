package io.kvfold.cli;

import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Spec;

/** {@code kvfold plan}. */
@Command(
        name = "plan",
        header = "Searches a KV plan for an ordinary model, and shows what one evicts.",
        synopsisSubcommandLabel = "COMMAND",
        commandListHeading = "%nCommands:%n",
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold plan tune -m model.gguf --text wiki.txt --memory 256MiB --context 8192",
            "  kvfold plan share --model model.gguf --text wiki.txt --layers 4",
            "  kvfold plan lazy --model model.gguf --text book.txt --plot scores.svg",
            "  kvfold plan evict --model model.gguf --text book.txt --evict snapkv:0.25"
        },
        subcommands = {PlanShareCommand.class, PlanLazyCommand.class, PlanTuneCommand.class, PlanEvictCommand.class})
final class PlanCommand implements Runnable {

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Override
    public void run() {
        throw new CommandLine.ParameterException(
                spec.commandLine(), "plan needs a command: tune, share, lazy or evict");
    }
}
