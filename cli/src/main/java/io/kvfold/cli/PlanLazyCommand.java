package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.EngineInfo;
import io.kvfold.KvPlan;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKvPlan;
import io.kvfold.search.RetentionSearch;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** {@code kvfold plan lazy}. */
@Command(
        name = "lazy",
        header = "Finds layers that may forget all but the first and the most recent tokens (SimLayerKV).",
        description = {
            "",
            "Measures for each layer how much of the attention of the last tokens of long pieces of a text falls on the"
                    + " first few and the most recent positions. A layer whose score is above the threshold is lazy: it"
                    + " retains only these. Positions stay as they are and nothing is trained, so the plan costs quality:"
                    + " the perplexity without and with it says how much, and the memory of the KV cache what for.",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold plan lazy --model model.gguf --text book.txt",
            "  kvfold plan lazy -m model.gguf --text book.txt --count 11 --plot scores.svg --out lazy.gguf"
        })
final class PlanLazyCommand implements Callable<Integer> {

    private static final int LENGTH_IN_WINDOWS = 4;

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Mixin
    @SuppressWarnings("NullAway.Init")
    private EngineOptions engineOptions;

    @Option(names = "--text", required = true, paramLabel = "FILE", description = "The text to measure with, UTF-8.")
    @SuppressWarnings("NullAway.Init")
    private Path text;

    @Option(
            names = "--sinks",
            paramLabel = "N",
            description = "First tokens that a lazy layer retains. Default: ${DEFAULT-VALUE}.")
    private int sinks = KvPlan.DEFAULT_SINKS;

    @Option(
            names = "--recent",
            paramLabel = "N",
            description = "Most recent tokens that a lazy layer retains. Default: ${DEFAULT-VALUE}.")
    private int recent = KvPlan.DEFAULT_RECENT;

    @Option(
            names = "--queries",
            paramLabel = "N",
            description = "Tokens at the end of each piece whose attention is scored. Default: ${DEFAULT-VALUE}.")
    private int queries = RetentionSearch.DEFAULT_QUERIES;

    @Option(
            names = "--threshold",
            paramLabel = "X",
            description = "A layer with a higher score is lazy; 0 to 1. Default: what SimLayerKV publishes for the"
                    + " family: 0.85 for Qwen, 0.9 for vocabularies above 100,000 as Llama 3's, else 0.65.")
    private @Nullable Double threshold;

    @Option(
            names = "--count",
            paramLabel = "N",
            description = "Instead of a threshold: so many layers with the highest scores (LightTransfer).")
    private @Nullable Integer count;

    @Option(
            names = "--tokens",
            paramLabel = "N",
            description = "Tokens of each piece. Default: four times what a lazy layer retains, as far as the model was"
                    + " trained.")
    private @Nullable Integer tokens;

    @Option(
            names = "--sequences",
            paramLabel = "N",
            description = "Pieces of the text, at most. Default: ${DEFAULT-VALUE}.")
    private int sequences = 4;

    @Option(names = "--plot", paramLabel = "FILE", description = "Draws the scores as an SVG picture.")
    private @Nullable Path plot;

    @Option(names = "--out", paramLabel = "FILE", description = "Writes a copy of the model with the plan.")
    private @Nullable Path out;

    @Override
    public Integer call() throws IOException {
        if (threshold != null && count != null) {
            throw new ParameterException(spec.commandLine(), "--threshold and --count exclude each other");
        }
        if (sequences < 1) {
            throw new ParameterException(spec.commandLine(), "--sequences is 1 or more");
        }
        RetentionSearch search = new RetentionSearch(sinks, recent, queries);
        KvPlan base = engineOptions.plan();
        search.plan(base, 0); // a plan with windows of its own is refused before anything is computed
        Scores scores = measure(search, base);
        int[] lazy = count != null
                ? RetentionSearch.laziestLayers(scores.values(), count)
                : RetentionSearch.lazyLayers(scores.values(), scores.threshold());
        KvPlan plan = search.plan(base, lazy);
        PlanCost cost;
        try (Engine engine = engineOptions.openToEvaluate(scores.tokens(), plan)) {
            cost = Scores.cost(engine, scores.pieces(), scores.tokens());
        }
        print(scores, lazy);
        PrintWriter printer = spec.commandLine().getOut();
        long context = engineOptions.trainedContext();
        printer.println(Values.format(
                "KV cache of %d tokens: %s without the plan, %s with it",
                context,
                Values.bytes(engineOptions.kvBytes(base, context)),
                Values.bytes(engineOptions.kvBytes(plan, context))));
        printer.println(PlanCost.line(scores.cost(), cost));
        printer.println("--kv-plan " + plan);
        if (plot != null) {
            String limit = count != null ? "" : Double.toString(scores.threshold());
            Files.writeString(plot, ScorePlot.svg(scores.values(), lazy, limit));
        }
        if (out != null) {
            GgufKvPlan.copy(GgufFile.open(engineOptions.model()), plan, out, (done, total) -> {});
            spec.commandLine().getOut().println("written to " + out);
        }
        return ExitCode.OK;
    }

    private record Scores(double[] values, double threshold, int tokens, List<int[]> pieces, PlanCost cost) {

        /** How well the model predicts the second half of each piece. */
        static PlanCost cost(Engine engine, List<int[]> pieces, int tokens) throws IOException {
            int[] all = pieces.stream().flatMapToInt(Arrays::stream).toArray();
            return PlanCost.of(engine, all, tokens, pieces.size());
        }
    }

    private Scores measure(RetentionSearch search, KvPlan base) throws IOException {
        String content = TextFile.read(text);
        int asked = tokens == null ? LENGTH_IN_WINDOWS * Math.addExact(sinks, recent) : tokens;
        try (Engine engine = engineOptions.openToEvaluate(asked, base)) {
            EngineInfo.Model model = engine.info().model();
            int length = tokens == null ? Math.min(asked, model.contextLengthTrain()) : asked;
            List<int[]> pieces = Calibration.sequences(engine, content, sequences, length);
            double limit = threshold != null
                    ? threshold
                    : RetentionSearch.publishedThreshold(model.architecture(), model.vocabularySize());
            double[] sums = new double[model.layers()];
            try (Progress progress = new Progress("scoring", pieces.size(), " pieces")) {
                for (int i = 0; i < pieces.size(); i++) {
                    double[] scores = search.scores(engine, List.of(pieces.get(i)));
                    for (int layer = 0; layer < sums.length; layer++) {
                        sums[layer] += scores[layer] / pieces.size();
                    }
                    progress.stepTo(i + 1);
                }
            }
            return new Scores(sums, limit, length, pieces, Scores.cost(engine, pieces, length));
        }
    }

    private void print(Scores scores, int[] lazy) {
        PrintWriter printer = spec.commandLine().getOut();
        printer.println(Values.format(
                "attention on %d sinks and %d recent tokens, last %d of %d tokens, mean of %d pieces",
                sinks, recent, queries, scores.tokens(), scores.pieces().size()));
        for (int layer = 0; layer < scores.values().length; layer++) {
            int current = layer;
            boolean isLazy = Arrays.stream(lazy).anyMatch(l -> l == current);
            double score = scores.values()[layer];
            printer.println(Values.format(
                            "layer %3d  %.4f  %-40s %s",
                            layer, score, "#".repeat((int) Math.round(score * 40)), isLazy ? "lazy" : "")
                    .stripTrailing());
        }
        String rule = count != null
                ? "the highest scores"
                : Values.format("a score above %s", Double.toString(scores.threshold()));
        printer.println(Values.format(
                "%d of %d layers are lazy (%s): %s",
                lazy.length,
                scores.values().length,
                rule,
                Arrays.stream(lazy).mapToObj(Integer::toString).collect(Collectors.joining(", "))));
    }
}
