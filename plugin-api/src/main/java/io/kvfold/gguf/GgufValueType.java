package io.kvfold.gguf;

/** Types of GGUF metadata values. */
public enum GgufValueType {
    /** Unsigned, 8 bits. */
    UINT8(0, 1),
    /** Signed, 8 bits. */
    INT8(1, 1),
    /** Unsigned, 16 bits. */
    UINT16(2, 2),
    /** Signed, 16 bits. */
    INT16(3, 2),
    /** Unsigned, 32 bits. */
    UINT32(4, 4),
    /** Signed, 32 bits. */
    INT32(5, 4),
    /** IEEE 754, 32 bits. */
    FLOAT32(6, 4),
    /** One byte, 0 or 1. */
    BOOL(7, 1),
    /** UTF-8 with its length in bytes in front. */
    STRING(8, 0),
    /** Values of one type; see {@link GgufFile#elementType(String)}. */
    ARRAY(9, 0),
    /** Unsigned, 64 bits. */
    UINT64(10, 8),
    /** Signed, 64 bits. */
    INT64(11, 8),
    /** IEEE 754, 64 bits. */
    FLOAT64(12, 8);

    private static final GgufValueType[] BY_ID = values();

    private final int id;
    private final int bytes;

    GgufValueType(int id, int bytes) {
        this.id = id;
        this.bytes = bytes;
    }

    /** The number that stands for this type in a file. */
    public int id() {
        return id;
    }

    /** Bytes of one value, 0 where they vary. */
    int bytes() {
        return bytes;
    }

    boolean isInteger() {
        return this != FLOAT32 && this != FLOAT64 && this != BOOL && this != STRING && this != ARRAY;
    }

    static int count() {
        return BY_ID.length;
    }

    static GgufValueType ofId(int id) {
        return BY_ID[id];
    }
}
