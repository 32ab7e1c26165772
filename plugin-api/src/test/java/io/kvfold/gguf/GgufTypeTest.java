package io.kvfold.gguf;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class GgufTypeTest {

    // Bytes of 256 elements, summed up from the block structs of ggml-common.h field by field.
    @ParameterizedTest
    @CsvSource({
        "F32,1024",
        "F16,512",
        "BF16,512",
        "Q4_0,144",
        "Q4_1,160",
        "Q5_0,176",
        "Q5_1,192",
        "Q8_0,272",
        "Q8_1,288",
        "Q2_K,84",
        "Q3_K,110",
        "Q4_K,144",
        "Q5_K,176",
        "Q6_K,210",
        "Q8_K,292",
        "IQ2_XXS,66",
        "IQ2_XS,74",
        "IQ3_XXS,98",
        "IQ1_S,50",
        "IQ4_NL,144",
        "IQ3_S,110",
        "IQ2_S,82",
        "IQ4_XS,136",
        "IQ1_M,56",
        "TQ1_0,54",
        "TQ2_0,66",
        "MXFP4,136",
        "NVFP4,144",
        "Q1_0,36",
        "Q2_0,72",
        "I8,256",
        "I16,512",
        "I32,1024",
        "I64,2048",
        "F64,2048"
    })
    void knowsTheBytesOf256Elements(GgufType type, long bytes) {
        assertThat(type.bytes(256)).isEqualTo(bytes);
    }

    @Test
    void findsTypesByIdAndByLabel() {
        for (GgufType type : GgufType.values()) {
            assertThat(GgufType.ofId(type.id())).contains(type);
            assertThat(GgufType.ofLabel(type.label())).contains(type);
        }
        assertThat(GgufType.ofId(4)).as("Q4_2, removed upstream").isEmpty();
        assertThat(GgufType.ofId(43)).isEmpty();
        assertThat(GgufType.Q4_K.label()).isEqualTo("q4_K");
        assertThat(GgufType.IQ2_XXS.label()).isEqualTo("iq2_xxs");
    }

    @Test
    void rejectsRowsThatDoNotFitTheBlock() {
        assertThatThrownBy(() -> GgufType.Q8_0.bytes(33)).isInstanceOf(IllegalArgumentException.class);
        assertThatThrownBy(() -> GgufType.F64.bytes(Long.MAX_VALUE)).isInstanceOf(ArithmeticException.class);
    }
}
