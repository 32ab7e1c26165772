package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.InvalidRequestException;
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
            "A KV plan acts on the scored tokens as it does on a prompt; where layers read higher ones, --ubatch 1 is"
                    + " what generation gives. Plans that choose lazy layers for each prompt choose none here.",
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
        int chunks = Math.min(tokens.length / context, maxChunks);
        int vocabularySize = engine.info().model().vocabularySize();
        try (LogProbabilities.Writer writer =
                new LogProbabilities.Writer(written, tokens, context, chunks, vocabularySize)) {
            return PerplexityScore.of(engine, tokens, context, chunks, writer::add);
        }
    }

    private void compare(Path file) throws IOException {
        try (LogProbabilities.Reader reader = new LogProbabilities.Reader(file);
                Engine engine = engineOptions.openToEvaluate(reader.context())) {
            int vocabularySize = engine.info().model().vocabularySize();
            if (reader.vocabularySize() != vocabularySize) {
                throw new InvalidRequestException(
                        file + " is of a vocabulary of " + reader.vocabularySize() + " tokens, the model's has "
                                + vocabularySize,
                        (long) reader.vocabularySize(),
                        (long) vocabularySize);
            }
            float[] expected = new float[vocabularySize];
            DivergenceScore divergence = new DivergenceScore();
            PerplexityScore score = PerplexityScore.of(
                    engine, reader.tokens(), reader.context(), Math.min(reader.chunks(), maxChunks), logits -> {
                        reader.next(expected);
                        divergence.add(logits, expected);
                    });
            print(score, reader.context());
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
