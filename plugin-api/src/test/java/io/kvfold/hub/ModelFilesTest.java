package io.kvfold.hub;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.kvfold.ModelNotFoundException;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Expected choices are those of llama.cpp's common/download.cpp. */
class ModelFilesTest {

    private static ModelFiles choose(String name, String... files) {
        return ModelFiles.choose(ModelName.parse(name), Arrays.asList(files));
    }

    @ParameterizedTest
    @CsvSource({
        "hf:a/b, m-f16.gguf m-q4_k_m.gguf m-q8_0.gguf, m-q4_k_m.gguf",
        "hf:a/b, m-f16.gguf m-Q8_0.gguf, m-Q8_0.gguf",
        "hf:a/b, README.md m-f16.gguf m-q2_k.gguf, m-f16.gguf",
        "hf:a/b, imatrix.gguf mmproj-m-Q4_K_M.gguf mtp-m-Q4_K_M.gguf m-f16.gguf, m-f16.gguf",
        "hf:a/b:q5_k_m, m-Q4_K_M.gguf m-Q5_K_M.gguf, m-Q5_K_M.gguf",
        "hf:a/b:Q4_K, m-Q4_K_M.gguf m-Q4_K.gguf, m-Q4_K.gguf",
        "hf:a/b:BF16, Q4/m-Q4_0.gguf BF16/m-BF16.gguf, BF16/m-BF16.gguf",
        "hf:a/b/x/m.gguf, m.gguf x/m.gguf, x/m.gguf",
        "hf:a/b/mmproj-m.gguf, m.gguf mmproj-m.gguf, mmproj-m.gguf",
    })
    void takesTheFileThatLlamaCppTakes(String name, String files, String expected) {
        assertThat(choose(name, files.split(" ")).parts()).containsExactly(expected);
    }

    @Test
    void takesAllPartsOfASplitModelInTheirOrder() {
        List<String> parts = choose(
                        "hf:a/b:Q8_0",
                        "q/m-Q8_0-00002-of-00003.gguf",
                        "q/m-Q8_0-00001-of-00003.gguf",
                        "q/m-Q8_0-00003-of-00003.gguf",
                        "q/m-Q4_0-00001-of-00002.gguf")
                .parts();

        assertThat(parts)
                .containsExactly(
                        "q/m-Q8_0-00001-of-00003.gguf", "q/m-Q8_0-00002-of-00003.gguf", "q/m-Q8_0-00003-of-00003.gguf");
    }

    @Test
    void namesThePartThatIsMissing() {
        assertThatThrownBy(() -> choose("hf:a/b", "m-00001-of-00003.gguf", "m-00003-of-00003.gguf"))
                .isInstanceOf(ModelNotFoundException.class)
                .hasMessageContaining("m-00002-of-00003.gguf");
    }

    @ParameterizedTest
    @CsvSource({
        "m-Q4_K_M.gguf mmproj-F16.gguf mmproj-Q8_0.gguf, mmproj-Q8_0.gguf",
        "m-Q8_0.gguf mmproj-F16.gguf mmproj-Q8_0.gguf, mmproj-Q8_0.gguf",
        "m-BF16.gguf mmproj-F32.gguf mmproj-BF16.gguf mmproj-F16.gguf, mmproj-BF16.gguf",
        "x/m-Q8_0.gguf mmproj-Q8_0.gguf x/mmproj-F16.gguf y/mmproj-Q8_0.gguf, x/mmproj-F16.gguf",
    })
    void takesTheNearestProjector(String files, String expected) {
        assertThat(choose("hf:a/b", files.split(" ")).projector()).contains(expected);
    }

    @Test
    void takesNoProjectorOfAnotherFolder() {
        assertThat(choose("hf:a/b/x/m.gguf", "x/m.gguf", "y/mmproj-F16.gguf").projector())
                .isEmpty();
    }

    @Test
    void listsWhatThereIsWhenNothingFits() {
        assertThatThrownBy(() -> choose("hf:a/b:Q3_K", "m-Q4_0.gguf", "m-Q8_0.gguf"))
                .isInstanceOf(ModelNotFoundException.class)
                .hasMessage("a/b has no file with Q3_K in its name; there are m-Q4_0.gguf, m-Q8_0.gguf");
        assertThatThrownBy(() -> choose("hf:a/b/n.gguf", "m-Q4_0.gguf"))
                .hasMessage("a/b has no file n.gguf; there are m-Q4_0.gguf");
        assertThatThrownBy(() -> choose("hf:a/b", "model.safetensors"))
                .isInstanceOf(ModelNotFoundException.class)
                .hasMessageContaining("holds no GGUF file");
    }
}
