package io.kvfold.internal;

/** A function of libkvfold returned a failure. */
public final class NativeStatusException extends Exception {

    private static final long serialVersionUID = 1L;

    private final int status;
    private final byte[] error;

    /**
     * @param status one of {@link NativeStatus}
     * @param error the JSON object that describes it, empty if there is none
     */
    public NativeStatusException(int status, byte[] error) {
        super("status " + status);
        this.status = status;
        this.error = error.clone();
    }

    public int status() {
        return status;
    }

    public byte[] error() {
        return error.clone();
    }
}
