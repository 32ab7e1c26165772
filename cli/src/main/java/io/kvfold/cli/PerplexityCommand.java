package io.kvfold.cli;

import io.kvfold.Engine;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** {@code kvfold perplexity}. */
@Command(
        name = "perplexity",
        header = "Measures how well a model predicts a text; lower is better.",
        description = {
            "",
            "The same figure as llama-perplexity of llama.cpp gives: the text is cut into chunks of --ctx-size tokens"
                    + " (default 512), each starts with the begin-of-text token where the model wants it, and the tokens"
                    + " of its second half are scored. Compare only figures of the same vocabulary, text and chunk size.",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold perplexity --model model.gguf --text wiki.test.raw",
            "  kvfold perplexity -m model.gguf --text wiki.test.raw --kv-type q4_0 -fa on",
            "  kvfold perplexity --model model.gguf --text wiki.test.raw --chunks 20"
        })
final class PerplexityCommand implements Callable<Integer> {

    static final int DEFAULT_CONTEXT = 512;

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Mixin
    @SuppressWarnings("NullAway.Init")
    private EngineOptions engineOptions;

    @Option(names = "--text", required = true, paramLabel = "FILE", description = "The text, UTF-8.")
    @SuppressWarnings("NullAway.Init")
    private Path text;

    @Option(names = "--chunks", paramLabel = "N", description = "Stop after N chunks. Default: the whole text.")
    private int maxChunks = Integer.MAX_VALUE;

    @Override
    public Integer call() throws IOException {
        Integer asked = engineOptions.contextSize();
        int context = asked == null ? DEFAULT_CONTEXT : asked;
        if (context < 4 || maxChunks < 1) {
            throw new ParameterException(spec.commandLine(), "--ctx-size is 4 or more and --chunks 1 or more");
        }
        try (Engine engine = engineOptions.open(context)) {
            PerplexityScore score = PerplexityScore.of(engine, text, context, maxChunks);
            PrintWriter out = spec.commandLine().getOut();
            out.println(Values.format(
                    "PPL = %.4f +/- %.5f (%d tokens scored in %d chunks of %d)",
                    score.perplexity(), score.standardError(), score.count(), score.chunks(), context));
        }
        return ExitCode.OK;
    }
}
