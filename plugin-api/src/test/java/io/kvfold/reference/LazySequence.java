package io.kvfold.reference;

import io.kvfold.AutomaticRetention;
import io.kvfold.AutomaticRetention.Decision;
import io.kvfold.KvPlan;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.IntStream;

/**
 * A sequence of the reference that finds its lazy layers as SimLayerKV and LightTransfer do, from the probabilities of
 * full attention.
 */
final class LazySequence {
    private final KvPlan plan;
    private final AutomaticRetention how;
    private final ReferenceModel.Sequence sequence;
    private final Set<Integer> lazy = new TreeSet<>();
    private final List<double[]> masses = new ArrayList<>(); // by position: mass on sinks and window by layer
    private int length;
    private int promptStart;
    private int nextEarly; // tokens
    private boolean decided;
    private boolean awaitsFirst;
    private double closest = Double.POSITIVE_INFINITY;
    private final List<Double> scores = new ArrayList<>();
    private double[] last = {};

    LazySequence(ReferenceModel model, Shape shape, KvPlan plan) {
        this.plan = plan;
        how = plan.automaticRetention().orElseThrow();
        sequence = model.newSequence();
        sequence.observe((layer, head, query, key, probability) -> {
            while (masses.size() <= query) {
                masses.add(new double[plan.layers()]);
            }
            if (key < plan.sinks() || query - key < plan.window().orElseThrow()) {
                masses.get(query)[layer] += probability / shape.heads();
            }
        });
    }

    /** Logits of a part of the prompt; {@code end} says that it is the last one. */
    double[][] prompt(boolean end, int... chunk) {
        return prompt(end, length + chunk.length >= nextEarly, chunk);
    }

    private double[][] prompt(boolean end, boolean isTime, int... chunk) {
        double[][] logits = sequence.append(1, chunk);
        last = logits[logits.length - 1];
        length += chunk.length;
        int queries = Math.min(how.queries(), length - promptStart);
        boolean enough = length > plan.sinks() + plan.window().orElseThrow() + how.queries();
        boolean early = how.decision() == Decision.EARLY
                && queries == how.queries()
                && length >= 2 * (plan.sinks() + plan.window().orElseThrow())
                && isTime;
        if (how.decision() != Decision.DECODE && enough && (early || end)) {
            decide(queries, end);
            nextEarly = 2 * length;
        }
        awaitsFirst = end;
        promptStart = end ? length : promptStart;
        return logits;
    }

    /**
     * Logits of a prompt that comes in chunks of equal size, the last one possibly shorter. One that ends comes through the
     * server core, which cuts it where it is judged: at twice the tokens that a window retains, and whenever it has doubled.
     */
    double[][] promptInChunks(int size, boolean ends, int... tokens) {
        List<double[]> logits = new ArrayList<>();
        for (int from = 0, to; from < tokens.length; from = to) {
            int cut = nextCut() - length;
            to = Math.min(from + (ends ? Math.min(size, cut) : size), tokens.length);
            int[] chunk = Arrays.copyOfRange(tokens, from, to);
            logits.addAll(Arrays.asList(
                    ends ? prompt(to == tokens.length, chunk.length == cut, chunk) : prompt(false, chunk)));
        }
        return logits.toArray(double[][]::new);
    }

    private int nextCut() {
        int cut = 2 * (plan.sinks() + plan.window().orElseThrow());
        while (cut <= length) {
            cut *= 2;
        }
        return cut;
    }

    /** Logits after one generated token. */
    double[] generate(int token) {
        double[] logits = sequence.append(1, token)[0];
        length++;
        promptStart = length;
        boolean enough = length > plan.sinks() + plan.window().orElseThrow() + 1;
        if (how.decision() == Decision.DECODE && awaitsFirst && enough) {
            decide(1, true);
        }
        awaitsFirst = false;
        return logits;
    }

    /** Logits of the last token of the prompt. */
    double[] last() {
        return last;
    }

    List<Integer> lazyLayers() {
        return List.copyOf(lazy);
    }

    /** Every score that was looked at. */
    List<Double> scores() {
        return scores;
    }

    /** How near a decision was to another one: the least distance of a score to what it was compared with. */
    double closest() {
        return closest;
    }

    private void decide(int queries, boolean last) {
        if (decided) {
            return;
        }
        double[] score = new double[plan.layers()];
        for (double[] mass : masses.subList(length - queries, length)) {
            for (int layer = 0; layer < score.length; layer++) {
                score[layer] += mass[layer] / queries;
            }
        }
        int[] candidates = IntStream.range(0, score.length)
                .filter(layer -> !plan.usesWindow(layer) && !how.keptFull().contains(layer) && !lazy.contains(layer))
                .toArray();
        Arrays.stream(candidates).forEach(layer -> scores.add(score[layer]));
        if (how.isByNumber()) {
            int[] ranked = Arrays.stream(candidates)
                    .boxed()
                    .sorted(Comparator.comparingDouble(layer -> score[layer]))
                    .mapToInt(Integer::intValue)
                    .toArray();
            for (int rank = how.fullLayers(); rank < ranked.length; rank++) {
                makeLazy(ranked[rank]);
            }
            if (how.fullLayers() > 0 && how.fullLayers() < ranked.length) {
                closest = Math.min(closest, score[ranked[how.fullLayers()]] - score[ranked[how.fullLayers() - 1]]);
            }
            decided = true;
            return;
        }
        double threshold = how.threshold().orElseThrow();
        for (int layer : candidates) {
            closest = Math.min(closest, Math.abs(score[layer] - threshold));
            if (score[layer] > threshold) {
                makeLazy(layer);
            }
        }
        decided = last;
    }

    private void makeLazy(int layer) {
        lazy.add(layer);
        sequence.makeLazy(layer);
    }
}
