package io.kvfold;

import com.fasterxml.jackson.annotation.JsonValue;
import java.util.Arrays;
import java.util.Locale;

/** How the keys or the values of the KV cache are stored; the types of llama-server's option {@code cache-type-k}. */
public enum KvType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q5_1,
    Q5_0,
    Q4_1,
    Q4_0,
    IQ4_NL;

    /** The name ggml gives it, such as {@code q8_0}. */
    @JsonValue
    public String text() {
        return name().toLowerCase(Locale.ROOT);
    }

    /**
     * The type that ggml calls {@code text}.
     *
     * @throws InvalidRequestException if there is none
     */
    public static KvType parse(String text) {
        for (KvType type : values()) {
            if (type.text().equalsIgnoreCase(text)) {
                return type;
            }
        }
        throw new InvalidRequestException("no KV cache type is called '" + text + "'; there are "
                + Arrays.stream(values()).map(KvType::text).toList());
    }
}
