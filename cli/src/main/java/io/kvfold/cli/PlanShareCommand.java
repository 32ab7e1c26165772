package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.InvalidPlanException;
import io.kvfold.InvalidRequestException;
import io.kvfold.KvPlan;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKvPlan;
import io.kvfold.search.SharingSearch;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** {@code kvfold plan share}. */
@Command(
        name = "share",
        header = "Searches layers that may read a lower layer's keys and values (KVSharer).",
        description = {
            "",
            "Compares what the layers store for pieces of a text, and lets layers share, the most dissimilar pair first,"
                    + " as long as the model's last hidden states keep their direction. Prints what was tried, the plan,"
                    + " and the perplexity without and with it. The model is not trained, so that every shared layer"
                    + " costs quality; the perplexity says how much.",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold plan share --model model.gguf --text wiki.txt --layers 4",
            "  kvfold plan share -m model.gguf --text wiki.txt --layers 4 --threshold 0.9 --out shared.gguf"
        })
final class PlanShareCommand implements Callable<Integer> {

    private static final int MEASURED_CONTEXT = 512;

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
            names = "--layers",
            required = true,
            paramLabel = "N",
            description = "How many layers shall read another one.")
    private int layers;

    @Option(
            names = "--threshold",
            paramLabel = "X",
            description = "What the cosine of the last hidden states has to exceed. Default: ${DEFAULT-VALUE}.")
    private double threshold = SharingSearch.DEFAULT_THRESHOLD;

    @Option(
            names = "--sequences",
            paramLabel = "N",
            description = "Pieces of the text, at most. Default: ${DEFAULT-VALUE}.")
    private int sequences = SharingSearch.DEFAULT_SEQUENCES;

    @Option(names = "--tokens", paramLabel = "N", description = "Tokens of each piece. Default: ${DEFAULT-VALUE}.")
    private int tokens = SharingSearch.DEFAULT_SEQUENCE_TOKENS;

    @Option(
            names = "--chunks",
            paramLabel = "N",
            description = "Chunks of the text whose perplexity is measured, at most. Default: ${DEFAULT-VALUE}.")
    private int chunks = 20;

    @Option(names = "--out", paramLabel = "FILE", description = "Writes a copy of the model with the plan.")
    private @Nullable Path out;

    @Override
    public Integer call() throws IOException {
        if (sequences < 1 || tokens < 2 || chunks < 1) {
            throw new ParameterException(
                    spec.commandLine(), "--sequences and --chunks are 1 or more and --tokens 2 or more");
        }
        if (!engineOptions.plan().isStandard()) {
            throw new InvalidPlanException(
                    "a plan is searched for an ordinary model, but this one has the KV plan " + engineOptions.plan());
        }
        PrintWriter printer = spec.commandLine().getOut();
        String content = TextFile.read(text);
        List<int[]> calibration;
        int modelLayers;
        PlanCost before;
        try (Engine engine = open(engineOptions.plan())) {
            modelLayers = engine.info().model().layers();
            calibration = Calibration.sequences(engine, content, sequences, tokens);
            before = cost(engine, content);
        }
        printer.println(Values.format("%d layers, %d pieces of %d tokens", modelLayers, calibration.size(), tokens));
        SharingSearch.Result result = new SharingSearch(calibration, layers, threshold)
                .run(this::open, modelLayers, (trial, shared, wanted) -> {
                    printer.println(Values.format(
                            "layer %d reads %d: distance %.4g, cosine %.4f, %s (%d of %d)",
                            trial.pair().higher(),
                            trial.plan().kvLayer(trial.pair().higher()),
                            trial.pair().distance(),
                            trial.cosine(),
                            trial.accepted() ? "shared" : "left",
                            shared,
                            wanted));
                    printer.flush();
                });
        if (result.shared() < layers) {
            throw new InvalidRequestException(
                    "only " + result.shared() + " of " + layers + " layers can share with a cosine above " + threshold
                            + ": " + result.plan(),
                    (long) result.shared(),
                    (long) layers);
        }
        PlanCost after;
        try (Engine engine = open(result.plan())) {
            after = cost(engine, content);
        }
        printer.println();
        printer.println(result.plan().picture());
        printer.println();
        printer.println(PlanCost.line(before, after));
        printer.println("--kv-plan " + result.plan());
        if (out != null) {
            GgufKvPlan.copy(GgufFile.open(engineOptions.model()), result.plan(), out, (done, total) -> {});
            printer.println("written to " + out);
        }
        return ExitCode.OK;
    }

    private Engine open(KvPlan plan) {
        return engineOptions.openToEvaluate(Math.max(tokens, MEASURED_CONTEXT), plan);
    }

    private PlanCost cost(Engine engine, String text) throws IOException {
        int[] all = engine.tokenize(text.replaceFirst("\\n\\z", ""), true, false);
        int context = Math.max(4, Math.min(MEASURED_CONTEXT, all.length));
        return PlanCost.of(engine, all, context, Math.min(all.length / context, chunks));
    }
}
