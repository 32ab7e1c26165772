package io.kvfold.bench;

import java.util.List;
import java.util.function.ToDoubleFunction;
import java.util.stream.IntStream;

/**
 * All runs of one case.
 *
 * @param samples one per round
 */
public record Result(Subject subject, Workload workload, int sequences, List<Sample> samples) {

    public Spread spread(ToDoubleFunction<Sample> figure) {
        return Spread.of(samples.stream().mapToDouble(figure).toArray());
    }

    /** Round by round against another case of the same rounds. */
    public Spread ratio(Result other, ToDoubleFunction<Sample> figure) {
        return Spread.of(IntStream.range(0, samples.size())
                .mapToDouble(round -> figure.applyAsDouble(samples.get(round))
                        / figure.applyAsDouble(other.samples().get(round)))
                .toArray());
    }

    /** The time to the first token that a share of the sequences, all rounds together, did not exceed; in seconds. */
    public double firstToken(double share) {
        double[] all = samples.stream()
                .flatMap(sample -> sample.firstToken().stream())
                .mapToDouble(v -> v)
                .sorted()
                .toArray();
        return all[Math.min(all.length - 1, (int) Math.ceil(share * all.length) - 1)];
    }
}
