package io.kvfold.hub;

import java.time.Duration;

/** Told how far the download of a model is. */
@FunctionalInterface
public interface DownloadListener {

    /**
     * Called several times a second while something is fetched, also while nothing arrives, on the thread that asked for
     * the model; must return soon.
     *
     * @param file the path in the repository of what is being fetched
     * @param bytes of all files of the model that are there, those of earlier attempts included
     * @param total of all files of the model
     * @return whether to go on; {@code false} ends it with {@link io.kvfold.GenerationCancelledException}, and what has
     *     arrived is kept
     */
    boolean onProgress(String file, long bytes, long total);

    /** Called before waiting: the connection broke, the hub is busy, or it asked for fewer requests. */
    default void onRetry(String reason, Duration wait) {}

    /** Called when the hub could not be asked, and what is cached of a branch or tag is used. */
    default void onCached(String reason) {}
}
