package io.kvfold;

/**
 * A device that llama.cpp can compute on.
 *
 * @param memoryFree in bytes, 0 if unknown
 * @param memoryTotal in bytes, 0 if unknown
 */
public record DeviceInfo(String name, String description, Type type, long memoryFree, long memoryTotal) {

    /** What kind of device it is. */
    public enum Type {
        CPU,
        /** A GPU with memory of its own. */
        GPU,
        /** A GPU that shares the host's memory. */
        IGPU,
        /** An accelerator used together with the CPU, such as a BLAS library. */
        ACCEL
    }
}
