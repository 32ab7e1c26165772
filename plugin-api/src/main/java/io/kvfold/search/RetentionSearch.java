package io.kvfold.search;

import io.kvfold.Engine;
import io.kvfold.InvalidPlanException;
import io.kvfold.InvalidRequestException;
import io.kvfold.KvPlan;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.stream.IntStream;

/**
 * SimLayerKV, calibrated: finds layers of an ordinary model whose attention falls on the first few and the most recent
 * tokens anyway, so that they may retain only these.
 *
 * @param sinks first positions that a lazy layer retains, from 0
 * @param recent most recent positions that it retains, from 1
 * @param queries tokens at the end of each sequence whose attention is scored
 * @see <a href="https://arxiv.org/abs/2410.13846">SimLayerKV</a>
 */
public record RetentionSearch(int sinks, int recent, int queries) {

    /** Scored tokens of SimLayerKV's prefill variant. */
    public static final int DEFAULT_QUERIES = 32;

    /** @throws InvalidRequestException if a number is out of range */
    public RetentionSearch {
        if (sinks < 0 || recent < 1 || queries < 1) {
            throw new InvalidRequestException("sinks " + sinks + ", recent " + recent + " and queries " + queries
                    + " have to be at least 0, 1 and 1");
        }
    }

    /**
     * The threshold that SimLayerKV publishes for a family of models: a layer is lazy if its score is above it.
     *
     * @param architecture of the GGUF file
     * @param vocabulary number of tokens; tells Llama 3 from Llama 2
     */
    public static double publishedThreshold(String architecture, int vocabulary) {
        String family = architecture.toLowerCase(Locale.ROOT);
        if (family.startsWith("qwen")) {
            return 0.85;
        }
        if (family.startsWith("mistral")) {
            return 0.8;
        }
        return vocabulary > 100_000 ? 0.9 : 0.65;
    }

    /**
     * The mean over sequences of each layer's score, see {@link Engine#retainedAttention}.
     *
     * @param sequences token ids; a sequence of no more than {@code sinks + recent} tokens says nothing, since it is
     *     retained as a whole
     * @throws InvalidRequestException if there is none, or one is too short to say something
     */
    public double[] scores(Engine engine, List<int[]> sequences) {
        long least = (long) sinks + recent + queries;
        if (sequences.isEmpty()) {
            throw new InvalidRequestException("there is no calibration sequence");
        }
        double[] sums = new double[engine.info().model().layers()];
        for (int[] sequence : sequences) {
            if (sequence.length < least) {
                throw new InvalidRequestException(
                        "a calibration sequence has " + sequence.length + " tokens, but " + sinks + " sinks, " + recent
                                + " recent tokens and " + queries + " queries take " + least,
                        (long) sequence.length,
                        least);
            }
            float[] scores = engine.retainedAttention(sinks, recent, queries, sequence);
            for (int layer = 0; layer < sums.length; layer++) {
                sums[layer] += scores[layer];
            }
        }
        for (int layer = 0; layer < sums.length; layer++) {
            sums[layer] /= sequences.size();
        }
        return sums;
    }

    /**
     * The layers with a score above a threshold; 0 makes every layer lazy and 1 none.
     *
     * @param threshold from 0 to 1
     * @throws InvalidRequestException if it is out of range
     */
    public static int[] lazyLayers(double[] scores, double threshold) {
        if (!(threshold >= 0 && threshold <= 1)) {
            throw new InvalidRequestException("a threshold of " + threshold + " is not within 0 to 1");
        }
        return IntStream.range(0, scores.length)
                .filter(layer -> threshold == 0 || (threshold < 1 && scores[layer] > threshold))
                .toArray();
    }

    /**
     * The layers with the highest scores, in ascending order: LightTransfer's fixed number instead of a threshold.
     *
     * @param count how many, from 0 to the number of layers
     * @throws InvalidRequestException if it is out of range
     */
    public static int[] laziestLayers(double[] scores, int count) {
        if (count < 0 || count > scores.length) {
            throw new InvalidRequestException(
                    count + " lazy layers of " + scores.length, (long) count, (long) scores.length);
        }
        return IntStream.range(0, scores.length)
                .boxed()
                .sorted(Comparator.comparingDouble((Integer layer) -> scores[layer])
                        .reversed())
                .limit(count)
                .mapToInt(Integer::intValue)
                .sorted()
                .toArray();
    }

    /**
     * A plan with lazy layers.
     *
     * @param base who reads whom; without windows of its own
     * @param lazy the layers that retain only sinks and recent tokens; may be empty
     * @throws InvalidPlanException if {@code base} has windows
     */
    public KvPlan plan(KvPlan base, int... lazy) {
        if (base.window().isPresent()) {
            throw new InvalidPlanException("the KV plan " + base + " has windows of its own");
        }
        return lazy.length == 0 ? base : base.withRetention(sinks, recent, lazy);
    }
}
