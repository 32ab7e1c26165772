package io.kvfold.hub;

import io.kvfold.InvalidRequestException;
import java.io.IOException;
import java.net.URI;
import java.net.URISyntaxException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * What the environment says, by the names and the precedence of huggingface_hub; {@code MODEL_ENDPOINT} is llama.cpp's.
 *
 * @param endpoint without a slash at its end
 * @param token null if there is none
 * @param tokenSource where it is from, for messages
 */
record HubSettings(URI endpoint, Path cache, @Nullable String token, String tokenSource, boolean offline) {

    private static final String DEFAULT_ENDPOINT = "https://huggingface.co";
    private static final Set<String> TRUE = Set.of("1", "ON", "YES", "TRUE");

    /** Without the token. */
    @Override
    public String toString() {
        return "HubSettings[" + endpoint + ", " + cache + (offline ? ", offline]" : "]");
    }

    static HubSettings of(Map<String, String> environment) {
        Path home = home(environment);
        String cache = first(environment, "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE");
        String endpoint = first(environment, "MODEL_ENDPOINT", "HF_ENDPOINT");
        String token = first(environment, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN");
        String source = "HF_TOKEN";
        if (token == null) {
            String file = first(environment, "HF_TOKEN_PATH");
            Path path = file == null ? home.resolve("token") : expand(file);
            token = read(path);
            source = path.toString();
        }
        if (isTrue(environment, "HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
            token = null;
        }
        return new HubSettings(
                endpoint(endpoint == null ? DEFAULT_ENDPOINT : endpoint),
                cache == null ? home.resolve("hub") : expand(cache),
                token == null ? null : token(token, source),
                source,
                isTrue(environment, "HF_HUB_OFFLINE") || isTrue(environment, "TRANSFORMERS_OFFLINE"));
    }

    /** An address as a hub has it. */
    static URI endpoint(String text) {
        try {
            URI endpoint = new URI(text.replaceFirst("/+$", ""));
            String scheme = endpoint.getScheme();
            if (endpoint.getHost() != null && ("http".equals(scheme) || "https".equals(scheme))) {
                return endpoint;
            }
        } catch (URISyntaxException e) {
            throw new InvalidRequestException("'" + text + "' is not the address of a hub: " + e.getMessage(), e);
        }
        throw new InvalidRequestException(
                "'" + text + "' is not the address of a hub, which begins with https:// or http://");
    }

    /** A token that a header can hold; the message of the error does not hold it. */
    static String token(String text, String source) {
        String token = text.strip();
        if (token.isEmpty() || token.chars().anyMatch(c -> c <= ' ' || c > '~')) {
            throw new InvalidRequestException(
                    "the token from " + source + " is empty or holds characters that no token has");
        }
        return token;
    }

    private static Path home(Map<String, String> environment) {
        String home = first(environment, "HF_HOME");
        if (home != null) {
            return expand(home);
        }
        String cache = first(environment, "XDG_CACHE_HOME");
        return (cache == null ? expand("~/.cache") : expand(cache)).resolve("huggingface");
    }

    private static Path expand(String path) {
        return path.equals("~") || path.startsWith("~/")
                ? Path.of(System.getProperty("user.home") + path.substring(1))
                : Path.of(path);
    }

    private static @Nullable String read(Path token) {
        try {
            String text = Files.readString(token).strip();
            return text.isEmpty() ? null : text;
        } catch (IOException e) {
            return null; // most users have none
        }
    }

    private static boolean isTrue(Map<String, String> environment, String name) {
        return TRUE.contains(environment.getOrDefault(name, "").toUpperCase(Locale.ROOT));
    }

    private static @Nullable String first(Map<String, String> environment, String... names) {
        for (String name : names) {
            String value = environment.get(name);
            if (value != null && !value.isBlank()) {
                return value.strip();
            }
        }
        return null;
    }
}
