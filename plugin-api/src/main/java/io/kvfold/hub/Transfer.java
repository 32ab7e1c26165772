package io.kvfold.hub;

import io.kvfold.GenerationCancelledException;
import java.time.Duration;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** How far a download is, as its listener sees it. One thread at a time. */
final class Transfer {

    private static final Logger LOG = LoggerFactory.getLogger(Transfer.class);

    private final ModelName name;
    private final DownloadListener listener;
    private static final long TOLD_EVERY_NANOS = 100_000_000;

    private String file = "";
    private long told;
    private long finished;
    private long current;
    private long total;

    Transfer(ModelName name, DownloadListener listener) {
        this.name = name;
        this.listener = listener;
    }

    /** How much there will be. */
    void expect(long total) {
        this.total = total;
    }

    /** A file begins. */
    void start(String file) {
        this.file = file;
        this.current = 0;
        this.told = System.nanoTime() - TOLD_EVERY_NANOS;
    }

    /** So much of the current file is there. */
    void reach(long bytes) {
        current = bytes;
    }

    /** A file is complete. */
    void finish(long bytes) {
        finished += bytes;
        current = 0;
        told = System.nanoTime() - TOLD_EVERY_NANOS;
        check();
    }

    long bytes() {
        return finished + current;
    }

    /** @throws GenerationCancelledException if the listener or an interrupt ends it */
    void check() {
        if (Thread.currentThread().isInterrupted() || !goesOn()) {
            throw cancelled();
        }
    }

    private boolean goesOn() {
        long now = System.nanoTime();
        if (file.isEmpty() || now - told < TOLD_EVERY_NANOS) {
            return true;
        }
        told = now;
        try {
            return listener.onProgress(file, bytes(), total);
        } catch (RuntimeException e) {
            LOG.warn("a download listener failed", e);
            return true;
        }
    }

    void retry(String reason, Duration wait) {
        LOG.info("{}; trying again in {} s", reason, wait.toSeconds());
        tell(() -> listener.onRetry(reason, wait));
    }

    void useCached(String reason) {
        LOG.warn("{}; using what is cached of {}", reason, name);
        tell(() -> listener.onCached(reason));
    }

    private static void tell(Runnable what) {
        try {
            what.run();
        } catch (RuntimeException e) {
            LOG.warn("a download listener failed", e);
        }
    }

    GenerationCancelledException cancelled() {
        return new GenerationCancelledException(
                "fetching " + name + " was cancelled after " + bytes() + " of " + total + " bytes, which are kept",
                bytes(),
                total);
    }
}
