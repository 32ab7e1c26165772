package io.kvfold.cli;

import io.kvfold.hub.DownloadListener;
import java.time.Duration;
import org.jspecify.annotations.Nullable;

/** Shows how far a download is: a bar on a terminal, and on standard error why it waits. One thread at a time. */
final class DownloadProgress implements DownloadListener, AutoCloseable {

    private @Nullable Progress progress;

    @Override
    public boolean onProgress(String file, long bytes, long total) {
        if (progress == null) {
            if (bytes == total) {
                return true; // nothing is to be fetched
            }
            progress = new Progress("fetching", total >> 20, " MiB");
        }
        progress.stepTo(bytes >> 20);
        progress.message(file);
        return true;
    }

    @Override
    public void onRetry(String reason, Duration wait) {
        close();
        System.err.println(Values.format("kvfold: %s; trying again in %d s", reason, wait.toSeconds()));
    }

    @Override
    public void onCached(String reason) {
        System.err.println("kvfold: " + reason + "; using what is cached");
    }

    @Override
    public void close() {
        if (progress != null) {
            progress.close();
            progress = null;
        }
    }
}
