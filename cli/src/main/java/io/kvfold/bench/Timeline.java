package io.kvfold.bench;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.BrokenBarrierException;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.function.LongFunction;

/** When each token of an answer came, in seconds since the start of its run. */
public record Timeline(List<Double> seconds) {

    /**
     * Runs sequences at once, in a thread each.
     *
     * @param sequences each waits for its answer and times it, given the {@link System#nanoTime()} at which all started
     * @throws RuntimeException of the first sequence that fails
     */
    public static List<Timeline> atOnce(List<LongFunction<Timeline>> sequences) throws InterruptedException {
        ExecutorService threads = Executors.newFixedThreadPool(sequences.size());
        CyclicBarrier ready = new CyclicBarrier(sequences.size() + 1);
        long[] start = new long[1];
        try {
            List<Future<Timeline>> running = new ArrayList<>();
            for (LongFunction<Timeline> sequence : sequences) {
                running.add(threads.submit(() -> {
                    ready.await(); // every thread is there
                    ready.await(); // and the time is taken
                    return sequence.apply(start[0]);
                }));
            }
            ready.await();
            start[0] = System.nanoTime();
            ready.await();
            List<Timeline> timelines = new ArrayList<>();
            for (Future<Timeline> one : running) {
                timelines.add(one.get());
            }
            return timelines;
        } catch (ExecutionException e) {
            if (e.getCause() instanceof RuntimeException failure) {
                throw failure;
            }
            throw new IllegalStateException(e.getCause());
        } catch (BrokenBarrierException e) {
            throw new IllegalStateException(e);
        } finally {
            threads.shutdownNow();
        }
    }

    public double first() {
        return seconds.get(0);
    }

    public double last() {
        return seconds.get(seconds.size() - 1);
    }
}
