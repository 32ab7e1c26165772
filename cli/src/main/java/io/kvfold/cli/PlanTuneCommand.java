package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.InvalidPlanException;
import io.kvfold.InvalidRequestException;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.bench.Subject;
import io.kvfold.cli.PlanTuner.Cost;
import io.kvfold.eval.Evaluation;
import io.kvfold.eval.Haystack;
import io.kvfold.eval.Task;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKvPlan;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Locale;
import java.util.Optional;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import org.knowm.xchart.BitmapEncoder;
import org.knowm.xchart.BitmapEncoder.BitmapFormat;
import org.knowm.xchart.XYChart;
import org.knowm.xchart.XYChartBuilder;
import org.knowm.xchart.XYSeries;
import org.knowm.xchart.XYSeries.XYSeriesRenderStyle;
import org.knowm.xchart.style.Styler.LegendPosition;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** {@code kvfold plan tune}. */
@Command(
        name = "tune",
        header = "Finds the KV plan and type that cost a model least of those that fit a memory.",
        description = {
            "",
            "Tries KV types, lazy layers (as plan lazy) and layers that share (as plan share), measures on the first half of"
                    + " a text how far each takes the predictions from those with the whole cache in f16, and prints those"
                    + " that no other one is better than in both memory and divergence, with the share of needles that they"
                    + " leave to be found (kvfold eval). The best one that fits is measured again on the second half, which"
                    + " the search has not seen. Nothing is trained.",
            "",
            "A lazy layer is measured with --recent tokens in chunks of --tokens: what lies further back in longer contexts"
                    + " is lost as well.",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold plan tune -m model.gguf --text book.txt --memory 256MiB --context 8192 --users 4",
            "  kvfold plan tune -m model.gguf --text a.txt --memory 1GiB --plot front.png --out tuned.gguf"
        })
final class PlanTuneCommand implements Callable<Integer> {

    private static final double LEAST_SAME_TOP = 0.9;
    private static final List<Task> NEEDLES = List.of(Task.SINGLE, Task.MULTI_KEY);
    private static final int QUESTIONS = 5; // of each

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Mixin
    @SuppressWarnings("NullAway.Init")
    private SubjectOptions subjectOptions;

    @Option(names = "--text", required = true, paramLabel = "FILE", description = "The text to measure with, UTF-8.")
    @SuppressWarnings("NullAway.Init")
    private Path text;

    @Option(
            names = "--memory",
            required = true,
            paramLabel = "SIZE",
            converter = Values.SizeConverter.class,
            description = "What keys and values may take, such as 256MiB.")
    private long memory;

    @Option(
            names = "--context",
            paramLabel = "N",
            description = "Tokens that each user may use. Default: ${DEFAULT-VALUE}.")
    private int context = 4096;

    @Option(names = "--users", paramLabel = "N", description = "Users side by side. Default: ${DEFAULT-VALUE}.")
    private int users = 1;

    @Option(
            names = "--minutes",
            paramLabel = "N",
            description = "Nothing new is tried after so long. Default: ${DEFAULT-VALUE}.")
    private int minutes = 10;

    @Option(
            names = "--tokens",
            paramLabel = "N",
            description = "Tokens of each chunk of the text. Default: ${DEFAULT-VALUE}.")
    private int tokens = 1024;

    @Option(names = "--chunks", paramLabel = "N", description = "Chunks, at most. Default: ${DEFAULT-VALUE}.")
    private int chunks = 4;

    @Option(
            names = "--recent",
            paramLabel = "N",
            description = "Most recent tokens that a lazy layer keeps. Default: ${DEFAULT-VALUE}.")
    private int recent = 256;

    @Option(names = "--plot", paramLabel = "FILE", description = "Draws divergence over memory of all tried (PNG).")
    private @Nullable Path plot;

    @Option(names = "--out", paramLabel = "FILE", description = "Writes a copy of the model with the plan.")
    private @Nullable Path out;

    @Override
    public Integer call() throws IOException {
        if (users < 1 || context < 1 || minutes < 1 || chunks < 1 || tokens < 4) {
            throw new ParameterException(
                    spec.commandLine(),
                    "--users, --context, --minutes and --chunks are 1 or more and --tokens 4 or more");
        }
        List<Subject> asked = subjectOptions.subjects();
        Subject whole = new Subject(
                asked.get(0).model(), "standard", null, KvType.F16, asked.get(0).options());
        if (asked.stream().anyMatch(one -> !one.model().equals(whole.model()) || one.plan() != null)) {
            throw new ParameterException(spec.commandLine(), "tune takes one model and looks for the plan itself");
        }
        Optional<KvPlan> own = GgufKvPlan.read(GgufFile.open(whole.model()));
        if (own.isPresent() && !own.get().isStandard()) {
            throw new InvalidPlanException(
                    "a plan is searched for an ordinary model, but this one has the KV plan " + own.get());
        }
        PrintWriter printer = spec.commandLine().getOut();
        String content = TextFile.read(text);
        int half = content.length() / 2;
        List<Cost> costs;
        try (PlanTuner tuner = tuner(whole, content.substring(0, half))) {
            costs = tuner.search(recent, Instant.now().plus(Duration.ofMinutes(minutes)), line -> {
                printer.println(line);
                printer.flush();
            });
        }
        List<Cost> front = PlanTuner.front(costs);
        printer.println();
        printer.print(table(front));
        printer.println();
        if (plot != null) {
            plot(costs, front, plot);
        }
        long wholeBytes = costs.get(0).kvBytes();
        if (wholeBytes <= memory) {
            printer.println(Values.format(
                    "Nothing is worth it: the whole cache in f16 takes %s of %s.",
                    Values.bytes(wholeBytes), Values.bytes(memory)));
            return ExitCode.OK;
        }
        long least = front.get(front.size() - 1).kvBytes();
        Cost chosen = front.stream()
                .filter(cost -> cost.kvBytes() <= memory)
                .findFirst()
                .orElseThrow(() -> new InvalidRequestException(
                        Values.format(
                                "nothing fits: the least that was found takes %s, --memory is %s",
                                Values.bytes(least), Values.bytes(memory)),
                        least,
                        memory));
        try (PlanTuner tuner = tuner(whole, content.substring(half))) {
            recommend(chosen, tuner.cost(chosen.subject()), printer);
        }
        return ExitCode.OK;
    }

    private PlanTuner tuner(Subject whole, String part) throws IOException {
        return new PlanTuner(
                subjectOptions, whole, new PlanTuner.Load(users, context), new PlanTuner.Measure(tokens, chunks), part);
    }

    private void recommend(Cost chosen, Cost checked, PrintWriter printer) throws IOException {
        Subject subject = chosen.subject();
        printer.println(Values.format(
                "%s takes %s of %s. On the text that was not seen: KL divergence %.4f, same top token %.1f%%.",
                subject.label(),
                Values.bytes(chosen.kvBytes()),
                Values.bytes(memory),
                checked.divergence(),
                100 * checked.comparison().divergence().sameTop()));
        if (checked.comparison().divergence().sameTop() < LEAST_SAME_TOP) {
            printer.println(Values.format(
                    "It is not worth it: more than one token in %.0f becomes another one. Take fewer users or a shorter"
                            + " context.",
                    1 / (1 - LEAST_SAME_TOP)));
        }
        KvPlan plan = subject.plan();
        String type = subject.type().text();
        printer.println((plan == null ? "" : "--kv-plan '" + plan + "' ") + "--kv-type " + type);
        printer.println((plan == null ? "" : ".kvPlan(KvPlan.parse(\"" + plan + "\"))")
                + Values.format(
                        ".kvCacheTypes(KvType.%1$s, KvType.%1$s).contextSize(%2$d).slots(%3$d)",
                        subject.type().name(), context, users));
        if (out != null && plan != null) {
            GgufKvPlan.copy(GgufFile.open(subject.model()), plan, out, (done, total) -> {});
            printer.println("written to " + out + "; the KV type is not part of a model file");
        } else if (out != null) {
            printer.println("no copy is written: the KV type is not part of a model file");
        }
    }

    private String table(List<Cost> front) {
        StringBuilder table = new StringBuilder("""
                | plan, KV type | KV bytes per token | KV cache | KL divergence | 99.9% quantile | same top token | perplexity \
                | needles found |
                |---|---|---|---|---|---|---|---|
                """);
        for (Cost cost : front) {
            DivergenceScore divergence = cost.comparison().divergence();
            table.append(String.format(
                    Locale.ROOT,
                    "| %s | %d | %s | %.5f | %.4f | %.1f%% | %.3f | %.0f%% |%n",
                    cost.subject().label(),
                    cost.kvBytes() / ((long) users * context),
                    Values.bytes(cost.kvBytes()),
                    divergence.mean(),
                    divergence.quantile(0.999),
                    100 * divergence.sameTop(),
                    cost.comparison().perplexity().perplexity(),
                    100 * needles(cost.subject())));
        }
        return table.toString();
    }

    /** From 0 to 1. */
    private double needles(Subject subject) {
        try (Engine engine =
                subjectOptions.engine(subject).contextSize(tokens).slots(1).open()) {
            Evaluation evaluation = new Evaluation(
                    engine, Haystack.NOISE, 0, engine.info().model().chatTemplate());
            double sum = 0;
            for (Task task : NEEDLES) {
                for (int i = 0; i < QUESTIONS; i++) {
                    sum += evaluation.score(evaluation.question(task, tokens, (double) i / (QUESTIONS - 1), i));
                }
            }
            return sum / (NEEDLES.size() * QUESTIONS);
        }
    }

    private static void plot(List<Cost> costs, List<Cost> front, Path file) throws IOException {
        XYChart chart = new XYChartBuilder()
                .width(960)
                .height(600)
                .title("What KV plans and types cost")
                .xAxisTitle("KV cache, MiB")
                .yAxisTitle("KL divergence from the whole cache in f16")
                .build();
        chart.getStyler().setLegendPosition(LegendPosition.InsideNE);
        addSeries(chart, "tried", costs).setXYSeriesRenderStyle(XYSeriesRenderStyle.Scatter);
        addSeries(chart, "the best of their size", front).setXYSeriesRenderStyle(XYSeriesRenderStyle.Line);
        BitmapEncoder.saveBitmap(chart, file.toString(), BitmapFormat.PNG);
    }

    private static XYSeries addSeries(XYChart chart, String name, List<Cost> costs) {
        return chart.addSeries(
                name,
                costs.stream().mapToDouble(cost -> cost.kvBytes() / 1048576.0).toArray(),
                costs.stream().mapToDouble(Cost::divergence).toArray());
    }
}
