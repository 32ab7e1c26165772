package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.KvfoldException;
import io.kvfold.bench.Subject;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufType;
import io.kvfold.gguf.MemoryEstimate;
import io.kvfold.search.RetentionSearch;
import io.kvfold.search.SharingSearch;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/** Measures on a text how far KV plans and types take a model from its whole cache in f16, and looks for good ones. */
final class PlanTuner implements AutoCloseable {

    /** Users side by side, and the tokens that each may use. */
    record Load(int users, int context) {}

    /**
     * How a cost is measured.
     *
     * @param context tokens of each chunk of the text
     * @param chunks how many, at most
     */
    record Measure(int context, int chunks) {}

    /**
     * What a plan and a type cost.
     *
     * @param kvBytes of all users
     */
    record Cost(Subject subject, long kvBytes, Comparison comparison) {

        double divergence() {
            return comparison.divergence().mean();
        }

        private boolean dominates(Cost other) {
            return kvBytes <= other.kvBytes
                    && divergence() <= other.divergence()
                    && (kvBytes < other.kvBytes || divergence() < other.divergence());
        }
    }

    private static final int LAZY_STEPS = 4; // a quarter of the layers, a half, three quarters, all
    private static final int SHARING_PART = 4; // of the layers, at most so many share as its reciprocal says

    /** Ends a search. */
    private static final class OutOfTime extends RuntimeException {
        private static final long serialVersionUID = 1L;
    }

    private final SubjectOptions options;
    private final Subject whole;
    private final Load load;
    private final Measure measure;
    private final String text;
    private final Path base;

    /**
     * Predicts the text with the whole cache.
     *
     * @param whole the model without a plan, in f16
     */
    PlanTuner(SubjectOptions options, Subject whole, Load load, Measure measure, String text) throws IOException {
        this.options = options;
        this.whole = whole;
        this.load = load;
        this.measure = measure;
        this.text = text;
        this.base = Files.createTempFile("kvfold", ".kld");
        boolean opened = false;
        try (Engine engine = open(whole)) {
            int[] tokens = PerplexityScore.tokens(engine, text, "the text", measure.context());
            int chunks = Math.min(tokens.length / measure.context(), measure.chunks());
            Comparison.writeBase(engine, tokens, measure.context(), chunks, base);
            opened = true;
        } finally {
            if (!opened) {
                close();
            }
        }
    }

    @Override
    public void close() throws IOException {
        Files.delete(base);
    }

    private long kvBytes(Subject subject) {
        GgufType type = GgufType.ofLabel(subject.type().text()).orElseThrow();
        return MemoryEstimate.of(GgufFile.open(subject.model()), subject.plan(), type, type)
                .kvBytes((long) load.users() * load.context(), load.users(), false, options.ubatchSize());
    }

    /** @throws KvfoldException if the model takes no such plan or type */
    Cost cost(Subject subject) throws IOException {
        try (LogProbabilities.Reader reader = new LogProbabilities.Reader(base);
                Engine engine = open(subject)) {
            return new Cost(subject, kvBytes(subject), Comparison.of(engine, reader, measure.chunks()));
        }
    }

    /**
     * Tries types, lazy layers and layers that share, the whole cache first.
     *
     * @param recent tokens that a lazy layer keeps besides the first ones
     * @param end when no more is tried
     * @param log told of each, and of why there is no more
     */
    List<Cost> search(int recent, Instant end, Consumer<String> log) {
        List<Cost> costs = new ArrayList<>();
        Consumer<Subject> trial = subject -> {
            if (Instant.now().isAfter(end)) {
                throw new OutOfTime();
            }
            Cost cost = costOf(subject);
            costs.add(cost);
            log.accept(Values.format(
                    "%s: %s, KL divergence %.5f", subject.label(), Values.bytes(cost.kvBytes()), cost.divergence()));
        };
        List<KvType> types = new ArrayList<>();
        Consumer<KvPlan> everyType = plan -> types.forEach(type -> trial.accept(with(plan, type)));
        try {
            trial.accept(whole);
            for (KvType type : options.typesOr(KvType.F16, KvType.Q8_0, KvType.Q4_0)) {
                attempt(type.text() + " alone", log, () -> {
                    if (type != whole.type()) {
                        trial.accept(with(null, type));
                    }
                    types.add(type);
                });
            }
            attempt("lazy layers", log, () -> tryLazyLayers(recent, everyType));
            attempt("layers that share", log, () -> trySharing(everyType));
        } catch (OutOfTime e) {
            log.accept("the time is up");
        }
        return costs;
    }

    private static void attempt(String what, Consumer<String> log, Runnable trials) {
        try {
            trials.run();
        } catch (KvfoldException e) {
            log.accept(what + ": not possible, " + e.getMessage());
        }
    }

    /** Those that no other is better than in one thing and as good as in the other, the largest first. */
    static List<Cost> front(List<Cost> costs) {
        return costs.stream()
                .filter(cost -> costs.stream().noneMatch(other -> other.dominates(cost)))
                .sorted(Comparator.comparingLong(Cost::kvBytes).reversed())
                .toList();
    }

    private Cost costOf(Subject subject) {
        try {
            return cost(subject);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    private void tryLazyLayers(int recent, Consumer<KvPlan> trial) {
        RetentionSearch search = new RetentionSearch(KvPlan.DEFAULT_SINKS, recent, RetentionSearch.DEFAULT_QUERIES);
        double[] scores;
        try (Engine engine = open(whole)) {
            scores = search.scores(engine, Calibration.sequences(engine, text, measure.chunks(), measure.context()));
        }
        for (int step = 1; step <= LAZY_STEPS; step++) {
            int[] lazy = RetentionSearch.laziestLayers(scores, step * scores.length / LAZY_STEPS);
            trial.accept(search.plan(KvPlan.standard(scores.length), lazy));
        }
    }

    /** What KVSharer's search would accept step by step, however much is lost. */
    private void trySharing(Consumer<KvPlan> trial) {
        List<int[]> sequences;
        int layers;
        try (Engine engine = open(whole)) {
            layers = engine.info().model().layers();
            sequences = Calibration.sequences(
                    engine, text, SharingSearch.DEFAULT_SEQUENCES, SharingSearch.DEFAULT_SEQUENCE_TOKENS);
        }
        new SharingSearch(sequences, Math.max(1, layers / SHARING_PART), -1)
                .run(plan -> open(with(plan, KvType.F16)), layers, (step, shared, wanted) -> trial.accept(step.plan()));
    }

    private Subject with(@Nullable KvPlan plan, KvType type) {
        String name = plan == null ? whole.planName() : plan.toString();
        return new Subject(whole.model(), name, plan, type, whole.options());
    }

    private Engine open(Subject subject) {
        return options.engine(subject).contextSize(measure.context()).slots(1).open();
    }
}
