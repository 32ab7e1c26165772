package io.kvfold;

import com.fasterxml.jackson.annotation.JsonValue;
import java.util.Locale;

/**
 * Whether attention is computed by the fused kernel that never writes the matrix of scores.
 *
 * @see <a href="https://arxiv.org/abs/2205.14135">Dao et al. 2022</a>
 */
public enum FlashAttention {
    ON,
    OFF,
    /** On where every device of the model has the kernel. */
    AUTO;

    /** The value of llama-server's option {@code flash-attn}. */
    @JsonValue
    public String text() {
        return name().toLowerCase(Locale.ROOT);
    }
}
