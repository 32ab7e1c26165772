package io.kvfold.convert;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.kvfold.InvalidModelException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/** How a folder of sentence-transformers makes one embedding of those of all tokens. */
enum Pooling {
    MEAN,
    CLS,
    LAST;

    private static final Map<String, Pooling> FLAGS =
            Map.of("pooling_mode_mean_tokens", MEAN, "pooling_mode_cls_token", CLS, "pooling_mode_lasttoken", LAST);
    private static final Map<String, Pooling> NAMES = Map.of("mean", MEAN, "cls", CLS, "lasttoken", LAST);

    // Lengths do not matter to who compares by cosine, which llama.cpp's embeddings are normalised for.
    private static final Set<String> KNOWN_MODULES = Set.of("Transformer", "Pooling", "Normalize");

    /** llama.cpp's {@code LLAMA_POOLING_TYPE}, of which 0 is none. */
    int id() {
        return ordinal() + 1;
    }

    /**
     * Empty if the folder is none of sentence-transformers.
     *
     * @throws InvalidModelException if it does something else with the embeddings of tokens
     */
    static Optional<Pooling> of(Path folder) throws IOException {
        Path modules = folder.resolve("modules.json");
        String pooling = "1_Pooling";
        if (Files.exists(modules)) {
            for (JsonNode module : new ObjectMapper().readTree(modules.toFile())) {
                String type = module.path("type").asText();
                String name = type.substring(type.lastIndexOf('.') + 1);
                if (!KNOWN_MODULES.contains(name)) {
                    throw new InvalidModelException(
                            modules + ": a module is of the type " + type + ", which changes embeddings; supported are "
                                    + KNOWN_MODULES.stream().sorted().toList());
                }
                pooling = name.equals("Pooling") ? module.path("path").asText() : pooling;
            }
        }
        Path file = folder.resolve(pooling).resolve("config.json");
        Optional<JsonNode> config = Json.readIfPresent(file);
        return config.isEmpty() ? Optional.empty() : Optional.of(read(file, config.get()));
    }

    private static Pooling read(Path file, JsonNode config) {
        if (config.path("pooling_mode").isTextual()) {
            String name = config.path("pooling_mode").asText();
            return Optional.ofNullable(NAMES.get(name)).orElseThrow(() -> unsupported(file, List.of(name)));
        }
        List<String> modes = config.properties().stream()
                .filter(entry -> entry.getKey().startsWith("pooling_mode_")
                        && entry.getValue().asBoolean())
                .map(Map.Entry::getKey)
                .toList();
        return Optional.ofNullable(modes.size() == 1 ? FLAGS.get(modes.get(0)) : null)
                .orElseThrow(() -> unsupported(file, modes));
    }

    private static InvalidModelException unsupported(Path file, List<String> modes) {
        return new InvalidModelException(file + ": pools by " + modes + ", supported is one of "
                + NAMES.keySet().stream().sorted().toList());
    }
}
