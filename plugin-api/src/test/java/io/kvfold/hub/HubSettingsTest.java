package io.kvfold.hub;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.kvfold.InvalidRequestException;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class HubSettingsTest {

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path home;

    private HubSettings of(String... pairs) {
        Map<String, String> environment = new HashMap<>(Map.of("HF_HOME", home.toString()));
        for (int i = 0; i < pairs.length; i += 2) {
            environment.put(pairs[i], pairs[i + 1]);
        }
        return HubSettings.of(environment);
    }

    @Test
    void keepsModelsWhereHuggingFaceDoes() {
        String user = System.getProperty("user.home");
        assertThat(HubSettings.of(Map.of()).cache()).isEqualTo(Path.of(user, ".cache/huggingface/hub"));
        assertThat(HubSettings.of(Map.of("XDG_CACHE_HOME", "/x")).cache()).isEqualTo(Path.of("/x/huggingface/hub"));
        assertThat(HubSettings.of(Map.of("XDG_CACHE_HOME", "/x", "HF_HOME", "~/h"))
                        .cache())
                .isEqualTo(Path.of(user, "h/hub"));
        assertThat(of("HUGGINGFACE_HUB_CACHE", "/c").cache()).isEqualTo(Path.of("/c"));
        assertThat(of("HUGGINGFACE_HUB_CACHE", "/c", "HF_HUB_CACHE", "/d").cache())
                .isEqualTo(Path.of("/d"));
    }

    @Test
    void asksTheHubThatIsNamed() {
        assertThat(of().endpoint()).isEqualTo(URI.create("https://huggingface.co"));
        assertThat(of("HF_ENDPOINT", "https://mirror.example/").endpoint())
                .isEqualTo(URI.create("https://mirror.example"));
        assertThat(of("HF_ENDPOINT", "https://a", "MODEL_ENDPOINT", "http://b:80/x/")
                        .endpoint())
                .isEqualTo(URI.create("http://b:80/x"));
    }

    @ParameterizedTest
    @ValueSource(strings = {"mirror.example", "ftp://mirror.example", "https://", "http://a b"})
    void refusesAnAddressThatIsNone(String address) {
        assertThatThrownBy(() -> of("HF_ENDPOINT", address))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining(address);
    }

    @Test
    void takesTheTokenOfTheEnvironmentBeforeThatOfTheFile() throws IOException {
        assertThat(of().token()).isNull();
        Files.writeString(home.resolve("token"), "hf_file\n");
        assertThat(of().token()).isEqualTo("hf_file");
        assertThat(of().tokenSource()).isEqualTo(home.resolve("token").toString());
        assertThat(of("HF_TOKEN", " hf_env ").token()).isEqualTo("hf_env");
        Path other = Files.writeString(home.resolve("other"), "hf_other");
        assertThat(of("HF_TOKEN_PATH", other.toString()).token()).isEqualTo("hf_other");
        assertThat(of("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1").token()).isNull();
    }

    @Test
    void doesNotPrintATokenThatIsNone() {
        assertThatThrownBy(() -> of("HF_TOKEN", "hf_se cret"))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("HF_TOKEN")
                .hasMessageNotContaining("cret");
    }

    @ParameterizedTest
    @CsvSource({"1, true", "TRUE, true", "yes, true", "on, true", "0, false", "'', false"})
    void isOfflineWhereHuggingFaceIs(String value, boolean offline) {
        assertThat(of("HF_HUB_OFFLINE", value).offline()).isEqualTo(offline);
        assertThat(of("TRANSFORMERS_OFFLINE", value).offline()).isEqualTo(offline);
    }
}
