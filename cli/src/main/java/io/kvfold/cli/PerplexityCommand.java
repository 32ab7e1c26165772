package io.kvfold.cli;

import io.kvfold.Engine;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
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
            "",
            "--kl-divergence also tells how far the predictions are from those with the whole KV cache in f16: mean"
                    + " and 99.9%% quantile of the Kullback-Leibler divergence, and how often the same token is the most"
                    + " probable one, as llama-perplexity defines them. --kl-divergence-base FILE takes the base from a"
                    + " file of llama-perplexity or of this command, which writes it without --kl-divergence; per scored"
                    + " token it takes two bytes for each token of the vocabulary.",
            "",
            "A KV plan acts on the scored tokens as it does on a prompt. A window is felt where --ctx-size is more than"
                    + " twice as long. A plan that chooses lazy layers for each prompt chooses those of a chunk by its first"
                    + " half, if that is twice as long as sinks and window; under decide=end or decide=decode it chooses"
                    + " none. Where layers read higher ones, --ubatch 1 is what generation gives.",
            "",
            "In memory is what is computed at a time: 8 bytes for each token of the vocabulary and each of --ubatch. The"
                    + " base of --kl-divergence is a temporary file without --kl-divergence-base.",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold perplexity --model model.gguf --text wiki.test.raw",
            "  kvfold perplexity -m model.gguf --text wiki.test.raw --kv-type q4_0 -fa on",
            "  kvfold perplexity --model model.gguf --text wiki.test.raw --chunks 20",
            "  kvfold perplexity -m model.gguf --text a.txt --kv-type q4_0 --kl-divergence",
            "  kvfold perplexity -m model.gguf --text wiki.txt --kl-divergence-base b.kld",
            "  kvfold perplexity -m model.gguf --kl-divergence-base b.kld --kl-divergence"
        })
final class PerplexityCommand implements Callable<Integer> {

    static final int DEFAULT_CONTEXT = 512;

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Mixin
    @SuppressWarnings("NullAway.Init")
    private EngineOptions engineOptions;

    @Option(
            names = "--text",
            paramLabel = "FILE",
            description = "The text, UTF-8. Required, except to compare with a file, which holds the text's tokens.")
    private @Nullable Path text;

    @Option(
            names = {"-c", "--ctx-size", "--ctx"},
            paramLabel = "N",
            description = "Tokens of each chunk. Default: ${DEFAULT-VALUE}.")
    private int context = DEFAULT_CONTEXT;

    @Option(names = "--kl-divergence", description = "Compare the predictions with those of a base.")
    private boolean compares;

    @Option(
            names = "--kl-divergence-base",
            paramLabel = "FILE",
            description =
                    "The base to compare with, or to write. Default: the same model with its whole KV cache in f16.")
    private @Nullable Path base;

    @Option(names = "--chunks", paramLabel = "N", description = "Stop after N chunks. Default: the whole text.")
    private int maxChunks = Integer.MAX_VALUE;

    @Override
    public Integer call() throws IOException {
        if (context < 4 || maxChunks < 1) {
            throw new ParameterException(spec.commandLine(), "--ctx-size is 4 or more and --chunks 1 or more");
        }
        if (compares && base != null) {
            compare(base);
            return ExitCode.OK;
        }
        if (text == null) {
            throw new ParameterException(spec.commandLine(), "--text is missing");
        }
        if (!compares) {
            print(score(text, base), context);
            return ExitCode.OK;
        }
        Path whole = Files.createTempFile("kvfold", ".kld");
        try {
            try (Engine engine = engineOptions.openFullToEvaluate(context)) {
                score(engine, text, whole);
            }
            compare(whole);
        } finally {
            Files.delete(whole);
        }
        return ExitCode.OK;
    }

    private PerplexityScore score(Path text, @Nullable Path written) throws IOException {
        try (Engine engine = engineOptions.openToEvaluate(context)) {
            return score(engine, text, written);
        }
    }

    private PerplexityScore score(Engine engine, Path text, @Nullable Path written) throws IOException {
        if (written == null) {
            return PerplexityScore.of(engine, text, context, maxChunks);
        }
        int[] tokens = PerplexityScore.tokens(engine, text, context);
        return Comparison.writeBase(engine, tokens, context, Math.min(tokens.length / context, maxChunks), written);
    }

    private void compare(Path file) throws IOException {
        try (LogProbabilities.Reader reader = new LogProbabilities.Reader(file);
                Engine engine = engineOptions.openToEvaluate(reader.context())) {
            Comparison comparison = Comparison.of(engine, reader, maxChunks);
            DivergenceScore divergence = comparison.divergence();
            print(comparison.perplexity(), reader.context());
            spec.commandLine()
                    .getOut()
                    .println(Values.format(
                            "KL divergence = %.6f +/- %.6f, 99.9%% quantile %.6f, largest %.6f%nSame top token = %.3f"
                                    + " %%",
                            divergence.mean(),
                            divergence.standardError(),
                            divergence.quantile(0.999),
                            divergence.quantile(1),
                            100 * divergence.sameTop()));
        }
    }

    private void print(PerplexityScore score, int context) {
        spec.commandLine()
                .getOut()
                .println(Values.format(
                        "PPL = %.4f +/- %.5f (%d tokens scored in %d chunks of %d)",
                        score.perplexity(), score.standardError(), score.count(), score.chunks(), context));
    }
}
