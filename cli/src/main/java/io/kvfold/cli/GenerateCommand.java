package io.kvfold.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.Generation;
import io.kvfold.KvCacheStats;
import java.io.IOException;
import java.io.PrintWriter;
import java.util.concurrent.Callable;
import picocli.CommandLine.ArgGroup;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code kvfold generate}. */
@Command(
        name = "generate",
        header = "Continues a text as it is, without a chat template.",
        description = {
            "",
            "Only the continuation goes to standard output, token by token. The vocabulary's begin-of-text token is put"
                    + " before the prompt where the model wants it.",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold generate -p \"Once upon a time\" -n 50",
            "  kvfold generate -m model.gguf -p \"Once upon a time\" -n 200 --temperature 0",
            "  kvfold generate -m model.gguf --prompt-file story.txt --seed 1 > more.txt",
            "  kvfold generate -m model.gguf -p \"1, 2, 3,\" -n 8 --json | jq .timings"
        })
final class GenerateCommand implements Callable<Integer> {

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

    @ArgGroup(exclusive = true, multiplicity = "1")
    @SuppressWarnings("NullAway.Init")
    private PromptOption prompt;

    @Option(
            names = "--json",
            description = "Print one JSON object at the end instead: text, tokens, counts, timings, KV memory.")
    private boolean json;

    @Override
    public Integer call() throws IOException {
        ObjectNode body = JsonNodeFactory.instance.objectNode().put("prompt", prompt.read());
        // a stream leaves out the tokens of a character but for the last one
        body.put("stream", !json).put("return_progress", !json).put("return_tokens", json);
        sampling.addTo(body);
        try (Engine engine = engineOptions.open(context.size, 1);
                Generation generation = engine.complete(body);
                Progress progress = new Progress("reading", 0, " tokens")) {
            generate(engine, generation, progress);
        }
        return ExitCode.OK;
    }

    private void generate(Engine engine, Generation generation, Progress progress) throws IOException {
        PrintWriter out = spec.commandLine().getOut();
        StringBuilder text = new StringBuilder();
        ArrayNode tokens = JsonNodeFactory.instance.arrayNode();
        JsonNode last = JsonNodeFactory.instance.objectNode();
        for (JsonNode chunk = generation.next(); chunk != null; chunk = generation.next()) {
            if (progress.followPrompt(chunk)) {
                continue;
            }
            last = chunk;
            chunk.path("tokens").forEach(tokens::add);
            String piece = chunk.path("content").asText("");
            text.append(piece);
            if (!json && !piece.isEmpty()) {
                progress.close();
                out.print(piece);
                if (out.checkError()) {
                    return; // the reader of the pipe has seen enough
                }
            }
        }
        if (!json) {
            out.println();
            return;
        }
        ObjectNode result = JsonNodeFactory.instance.objectNode().put("text", text.toString());
        result.set("tokens", tokens);
        result.put("prompt_tokens", last.path("tokens_evaluated").asInt())
                .put("completion_tokens", last.path("tokens_predicted").asInt())
                .put("stop", last.path("stop_type").asText());
        result.set("timings", last.path("timings"));
        KvCacheStats kv = engine.kvCacheStats();
        ObjectNode cache = result.putObject("kv_cache")
                .put("tokens", kv.cellsUsed())
                .put("bytes_allocated", kv.bytesAllocated())
                .put("bytes_committed", kv.bytesCommitted())
                .put("bytes_in_use", kv.bytesInUse());
        for (int slot = 0; slot < kv.lazyLayers().size(); slot++) {
            if (kv.bySlot().get(slot).tokens() > 0) { // that of the only request there was
                ArrayNode lazy = cache.putArray("lazy_layers");
                kv.lazyLayers().get(slot).forEach(lazy::add);
            }
        }
        out.println(new ObjectMapper().writerWithDefaultPrettyPrinter().writeValueAsString(result));
    }
}
