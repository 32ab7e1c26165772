package io.kvfold;

import org.jspecify.annotations.Nullable;

/**
 * A model could not be fetched from a hub, or not be stored: no connection, too many requests, another checksum, a full
 * disk. What has arrived is kept, and the next attempt goes on from there.
 */
public final class ModelDownloadException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public ModelDownloadException(String message) {
        super(message, null, null, null);
    }

    public ModelDownloadException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }

    public ModelDownloadException(String message, @Nullable Throwable cause) {
        super(message, null, null, cause);
    }
}
