package io.kvfold;

/**
 * A device that llama.cpp can compute on.
 *
 * @param memoryFree in bytes, 0 if unknown
 * @param memoryTotal in bytes, 0 if unknown
 * @param kvMemory how keys and values on it take memory
 */
public record DeviceInfo(
        String name, String description, Type type, long memoryFree, long memoryTotal, KvMemory kvMemory) {

    /** When keys and values take memory. */
    public enum KvMemory {
        /** As tokens come; it is given back as they go. Host memory on Linux, CUDA devices that can map memory. */
        AS_IT_FILLS,
        /** From the beginning, for as many tokens as the context holds. */
        WHOLE
    }

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
