package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.Eviction;
import io.kvfold.InvalidRequestException;
import io.kvfold.KeptTokens;
import io.kvfold.KvCacheStats;
import io.kvfold.KvPlan;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** {@code kvfold plan evict}. */
@Command(
        name = "evict",
        header = "Shows which tokens of a text each layer keeps where tokens are evicted.",
        description = {
            "",
            "Computes the text as a prompt and tells for each layer that stores keys and values how many tokens its heads"
                    + " keep when it has ended, how many they evict, what memory that gives back, and where in the text the"
                    + " kept ones are. Methods: knorm, keydiff, lagkv, streaming, snapkv, tova, pyramidkv, chunkkv,"
                    + " observed, expected, h2o, rkv, keyformer, corm.",
            "",
            "What a choice costs in quality is not measured here; kvfold perplexity --kl-divergence and kvfold eval do.",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold plan evict --model model.gguf --text book.txt --evict snapkv:0.25",
            "  kvfold plan evict -m model.gguf --text book.txt --kv-plan \"cla:2;evict=knorm:512;at=chunk\"",
            "  kvfold plan evict -m model.gguf --text a.txt --evict \"snapkv:256;queries=16\" --heads --plot kept.svg"
        })
final class PlanEvictCommand implements Callable<Integer> {

    private static final int COLUMNS = 64;

    /** The engine's own context, which holds nothing: the text has one for itself. */
    private static final int CONTEXT = 256;

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Mixin
    @SuppressWarnings("NullAway.Init")
    private EngineOptions engineOptions;

    @Option(names = "--text", required = true, paramLabel = "FILE", description = "The text, UTF-8.")
    @SuppressWarnings("NullAway.Init")
    private Path text;

    @Option(
            names = "--evict",
            paramLabel = "METHOD:BUDGET",
            description = "What evicts, beside who reads whom in the KV plan: a method and the tokens that each layer"
                    + " keeps, or a share of them with a point in it, with attributes behind ';'. Default: what the KV"
                    + " plan says, in which it is written evict=METHOD:BUDGET.")
    private @Nullable String evict;

    @Option(
            names = "--tokens",
            paramLabel = "N",
            description = "Tokens of the prompt, from the beginning of the text. Default: all, as far as the model was"
                    + " trained.")
    private @Nullable Integer tokens;

    @Option(names = "--plot", paramLabel = "FILE", description = "Draws the kept tokens as an SVG picture.")
    private @Nullable Path plot;

    @Option(names = "--heads", description = "The picture has a row for each KV head, not for each layer.")
    private boolean heads;

    @Override
    public Integer call() throws IOException {
        if (tokens != null && tokens < 1) {
            throw new ParameterException(spec.commandLine(), "--tokens is 1 or more, not " + tokens);
        }
        if (heads && plot == null) {
            throw new ParameterException(spec.commandLine(), "--heads is about the picture of --plot");
        }
        KvPlan plan = plan();
        Eviction eviction = plan.eviction().orElseThrow();
        List<Integer> storing = IntStream.range(0, plan.layers())
                .filter(plan::isProducer)
                .boxed()
                .toList();
        KeptTokens kept;
        Map<Integer, Long> rows;
        try (Engine engine = engineOptions.openToEvaluate(CONTEXT, plan)) {
            int[] prompt = prompt(engine);
            checkBudget(eviction, plan, prompt.length);
            kept = engine.keptTokens(prompt);
            rows = engine.kvCacheStats().byLayer().stream()
                    .collect(Collectors.toMap(KvCacheStats.Layer::layer, KvCacheStats.Layer::bytesPerToken));
        }
        print(kept, plan, storing, rows);
        if (plot != null) {
            Files.writeString(plot, KeptPlot.svg(kept, storing, eviction.toString(), heads));
        }
        return ExitCode.OK;
    }

    private KvPlan plan() {
        KvPlan plan = engineOptions.plan();
        if (evict == null) {
            if (plan.eviction().isEmpty()) {
                throw new ParameterException(
                        spec.commandLine(),
                        "the KV plan " + plan
                                + " evicts no tokens; --evict METHOD:BUDGET does, such as --evict knorm:0.25");
            }
            return plan;
        }
        if (plan.eviction().isPresent()) {
            throw new ParameterException(
                    spec.commandLine(), "--evict " + evict + " and the KV plan " + plan + " both say what evicts");
        }
        return plan.withEviction(Eviction.parse("evict=" + evict));
    }

    private int[] prompt(Engine engine) throws IOException {
        int[] all = engine.tokenize(TextFile.read(text), true, false);
        if (tokens != null && tokens > all.length) {
            throw new InvalidRequestException(
                    "the text has " + all.length + " tokens, but --tokens is " + tokens, (long) tokens, (long)
                            all.length);
        }
        int trained = engine.info().model().contextLengthTrain();
        return Arrays.copyOf(all, tokens != null ? tokens : Math.min(all.length, trained));
    }

    private static void checkBudget(Eviction eviction, KvPlan plan, int prompt) {
        if (eviction.method() == Eviction.Method.CORM) { // whose budget is only the most that stays
            return;
        }
        long least = IntStream.range(0, plan.layers())
                .filter(layer -> plan.isProducer(layer) && !plan.keepsOnlyWindow(layer))
                .mapToLong(layer -> eviction.budget(layer, plan.layers(), prompt))
                .min()
                .orElse(prompt);
        if (least >= prompt) {
            long budget = eviction.tokens().isPresent() ? eviction.tokens().getAsInt() : least;
            throw new InvalidRequestException(
                    "nothing is evicted: the text has " + prompt + " tokens, and " + eviction + " keeps " + budget,
                    (long) prompt,
                    budget);
        }
    }

    private void print(KeptTokens kept, KvPlan plan, List<Integer> storing, Map<Integer, Long> rows) {
        PrintWriter printer = spec.commandLine().getOut();
        int columns = Math.min(COLUMNS, kept.tokens());
        printer.println(Values.format(
                "%d tokens in %d columns; # where all heads keep all of them, then + : . and nothing where none does",
                kept.tokens(), columns));
        printer.println("layer     kept  evicted  given back");
        long keptRows = 0;
        long evictedRows = 0;
        long bytes = 0;
        for (int layer : storing) {
            String picture = picture(kept.shares(layer), columns);
            if (plan.keepsOnlyWindow(layer)) {
                printer.println(Values.format("%5d %8d  in its window       |%s|", layer, kept.kept(layer), picture));
                continue;
            }
            int evicted = kept.tokens() - kept.kept(layer);
            long given = evicted * rows.getOrDefault(layer, 0L);
            printer.println(Values.format(
                    "%5d %8d %8d %11s  |%s|", layer, kept.kept(layer), evicted, Values.bytes(given), picture));
            keptRows += kept.kept(layer);
            evictedRows += evicted;
            bytes += given;
        }
        printer.println(Values.format("%5s %8d %8d %11s", "all", keptRows, evictedRows, Values.bytes(bytes)));
        printer.println("--kv-plan '" + plan + "'");
    }

    private static String picture(double[] shares, int columns) {
        StringBuilder out = new StringBuilder();
        for (double share : KeptPlot.means(shares, columns)) {
            out.append(share == 0 ? ' ' : share == 1 ? '#' : ".:+".charAt((int) (share * 3)));
        }
        return out.toString();
    }
}
