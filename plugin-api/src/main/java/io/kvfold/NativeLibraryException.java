package io.kvfold;

import org.jspecify.annotations.Nullable;

/** The native library could not be loaded. The message lists every path that was tried and why it failed, as that the CPU
 * lacks instructions the library was built for; each failure is also a {@linkplain Throwable#getSuppressed() suppressed
 * exception}. */
public final class NativeLibraryException extends KvfoldException {

    private static final long serialVersionUID = 1L;

    public NativeLibraryException(String message) {
        super(message, null, null, null);
    }

    public NativeLibraryException(String message, @Nullable Long value, @Nullable Long limit) {
        super(message, value, limit, null);
    }

    public NativeLibraryException(String message, @Nullable Throwable cause) {
        super(message, null, null, cause);
    }
}
