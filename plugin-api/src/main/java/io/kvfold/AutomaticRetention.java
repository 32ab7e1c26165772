package io.kvfold;

import java.math.BigDecimal;
import java.util.Arrays;
import java.util.Collections;
import java.util.Locale;
import java.util.OptionalDouble;
import java.util.SortedSet;
import java.util.TreeSet;
import java.util.stream.Collectors;

/**
 * How the engine finds out, for each sequence by itself, which layers of a {@link KvPlan} retain only sinks and recent
 * tokens: SimLayerKV and LightTransfer.
 *
 * <p>The <em>score</em> of a layer is the share of the attention of its last {@link #queries()} prompt queries, mean over
 * heads and queries, that falls on the first {@link KvPlan#sinks()} and the last {@link KvPlan#window()} positions. A
 * layer is lazy if its score exceeds the {@link #threshold()}, or if it is not among the {@link #fullLayers()} lowest.
 * Nothing is decided before a sequence has more tokens than sinks, window and scored queries together; a sequence that
 * never has keeps everything.
 *
 * <p>Layers that the plan gives a window already, and {@link #keptFull()} ones, are never decided on.
 *
 * <p>Immutable.
 *
 * @see <a href="https://arxiv.org/abs/2410.13846">SimLayerKV, LightTransfer</a>
 */
public final class AutomaticRetention {
    /** The most {@link #queries()} that can be scored. */
    public static final int MAX_QUERIES = 512;

    /** The queries that both methods score. */
    public static final int DEFAULT_QUERIES = 32;

    private static final int THRESHOLD_DIGITS = 6;

    /** When lazy layers are told. */
    public enum Decision {
        /**
         * While the prompt is computed, the default: after the ubatch with which it is twice as long as sinks and window
         * together, whenever it has doubled since, and at its end. A layer that is lazy once stays so, which frees its
         * memory while the rest of the prompt is computed; the other layers are full from the end of the prompt on. With
         * a number of full layers the first decision is on all.
         */
        EARLY,
        /** At the end of the prompt, as in the papers, which compute a prompt at once. */
        END,
        /**
         * With the first generated token, whose query alone is scored, as SimLayerKV's released code does. A prompt that
         * is evaluated without generating decides nothing.
         */
        DECODE
    }

    private final boolean byNumber;
    private final OptionalDouble threshold;
    private final int fullLayers;
    private final int queries;
    private final Decision decision;
    private final SortedSet<Integer> keptFull;

    private AutomaticRetention(
            boolean byNumber,
            OptionalDouble threshold,
            int fullLayers,
            int queries,
            Decision decision,
            SortedSet<Integer> keptFull) {
        this.byNumber = byNumber;
        this.threshold = threshold;
        this.fullLayers = fullLayers;
        this.queries = queries;
        this.decision = decision;
        this.keptFull = keptFull;
    }

    private static AutomaticRetention of(boolean byNumber, OptionalDouble threshold, int fullLayers) {
        return new AutomaticRetention(
                byNumber, threshold, fullLayers, DEFAULT_QUERIES, Decision.EARLY, Collections.emptySortedSet());
    }

    /**
     * SimLayerKV: lazy are the layers whose score exceeds {@code threshold}; 0 makes all of them lazy, 1 none.
     *
     * @param threshold from 0 to 1, with at most 6 digits after the point
     * @throws InvalidPlanException if it is not
     */
    public static AutomaticRetention above(double threshold) {
        if (!(threshold >= 0 && threshold <= 1)
                || BigDecimal.valueOf(threshold).stripTrailingZeros().scale() > THRESHOLD_DIGITS) {
            throw new InvalidPlanException("the threshold of lazy layers is " + threshold
                    + ", allowed are 0 to 1 with at most " + THRESHOLD_DIGITS + " digits after the point");
        }
        return of(false, OptionalDouble.of(threshold), 0);
    }

    /**
     * SimLayerKV with the threshold that its code has for the model's family: 0.9 for Llama 3, 0.65 for Llama 2, 0.8 for
     * Mistral, 0.85 for Qwen, whose last layer then is never lazy. Qwen and Mistral are told by the file's architecture
     * and by the names in it, the two Llamas by their vocabularies of 128 or 32 thousand tokens; opening any other model
     * fails and asks for a threshold.
     */
    public static AutomaticRetention aboveDefault() {
        return of(false, OptionalDouble.empty(), 0);
    }

    /**
     * LightTransfer: all layers are lazy but the {@code layers} with the lowest scores; of two equal ones the lower stays.
     *
     * @param layers from 0 to the number of layers that are decided on
     */
    public static AutomaticRetention keepingFull(int layers) {
        if (layers < 0) {
            throw new InvalidPlanException("full=" + layers + " is negative", (long) layers, 0L);
        }
        return of(true, OptionalDouble.empty(), layers);
    }

    /**
     * These with another number of scored queries.
     *
     * @param queries from 1 to {@value #MAX_QUERIES}; not used by {@link Decision#DECODE}
     */
    public AutomaticRetention withQueries(int queries) {
        if (queries < 1 || queries > MAX_QUERIES) {
            throw new InvalidPlanException(
                    "queries=" + queries + " is not from 1 to " + MAX_QUERIES, (long) queries, (long) MAX_QUERIES);
        }
        return new AutomaticRetention(byNumber, threshold, fullLayers, queries, decision, keptFull);
    }

    /** These, decided at another time. */
    public AutomaticRetention withDecision(Decision decision) {
        return new AutomaticRetention(byNumber, threshold, fullLayers, queries, decision, keptFull);
    }

    /** These with exactly the given layers never lazy. */
    public AutomaticRetention withKeptFull(int... layers) {
        SortedSet<Integer> kept = Arrays.stream(layers).boxed().collect(Collectors.toCollection(TreeSet::new));
        return new AutomaticRetention(
                byNumber, threshold, fullLayers, queries, decision, Collections.unmodifiableSortedSet(kept));
    }

    /** Whether a number of layers stays full (LightTransfer), not those up to a threshold. */
    public boolean isByNumber() {
        return byNumber;
    }

    /** The score from which on a layer is lazy; empty if a number decides, or if it is that of the model's family. */
    public OptionalDouble threshold() {
        return threshold;
    }

    /** How many of the layers that are decided on stay full; 0 unless {@link #isByNumber()}. */
    public int fullLayers() {
        return fullLayers;
    }

    /** How many of the last queries of the prompt are scored. */
    public int queries() {
        return queries;
    }

    /** When lazy layers are told. */
    public Decision decision() {
        return decision;
    }

    /** The layers that are never lazy, in order; unmodifiable. */
    public SortedSet<Integer> keptFull() {
        return keptFull;
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof AutomaticRetention that && toString().equals(that.toString());
    }

    @Override
    public int hashCode() {
        return toString().hashCode();
    }

    /** The attributes of {@link KvPlan}'s text, without a leading {@code ;}. */
    @Override
    public String toString() {
        StringBuilder text = new StringBuilder();
        if (byNumber) {
            text.append("full=").append(fullLayers);
        } else {
            text.append("lazy=").append(threshold.isPresent() ? decimal(threshold.getAsDouble()) : "default");
        }
        if (queries != DEFAULT_QUERIES) {
            text.append(";queries=").append(queries);
        }
        if (decision != Decision.EARLY) {
            text.append(";decide=").append(decision.name().toLowerCase(Locale.ROOT));
        }
        if (!keptFull.isEmpty()) {
            text.append(";keep=").append(keptFull.stream().map(String::valueOf).collect(Collectors.joining("_")));
        }
        return text.toString();
    }

    private static String decimal(double number) {
        return BigDecimal.valueOf(number).stripTrailingZeros().toPlainString();
    }
}
