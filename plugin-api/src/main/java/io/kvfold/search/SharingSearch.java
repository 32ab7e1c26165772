package io.kvfold.search;

import io.kvfold.Engine;
import io.kvfold.InvalidPlanException;
import io.kvfold.InvalidRequestException;
import io.kvfold.KeysAndValues;
import io.kvfold.KvPlan;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.function.Function;
import org.jspecify.annotations.Nullable;

/**
 * KVSharer: finds layers of an ordinary model that may read the keys and values of a lower layer, without training.
 *
 * <p>Averages the keys and the values of each layer over calibration sequences, orders all pairs of layers by how
 * dissimilar these are, the most dissimilar first, and lets the higher layer of each pair read the lower one as long as
 * the final hidden states keep pointing where they did. A layer that reads another one is resolved to the layer that
 * stores, and is replaced once.
 *
 * @see <a href="https://arxiv.org/abs/2410.18517">KVSharer</a>
 */
public final class SharingSearch {

    /** The least cosine of the final hidden states that the published search accepts. */
    public static final double DEFAULT_THRESHOLD = 0.5;

    /** Tokens of a calibration sequence in the published search. */
    public static final int DEFAULT_SEQUENCE_TOKENS = 64;

    /** Calibration sequences in the published search. */
    public static final int DEFAULT_SEQUENCES = 30;

    /**
     * A pair of layers and how far apart what they store is.
     *
     * @param lower the layer that would be read
     * @param higher the layer that would read it
     * @param distance the mean of the Euclidean distances of their averaged keys and of their averaged values
     */
    public record Pair(int lower, int higher, double distance) {}

    /**
     * One plan that was tried.
     *
     * @param pair the pair of layers behind it
     * @param plan what was accepted before, and this pair
     * @param cosine of the final hidden states under this plan and without one
     * @param accepted whether that is above the threshold
     */
    public record Trial(Pair pair, KvPlan plan, double cosine, boolean accepted) {}

    /**
     * What a search found.
     *
     * @param plan with the layers that share; {@link KvPlan#isStandard()} if none may
     * @param shared the number of layers that read another one; fewer than wanted if too few are above the threshold
     * @param trials in the order in which they were tried
     */
    public record Result(KvPlan plan, int shared, List<Trial> trials) {}

    /** Is told of each trial. */
    @FunctionalInterface
    public interface Listener {
        /**
         * @param trial that has been computed
         * @param shared layers that share now
         * @param wanted when the search stops
         */
        void onTrial(Trial trial, int shared, int wanted);
    }

    private final List<int[]> sequences;
    private final int wanted;
    private final double threshold;

    /**
     * A search that is repeatable: the same model and sequences give the same plan.
     *
     * @param sequences token ids, all of the same length
     * @param wanted how many layers shall read another one, from 1
     * @param threshold what the cosine of the final hidden states has to exceed, from -1 to 1
     * @throws InvalidRequestException if a number is out of range or the sequences are not of one length
     */
    public SharingSearch(List<int[]> sequences, int wanted, double threshold) {
        if (sequences.isEmpty() || sequences.get(0).length == 0) {
            throw new InvalidRequestException("there is no calibration sequence");
        }
        for (int[] sequence : sequences) {
            if (sequence.length != sequences.get(0).length) {
                throw new InvalidRequestException(
                        "a calibration sequence has " + sequence.length + " tokens, the first one "
                                + sequences.get(0).length,
                        (long) sequence.length,
                        (long) sequences.get(0).length);
            }
        }
        if (wanted < 1) {
            throw new InvalidRequestException(
                    "the layers to share are " + wanted + ", the least is 1", (long) wanted, 1L);
        }
        if (!(threshold >= -1 && threshold <= 1)) {
            throw new InvalidRequestException("a cosine of " + threshold + " is not within -1 to 1");
        }
        this.sequences = sequences.stream().map(int[]::clone).toList();
        this.wanted = wanted;
        this.threshold = threshold;
    }

    /**
     * Runs the search; each trial opens the model anew.
     *
     * @param opener opens the model with a plan; the search closes what it opens
     * @throws InvalidPlanException if the model has not more layers than are wanted
     */
    public Result run(Function<KvPlan, Engine> opener, int layers, Listener listener) {
        if (wanted >= layers) {
            throw new InvalidPlanException(
                    wanted + " layers to share, but of " + layers + " layers at most " + (layers - 1)
                            + " can read another",
                    (long) wanted,
                    layers - 1L);
        }
        int[] map = KvPlan.standard(layers).kvLayers();
        float[] original;
        List<Pair> pairs;
        try (Engine engine = opener.apply(KvPlan.standard(layers))) {
            original = hiddenStates(engine);
            pairs = pairs(engine, layers);
        }
        List<Trial> trials = new ArrayList<>();
        int shared = 0;
        for (Pair pair : pairs) {
            if (shared == wanted) {
                break;
            }
            if (map[pair.higher()] != pair.higher()) {
                continue; // replaced already
            }
            int[] candidate = withPair(map, pair);
            KvPlan plan = KvPlan.of(candidate);
            double cosine;
            try (Engine engine = opener.apply(plan)) {
                cosine = cosine(original, hiddenStates(engine));
            }
            boolean accepted = cosine > threshold;
            if (accepted) {
                map = candidate;
                shared++;
            }
            trials.add(new Trial(pair, plan, cosine, accepted));
            listener.onTrial(trials.get(trials.size() - 1), shared, wanted);
        }
        return new Result(KvPlan.of(map), shared, List.copyOf(trials));
    }

    /** The map with the higher layer reading what the lower one reads, and with it all that read the higher one. */
    private static int[] withPair(int[] map, Pair pair) {
        int[] candidate = map.clone();
        for (int i = 0; i < candidate.length; i++) {
            if (map[i] == pair.higher()) {
                candidate[i] = map[pair.lower()];
            }
        }
        return candidate;
    }

    private float[] hiddenStates(Engine engine) {
        float[] all = {};
        int filled = 0;
        for (int[] sequence : sequences) {
            for (float[] state : engine.hiddenStates(sequence)) {
                if (filled == 0) {
                    all = new float
                            [Math.multiplyExact(state.length, Math.multiplyExact(sequence.length, sequences.size()))];
                }
                System.arraycopy(state, 0, all, filled, state.length);
                filled += state.length;
            }
        }
        return all;
    }

    private List<Pair> pairs(Engine engine, int layers) {
        double[][] keys = new double[layers][];
        double[][] values = new double[layers][];
        for (int[] sequence : sequences) {
            KeysAndValues observed = engine.keysAndValues(sequence);
            for (int layer = 0; layer < layers; layer++) {
                keys[layer] = added(keys[layer], observed.keys()[layer]);
                values[layer] = added(values[layer], observed.values()[layer]);
            }
        }
        List<Pair> pairs = new ArrayList<>();
        for (int lower = 0; lower < layers; lower++) {
            for (int higher = lower + 1; higher < layers; higher++) {
                double distance = (distance(keys[lower], keys[higher]) + distance(values[lower], values[higher])) / 2;
                pairs.add(new Pair(lower, higher, distance / sequences.size()));
            }
        }
        pairs.sort(Comparator.comparingDouble(Pair::distance).reversed());
        return pairs;
    }

    private static double[] added(double @Nullable [] sum, float[] values) {
        double[] result = sum == null ? new double[values.length] : sum;
        for (int i = 0; i < values.length; i++) {
            result[i] += values[i];
        }
        return result;
    }

    private static double distance(double[] a, double[] b) {
        double squares = 0;
        for (int i = 0; i < a.length; i++) {
            squares += (a[i] - b[i]) * (a[i] - b[i]);
        }
        return Math.sqrt(squares);
    }

    private static double cosine(float[] a, float[] b) {
        double dot = 0;
        double squaresA = 0;
        double squaresB = 0;
        for (int i = 0; i < a.length; i++) {
            dot += (double) a[i] * b[i];
            squaresA += (double) a[i] * a[i];
            squaresB += (double) b[i] * b[i];
        }
        return dot / Math.sqrt(squaresA * squaresB);
    }
}
