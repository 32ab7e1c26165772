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
import java.awt.Color;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.knowm.xchart.AnnotationLine;
import org.knowm.xchart.AnnotationText;
import org.knowm.xchart.BitmapEncoder;
import org.knowm.xchart.BitmapEncoder.BitmapFormat;
import org.knowm.xchart.XYChart;
import org.knowm.xchart.XYChartBuilder;
import org.knowm.xchart.XYSeries;
import org.knowm.xchart.XYSeries.XYSeriesRenderStyle;
import org.knowm.xchart.style.Styler;
import org.knowm.xchart.style.Styler.LegendPosition;
import org.knowm.xchart.style.markers.SeriesMarkers;
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
            "Tries KV types (--kv-type; f16, q8_0 and q4_0 by default), eviction in chunks, lazy layers (as plan lazy) and layers that share"
                    + " (as plan share), measures on the first half of a text how far each takes the predictions from those"
                    + " with the whole cache in f16, and prints those that no other one is better than in both memory and"
                    + " divergence, with the share of needles that they leave to be found (kvfold eval). The best ones that"
                    + " fit are measured again on the second half, which the search has not seen. Nothing is trained.",
            "",
            "Each plan is tried in the narrowest KV type, and in wider ones only where it could be the best of its size. The"
                    + " second halves of chunks of --tokens are scored: a lazy layer keeps --recent tokens of such a chunk."
                    + " What lies further back in longer contexts is lost as well.",
            "",
            "Tokens are evicted from prompts and answers (answer=64 in the plan), so that memory holds contexts of either."
                    + " Methods that evict from prompts only are counted with contexts of which half is an answer, as is"
                    + " measured: a longer answer takes more, a longer prompt less.",
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
    private static final int CHECKED = 3; // of those that fit, on what the search has not seen
    private static final double MIB = 1024 * 1024;
    private static final double LEAST_DRAWN = 1e-5;
    private static final double LABEL_DISTANCE = 1.06; // on a logarithmic axis, a line of text

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
            description = "Nothing new is tried after so long. What was found is then measured again, and asked for"
                    + " needles. Default: ${DEFAULT-VALUE}.")
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

    @Option(
            names = "--questions",
            paramLabel = "N",
            description = "Questions of two kinds about needles in texts of --tokens, put to each of the best; 0: none."
                    + " Default: ${DEFAULT-VALUE}.")
    private int questions = 5;

    @Option(names = "--plot", paramLabel = "FILE", description = "Draws divergence over memory of all tried (PNG).")
    private @Nullable Path plot;

    @Option(names = "--out", paramLabel = "FILE", description = "Writes a copy of the model with the plan.")
    private @Nullable Path out;

    private final Map<Subject, Double> needles = new HashMap<>();

    @Override
    public Integer call() throws IOException {
        Instant end = Instant.now().plus(Duration.ofMinutes(minutes));
        checkNumbers();
        checkFolder("--plot", plot);
        checkFolder("--out", out);
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
        PlanTuner.Load load = new PlanTuner.Load(users, context);
        long wholeBytes = PlanTuner.kvBytes(whole, load, subjectOptions.ubatchSize());
        if (wholeBytes <= memory) {
            printer.println(Values.format(
                    "Nothing is worth it: the whole cache in f16 takes %s of %s.",
                    Values.bytes(wholeBytes), Values.bytes(memory)));
            return ExitCode.OK;
        }
        String content = TextFile.read(text);
        int half = content.length() / 2;
        List<Cost> costs;
        try (PlanTuner tuner = tuner(whole, content.substring(0, half))) {
            costs = tuner.search(recent, end, line -> {
                printer.println(line);
                printer.flush();
            });
        }
        List<Cost> front = PlanTuner.front(costs);
        if (plot != null) {
            plot(costs, front, plot);
        }
        List<Cost> fitting = costs.stream()
                .filter(cost -> cost.kvBytes() <= memory)
                .sorted(Comparator.comparingDouble(Cost::divergence))
                .limit(CHECKED)
                .toList();
        if (questions > 0) {
            findNeedles(
                    Stream.concat(front.stream(), fitting.stream()).distinct().toList());
        }
        printer.println();
        printer.print(table(front));
        printer.println();
        if (fitting.isEmpty()) {
            long least = front.get(front.size() - 1).kvBytes();
            throw new InvalidRequestException(
                    Values.format(
                            "nothing fits: the least that was found takes %s, --memory is %s",
                            Values.bytes(least), Values.bytes(memory)),
                    least,
                    memory);
        }
        List<Cost> checked = new ArrayList<>();
        try (PlanTuner tuner = tuner(whole, content.substring(half))) {
            for (Cost cost : fitting) {
                checked.add(tuner.cost(cost.subject()));
            }
        }
        printer.print(checks(fitting, checked));
        printer.println();
        recommend(fitting, checked, printer);
        holdsElsewhere(front).ifPresent(printer::println);
        write(fitting.get(0), printer);
        return ExitCode.OK;
    }

    private void checkNumbers() {
        if (users < 1 || context < 1 || minutes < 1 || chunks < 1 || tokens < 4 || questions < 0) {
            throw new ParameterException(
                    spec.commandLine(),
                    "--users, --context, --minutes and --chunks are 1 or more, --tokens 4 or more, --questions 0 or more");
        }
        if (recent >= tokens / 2 - KvPlan.DEFAULT_SINKS) {
            throw new ParameterException(
                    spec.commandLine(),
                    Values.format(
                            "with --recent %d and %d sinks a lazy layer forgets nothing of the %d tokens before the first"
                                    + " that is scored; see --tokens",
                            recent, KvPlan.DEFAULT_SINKS, tokens / 2));
        }
    }

    /** Before anything is measured for minutes. */
    private void checkFolder(String option, @Nullable Path file) {
        Path folder = file == null ? null : file.toAbsolutePath().getParent();
        if (folder != null && !Files.isDirectory(folder)) {
            throw new ParameterException(spec.commandLine(), option + " " + file + ": there is no folder " + folder);
        }
    }

    private PlanTuner tuner(Subject whole, String part) throws IOException {
        return new PlanTuner(
                subjectOptions, whole, new PlanTuner.Load(users, context), new PlanTuner.Measure(tokens, chunks), part);
    }

    private void recommend(List<Cost> fitting, List<Cost> checked, PrintWriter printer) {
        Cost chosen = fitting.get(0);
        printer.println(Values.format(
                "%s takes %s of %s. On the text that was not seen: KL divergence %.4f, same top token %.1f%%.",
                chosen.label(),
                Values.bytes(chosen.kvBytes()),
                Values.bytes(memory),
                checked.get(0).divergence(),
                100 * checked.get(0).sameTop()));
        Cost best = checked.stream()
                .min(Comparator.comparingDouble(Cost::divergence))
                .orElseThrow();
        if (best != checked.get(0)) {
            printer.println(Values.format(
                    "On that text %s is better by %.4f; the standard error of either is about %.4f.",
                    best.label(),
                    checked.get(0).divergence() - best.divergence(),
                    best.comparison().divergence().standardError()));
        }
        fitting.stream()
                .filter(cost -> found(cost) > found(chosen))
                .max(Comparator.comparingDouble(this::found))
                .ifPresent(other -> printer.println(Values.format(
                        "%s leaves more needles to be found: %.0f%% instead of %.0f%%. It is the better one where facts are"
                                + " looked up.",
                        other.label(), 100 * found(other), 100 * found(chosen))));
        if (checked.get(0).sameTop() < LEAST_SAME_TOP) {
            printer.println(Values.format(
                    "It is not worth it: more than one token in %.0f becomes another one. Take fewer users or a shorter"
                            + " context.",
                    1 / (1 - LEAST_SAME_TOP)));
        }
    }

    /** How far the least of those goes that leave most tokens as they are. */
    private Optional<String> holdsElsewhere(List<Cost> front) {
        return front.stream()
                .filter(cost -> cost.sameTop() >= LEAST_SAME_TOP && cost.kvBytes() > memory)
                .min(Comparator.comparingLong(Cost::kvBytes))
                .map(cost -> Values.format(
                        "%s changes fewer than one token in %.0f: in %s it holds %d tokens for each of %d users.",
                        cost.label(),
                        1 / (1 - LEAST_SAME_TOP),
                        Values.bytes(memory),
                        (long) ((double) memory / cost.kvBytes() * context),
                        users));
    }

    private void write(Cost chosen, PrintWriter printer) throws IOException {
        Subject subject = chosen.subject();
        KvPlan plan = subject.plan();
        KvType type = subject.type();
        printer.println();
        printer.println((plan == null ? "" : "--kv-plan '" + text(plan) + "' ")
                + Values.format(
                        "--kv-type %s --ctx-size %d --slots %d --kv-budget %d", type.text(), context, users, memory));
        printer.println(
                (plan == null ? "" : Values.format(".kvPlan(KvPlan.parse(\"%s\", %d))", text(plan), plan.layers()))
                        + Values.format(
                                ".kvCacheTypes(KvType.%1$s, KvType.%1$s).contextSize(%2$d).slots(%3$d).kvBudget(%4$dL)",
                                type.name(), context, users, memory));
        if (out != null && plan != null) {
            GgufKvPlan.copy(GgufFile.open(subject.model()), plan, out, (done, total) -> {});
            printer.println("written to " + out + "; the KV type is not part of a model file");
        } else if (out != null) {
            printer.println("no copy is written: the KV type is not part of a model file");
        }
    }

    /** With a short name for a map in which each layer reads itself. */
    private static String text(KvPlan plan) {
        String own = KvPlan.standard(plan.layers()) + ";";
        String text = plan.toString();
        return text.startsWith(own) ? "standard;" + text.substring(own.length()) : text;
    }

    private String table(List<Cost> front) {
        StringBuilder table = new StringBuilder("""
                | plan and KV type | KV bytes per token | KV cache | KL divergence | 99.9% quantile | same top token \
                | perplexity | needles found |
                |---|---|---|---|---|---|---|---|
                """);
        for (Cost cost : front) {
            DivergenceScore divergence = cost.comparison().divergence();
            table.append(String.format(
                    Locale.ROOT,
                    "| %s | %d | %s | %s ± %.4f | %.3f | %.1f%% | %.2f | %s |%n",
                    cost.label(),
                    cost.kvBytes() / ((long) users * context),
                    Values.bytes(cost.kvBytes()),
                    withoutMinus(divergence.mean()),
                    divergence.standardError(),
                    divergence.quantile(0.999),
                    100 * divergence.sameTop(),
                    cost.comparison().perplexity().perplexity(),
                    share(cost)));
        }
        return table.toString();
    }

    private String checks(List<Cost> fitting, List<Cost> checked) {
        StringBuilder table = new StringBuilder(Values.format(
                "The best that fit %s, on the half of the text that the search has not seen:%n%n",
                Values.bytes(memory)));
        table.append("""
                | plan and KV type | KV cache | KL divergence | on the other half | same top token | needles found |
                |---|---|---|---|---|---|
                """);
        for (int i = 0; i < fitting.size(); i++) {
            Cost cost = checked.get(i);
            table.append(String.format(
                    Locale.ROOT,
                    "| %s | %s | %.4f ± %.4f | %.4f | %.1f%% | %s |%n",
                    cost.label(),
                    Values.bytes(cost.kvBytes()),
                    cost.divergence(),
                    cost.comparison().divergence().standardError(),
                    fitting.get(i).divergence(),
                    100 * cost.sameTop(),
                    share(cost)));
        }
        return table.toString();
    }

    /** The whole cache is from itself what the rounding of a file makes it, which may be less than nothing. */
    private static String withoutMinus(double divergence) {
        return Values.format("%.4f", Math.rint(10_000 * divergence) / 10_000 + 0.0);
    }

    /** Empty where nothing was asked. */
    private String share(Cost cost) {
        return questions == 0 ? "" : Values.format("%.0f%%", 100 * found(cost));
    }

    private double found(Cost cost) {
        return needles.getOrDefault(cost.subject(), 0.0);
    }

    private void findNeedles(List<Cost> costs) {
        try (Progress progress = new Progress("looking for needles", costs.size(), " plans")) {
            for (int i = 0; i < costs.size(); i++) {
                progress.message(costs.get(i).label());
                needles.put(costs.get(i).subject(), needles(costs.get(i).subject()));
                progress.stepTo(i + 1);
            }
        }
    }

    /** From 0 to 1. */
    private double needles(Subject subject) {
        try (Engine engine =
                subjectOptions.engine(subject).contextSize(tokens).slots(1).open()) {
            Evaluation evaluation = new Evaluation(
                    engine, Haystack.NOISE, 0, engine.info().model().chatTemplate());
            double sum = 0;
            for (Task task : NEEDLES) {
                for (int i = 0; i < questions; i++) {
                    double depth = (i + 0.5) / questions;
                    sum += evaluation.score(evaluation.question(task, tokens, depth, i));
                }
            }
            return sum / (NEEDLES.size() * questions);
        }
    }

    private void plot(List<Cost> costs, List<Cost> front, Path file) throws IOException {
        XYChart chart = new XYChartBuilder()
                .width(960)
                .height(600)
                .title(Values.format("What KV plans and types cost, %d users of %d tokens", users, context))
                .xAxisTitle("KV cache, MiB; the vertical line is --memory")
                .yAxisTitle("KL divergence from the whole cache in f16")
                .build();
        chart.getStyler().setLegendPosition(LegendPosition.OutsideS);
        chart.getStyler().setLegendLayout(Styler.LegendLayout.Horizontal);
        chart.getStyler().setYAxisLogarithmic(true);
        chart.getStyler().setXAxisMin(0.0);
        chart.getStyler().setChartBackgroundColor(Color.WHITE);
        Map<String, List<Cost>> families = costs.stream()
                .filter(PlanTuneCommand::isDrawn)
                .collect(Collectors.groupingBy(PlanTuneCommand::family, LinkedHashMap::new, Collectors.toList()));
        List<Cost> line = front.stream().filter(PlanTuneCommand::isDrawn).toList();
        if (!line.isEmpty()) {
            addSeries(chart, "the best of their size", line)
                    .setXYSeriesRenderStyle(XYSeriesRenderStyle.Line)
                    .setMarker(SeriesMarkers.NONE)
                    .setLineColor(Color.GRAY);
        }
        families.forEach(
                (name, members) -> addSeries(chart, name, members).setXYSeriesRenderStyle(XYSeriesRenderStyle.Scatter));
        chart.addAnnotation(new AnnotationLine(memory / MIB, true, false));
        double right = 1.1 * Math.max(memory, largest(line)) / MIB;
        for (Cost cost : line) { // above it and to its right, where the line of a front does not go
            String name = cost.label().replaceAll("standard;evict=|;at=chunk|;answer=\\d+", "");
            chart.addAnnotation(new AnnotationText(
                    name, cost.kvBytes() / MIB + 0.05 * right, LABEL_DISTANCE * cost.divergence(), false));
        }
        chart.getStyler().setXAxisMax(right);
        BitmapEncoder.saveBitmap(chart, file.toString(), BitmapFormat.PNG);
    }

    private static long largest(List<Cost> costs) {
        return costs.stream().mapToLong(Cost::kvBytes).max().orElse(0);
    }

    /** The whole cache itself has no place on a logarithmic axis. */
    private static boolean isDrawn(Cost cost) {
        return cost.divergence() > LEAST_DRAWN;
    }

    private static String family(Cost cost) {
        KvPlan plan = cost.subject().plan();
        if (plan == null) {
            return "KV types alone";
        }
        return plan.eviction().isPresent()
                ? "eviction"
                : plan.window().isPresent() ? "lazy layers" : "layers that share";
    }

    private static XYSeries addSeries(XYChart chart, String name, List<Cost> costs) {
        return chart.addSeries(
                name,
                costs.stream().mapToDouble(cost -> cost.kvBytes() / MIB).toArray(),
                costs.stream().mapToDouble(Cost::divergence).toArray());
    }
}
