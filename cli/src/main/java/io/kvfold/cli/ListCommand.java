package io.kvfold.cli;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.hub.CachedFile;
import java.io.PrintWriter;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code kvfold list}. */
@Command(
        name = "list",
        header = "Lists the GGUF models in the cache, whoever fetched them.",
        description = {"", "Each name can be given as --model and to kvfold rm. " + KvfoldCommand.HUB_ENVIRONMENT, ""},
        footerHeading = "%nExamples:%n",
        footer = {"  kvfold list", "  kvfold list --json | jq -r .[].file"})
final class ListCommand implements Callable<Integer> {

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Option(names = "--json", description = "Print one JSON array.")
    private boolean json;

    @Override
    public Integer call() throws JsonProcessingException {
        PrintWriter out = spec.commandLine().getOut();
        List<CachedFile> files = KvfoldCommand.models(spec).list();
        if (json) {
            ArrayNode array = JsonNodeFactory.instance.arrayNode();
            for (CachedFile file : files) {
                ObjectNode node = array.addObject()
                        .put("name", file.name().toString())
                        .put("bytes", file.bytes())
                        .put("commit", file.commit())
                        .put("file", file.file().toString());
                file.revisions().forEach(node.putArray("revisions")::add);
            }
            out.println(new ObjectMapper().writerWithDefaultPrettyPrinter().writeValueAsString(array));
            return ExitCode.OK;
        }
        for (CachedFile file : files) {
            out.println(Values.format("%10s  %s", Values.bytes(file.bytes()), file.name()));
        }
        return ExitCode.OK;
    }
}
