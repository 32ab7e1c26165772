package io.kvfold.bench;

import java.util.List;

/**
 * One run of a case.
 *
 * @param prefill prompt tokens of all sequences per second, until the last of them has its first token
 * @param decode tokens per second of all sequences together, from then on; NaN if none came after
 * @param throughput tokens of all answers divided by the whole time, prompts included
 * @param firstToken seconds from the start of the run to the first token of each sequence, ascending
 * @param kvBytes that the cache has allocated
 * @param residentBytes by which the process grew, weights included; NaN where the system does not tell
 */
public record Sample(
        double prefill, double decode, double throughput, List<Double> firstToken, long kvBytes, double residentBytes) {

    /**
     * What came of sequences that started at once.
     *
     * @param workload of each of them
     */
    public static Sample of(Workload workload, List<Timeline> timelines, long kvBytes, double residentBytes) {
        double allStarted =
                timelines.stream().mapToDouble(Timeline::first).max().orElseThrow();
        double allDone = timelines.stream().mapToDouble(Timeline::last).max().orElseThrow();
        long later = timelines.stream()
                .flatMap(timeline -> timeline.seconds().stream())
                .filter(second -> second > allStarted)
                .count();
        int sequences = timelines.size();
        return new Sample(
                sequences * (double) workload.prompt() / allStarted,
                later == 0 ? Double.NaN : later / (allDone - allStarted),
                sequences * (double) workload.generate() / allDone,
                timelines.stream().map(Timeline::first).sorted().toList(),
                kvBytes,
                residentBytes);
    }
}
