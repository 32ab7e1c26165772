package io.kvfold.internal;

/** {@code kvfold_status}. */
public final class NativeStatus {

    public static final int OK = 0;
    public static final int DONE = 1;
    public static final int ERROR_INVALID_ARGUMENT = -1;
    public static final int ERROR_UNKNOWN_OPTION = -2;
    public static final int ERROR_MODEL_NOT_FOUND = -3;
    public static final int ERROR_MODEL_INVALID = -4;
    public static final int ERROR_PLAN_INVALID = -5;
    public static final int ERROR_CONTEXT_EXCEEDED = -6;
    public static final int ERROR_QUEUE_FULL = -7;
    public static final int ERROR_OUT_OF_MEMORY = -8;
    public static final int ERROR_CANCELLED = -9;
    public static final int ERROR_CLOSED = -10;
    public static final int ERROR_UNSUPPORTED = -11;
    public static final int ERROR_STATE = -12;
    public static final int ERROR_ADDRESS = -13;
    public static final int ERROR_BUDGET_EXCEEDED = -14;
    public static final int ERROR_INTERNAL = -100;

    private NativeStatus() {}
}
