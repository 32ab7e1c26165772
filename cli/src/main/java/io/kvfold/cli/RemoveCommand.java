package io.kvfold.cli;

import io.kvfold.hub.ModelName;
import io.kvfold.hub.Models;
import java.io.PrintWriter;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code kvfold rm}. */
@Command(
        name = "rm",
        header = "Deletes models from the cache.",
        description = {
            "",
            "A name without a quantisation or file means all GGUF files of its repository, and one without a revision"
                    + " those of all revisions. Also deletes what interrupted downloads of the repository left. Content"
                    + " that other revisions need stays. "
                    + KvfoldCommand.HUB_ENVIRONMENT,
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold rm hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0",
            "  kvfold rm hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF"
        })
final class RemoveCommand implements Callable<Integer> {

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Parameters(arity = "1..*", paramLabel = "NAME", description = "What to delete.")
    private List<String> names = List.of();

    @Override
    public Integer call() {
        List<ModelName> parsed = names.stream().map(ModelName::parse).toList();
        Models models = KvfoldCommand.models(spec);
        PrintWriter out = spec.commandLine().getOut();
        for (ModelName name : parsed) {
            Models.Removal removal = models.remove(name);
            removal.files().forEach(file -> out.println("deleted " + file.name()));
            out.println(Values.bytes(removal.bytes()) + " are free");
        }
        return ExitCode.OK;
    }
}
