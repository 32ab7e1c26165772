package io.kvfold.hub;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.kvfold.InvalidRequestException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class ModelNameTest {

    @ParameterizedTest
    @CsvSource(
            nullValues = "-",
            value = {
                "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF, Qwen/Qwen2.5-0.5B-Instruct-GGUF, -, -, main",
                "hf:a/b:Q4_K_M, a/b, Q4_K_M, -, main",
                "hf:a/b:UD-Q4_K_XL@v1.0, a/b, UD-Q4_K_XL, -, v1.0",
                "hf:a_b/c.d/model.gguf, a_b/c.d, -, model.gguf, main",
                "hf:a/b/BF16/model-00001-of-00002.gguf@refs/pr/1, a/b, -, BF16/model-00001-of-00002.gguf, refs/pr/1",
                "hf:a/b@feature/x, a/b, -, -, feature/x",
            })
    void readsItsParts(String text, String repository, String quantization, String file, String revision) {
        ModelName name = ModelName.parse(text);

        assertThat(name.repository()).isEqualTo(repository);
        assertThat(name.quantization().orElse(null)).isEqualTo(quantization);
        assertThat(name.file().orElse(null)).isEqualTo(file);
        assertThat(name.revision()).isEqualTo(revision);
        assertThat(name).hasToString(text).isEqualTo(ModelName.parse(text));
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "hf:",
                "hf:model",
                "hf:/b",
                "hf:a/",
                "hf:a/../b",
                "hf:../etc/passwd",
                "hf:a/b/../../x.gguf",
                "hf:a/b//x.gguf",
                "hf:a/b/.",
                "hf:a/b/c\\..\\d.gguf",
                "hf:a/b:",
                "hf:a/b@",
                "hf:a/b@..",
                "hf:a/b@x/../../y",
                "hf:a/-b",
                "hf:a--b/c",
                "hf: a/b",
                "model.gguf",
            })
    void refusesWhatIsNone(String text) {
        assertThatThrownBy(() -> ModelName.parse(text))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("'");
    }

    @Test
    void refusesALongRepositoryWithBothNumbers() {
        assertThatThrownBy(() -> ModelName.parse("hf:a/" + "b".repeat(300)))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("302")
                .hasMessageContaining("256");
    }

    @Test
    void tellsANameFromAPath() {
        assertThat(ModelName.isName("hf:a/b")).isTrue();
        assertThat(ModelName.isName("hf/a/b.gguf")).isFalse();
    }
}
