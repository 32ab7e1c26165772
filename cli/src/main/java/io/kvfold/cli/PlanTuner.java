package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.KvfoldException;
import io.kvfold.bench.Subject;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKeys;
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
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
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

        double sameTop() {
            return comparison.divergence().sameTop();
        }

        /** A short name for tables and plots; the model's is left out. */
        String label() {
            String model = subject.model().getFileName().toString().replaceFirst("\\.gguf$", "");
            return subject.label().substring(model.length() + 1);
        }

        private boolean dominates(Cost other) {
            return kvBytes <= other.kvBytes
                    && divergence() <= other.divergence()
                    && (kvBytes < other.kvBytes || divergence() < other.divergence());
        }
    }

    private static final int LAZY_STEPS = 4; // a quarter of the layers, a half, three quarters, all
    private static final int SHARING_PART = 4; // of the layers, at most so many share as its reciprocal says
    private static final double[] EVICTION_SHARES = {0.5, 0.25};

    /** In chunks, since else the whole prompt is there once, and from answers where the method does that. A question is short. */
    private static final List<String> EVICTIONS = List.of(
            "tova:%s;at=chunk;answer=64",
            "keydiff:%s;at=chunk;answer=64",
            "expected:%s;at=chunk",
            "lagkv:%s;lag=32;at=chunk;answer=64",
            "snapkv:%s;queries=16;at=chunk",
            "knorm:%s;at=chunk;answer=64");

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

    /** Of all users; what is evicted from prompts only leaves the second half of a context, which is scored, as it is. */
    static long kvBytes(Subject subject, Load load, int ubatchSize) {
        GgufType type = GgufType.ofLabel(subject.type().text()).orElseThrow();
        MemoryEstimate estimate = MemoryEstimate.of(GgufFile.open(subject.model()), subject.plan(), type, type);
        return Optional.ofNullable(subject.plan())
                .flatMap(KvPlan::eviction)
                .map(eviction -> load.users() * EvictedCache.mostOfHalves(estimate, eviction, load.context()))
                .orElseGet(
                        () -> estimate.kvBytes((long) load.users() * load.context(), load.users(), false, ubatchSize));
    }

    private long kvBytes(Subject subject) {
        return kvBytes(subject, load, options.ubatchSize());
    }

    /** @throws KvfoldException if the model takes no such plan or type */
    Cost cost(Subject subject) throws IOException {
        try (LogProbabilities.Reader reader = new LogProbabilities.Reader(base);
                Engine engine = open(subject)) {
            return new Cost(subject, kvBytes(subject), Comparison.of(engine, reader, measure.chunks()));
        }
    }

    /**
     * Tries types, eviction, lazy layers and layers that share, the whole cache first.
     *
     * @param recent tokens that a lazy layer keeps besides the first ones
     * @param end when no more is tried
     * @param log told of each, and of why there is no more
     */
    List<Cost> search(int recent, Instant end, Consumer<String> log) {
        Search search = new Search(end, log);
        search.run(recent);
        return search.costs;
    }

    /** A search under way. */
    private final class Search {
        private final List<Cost> costs = new ArrayList<>();
        private final List<Cost> types = new ArrayList<>(); // alone, the narrowest first
        private final Instant end;
        private final Consumer<String> log;

        Search(Instant end, Consumer<String> log) {
            this.end = end;
            this.log = log;
        }

        void run(int recent) {
            try {
                trial(whole);
            } catch (OutOfTime e) {
                log.accept("the time is up before anything was tried");
                return;
            }
            Map<String, Runnable> families = new LinkedHashMap<>();
            for (KvType type : options.typesOr(KvType.F16, KvType.Q8_0, KvType.Q4_0)) {
                families.put(type.text() + " alone", () -> {
                    Cost alone = type == whole.type() ? costs.get(0) : trial(with(whole.planName(), null, type));
                    types.add(alone);
                    types.sort(Comparator.comparingLong(Cost::kvBytes));
                });
            }
            families.put("eviction", this::tryEviction);
            families.put("lazy layers", () -> tryLazyLayers(recent));
            families.put("layers that share", this::trySharing);
            List<String> left = new ArrayList<>(families.keySet());
            families.forEach((name, trials) -> {
                try {
                    trials.run();
                    left.remove(name);
                } catch (OutOfTime e) {
                    // told below
                } catch (KvfoldException e) {
                    log.accept(name + ": not possible, " + e.getMessage());
                    left.remove(name);
                }
            });
            if (!left.isEmpty()) {
                log.accept("the time is up; not tried, or not to the end: " + String.join(", ", left));
            }
        }

        private Cost trial(Subject subject) {
            checkTime();
            Cost cost = costOf(subject);
            costs.add(cost);
            log.accept(Values.format(
                    "%s: %s, KL divergence %.5f",
                    cost.label(), Values.bytes(cost.kvBytes()), Math.max(0, cost.divergence())));
            return cost;
        }

        private void checkTime() {
            if (Instant.now().isAfter(end)) {
                throw new OutOfTime();
            }
        }

        /**
         * Tries a plan in the narrowest type, and in wider ones only if what the plan costs beyond that type alone would be the
         * least of that size.
         */
        private void trial(String name, KvPlan plan) {
            double least = Double.NEGATIVE_INFINITY;
            for (Cost alone : types) {
                Subject subject = with(name, plan, alone.subject().type());
                long bytes = kvBytes(subject);
                double atLeast = least;
                if (costs.stream().anyMatch(cost -> cost.kvBytes() <= bytes && cost.divergence() <= atLeast)) {
                    continue;
                }
                double divergence = trial(subject).divergence();
                least = Math.max(least, divergence - alone.divergence());
            }
        }

        private void tryEviction() {
            int layers = layers();
            for (double share : EVICTION_SHARES) {
                for (String method : EVICTIONS) {
                    String name = "standard;evict=" + String.format(Locale.ROOT, method, share);
                    trial(name, KvPlan.parse(name, layers));
                }
            }
        }

        /** Told from the header, before anything is computed for it. */
        private void checkTaken(KvPlan plan) {
            kvBytes(with("", plan, whole.type()));
        }

        private void tryLazyLayers(int recent) {
            checkTime();
            checkTaken(KvPlan.streaming(layers(), recent));
            RetentionSearch search = new RetentionSearch(KvPlan.DEFAULT_SINKS, recent, RetentionSearch.DEFAULT_QUERIES);
            double[] scores;
            try (Engine engine = open(whole)) {
                scores =
                        search.scores(engine, Calibration.sequences(engine, text, measure.chunks(), measure.context()));
            }
            for (int step = 1; step <= LAZY_STEPS; step++) {
                int[] lazy = RetentionSearch.laziestLayers(scores, step * scores.length / LAZY_STEPS);
                String name = lazy.length + " of " + scores.length + " layers lazy";
                trial(name, search.plan(KvPlan.standard(scores.length), lazy));
            }
        }

        /** What KVSharer's search would accept step by step, however much is lost. */
        private void trySharing() {
            checkTime();
            List<int[]> sequences;
            int layers = layers();
            checkTaken(KvPlan.parse("cla:2", layers));
            try (Engine engine = open(whole)) {
                sequences = Calibration.sequences(
                        engine, text, SharingSearch.DEFAULT_SEQUENCES, SharingSearch.DEFAULT_SEQUENCE_TOKENS);
            }
            new SharingSearch(sequences, Math.max(1, layers / SHARING_PART), -1)
                    .run(
                            plan -> open(with("", plan, KvType.F16)),
                            layers,
                            (step, shared, wanted) ->
                                    trial(shared + " of " + layers + " layers read another", step.plan()));
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

    private int layers() {
        GgufFile file = GgufFile.open(whole.model());
        return (int) file.integer(GgufKeys.blockCount(file.architecture())).orElseThrow();
    }

    private Subject with(String name, @Nullable KvPlan plan, KvType type) {
        return new Subject(whole.model(), name, plan, type, whole.options());
    }

    private Engine open(Subject subject) {
        return options.engine(subject).contextSize(measure.context()).slots(1).open();
    }
}
