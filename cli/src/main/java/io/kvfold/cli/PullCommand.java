package io.kvfold.cli;

import io.kvfold.hub.LocalModel;
import io.kvfold.hub.ModelName;
import io.kvfold.hub.Models;
import java.io.PrintWriter;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code kvfold pull}. */
@Command(
        name = "pull",
        header = "Fetches models from a hub into the cache that Hugging Face's programs share.",
        description = {
            "",
            "A name is hf:owner/name[:quant|/file][@revision]; without a quantisation or file it is Q4_K_M, else Q8_0,"
                    + " else the first GGUF file. A download that was cut off goes on where it ended, and every file is"
                    + " held to its checksum. Prints where the model is.",
            "",
            KvfoldCommand.HUB_ENVIRONMENT,
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold pull hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF",
            "  kvfold pull hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0",
            "  HF_TOKEN=hf_... kvfold pull hf:owner/private-GGUF"
        })
final class PullCommand implements Callable<Integer> {

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Parameters(arity = "1..*", paramLabel = "NAME", description = "What to fetch.")
    private List<String> names = List.of();

    @Override
    public Integer call() {
        List<ModelName> parsed = names.stream().map(ModelName::parse).toList();
        Models models = KvfoldCommand.models(spec);
        PrintWriter out = spec.commandLine().getOut();
        for (ModelName name : parsed) {
            try (DownloadProgress progress = new DownloadProgress()) {
                LocalModel model = models.get(name, progress);
                progress.close();
                out.println(model.file());
                out.flush();
            }
        }
        return ExitCode.OK;
    }
}
