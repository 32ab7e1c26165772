package io.kvfold.convert;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import io.kvfold.InvalidModelException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Optional;

/** JSON files of a model folder. Each holds one object; a key that stands twice is an error. */
final class Json {

    // tokenizer.json is the largest; 256 MiB is ten times the largest published one.
    private static final long MAX_FILE_BYTES = 256L << 20;

    private static final ObjectMapper MAPPER = JsonMapper.builder()
            .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
            .build();

    private Json() {}

    static Optional<JsonNode> readIfPresent(Path file) throws IOException {
        return Files.exists(file) ? Optional.of(read(file)) : Optional.empty();
    }

    static JsonNode read(Path file) throws IOException {
        long bytes = Files.size(file);
        if (bytes > MAX_FILE_BYTES) {
            throw new InvalidModelException(
                    file + " has " + bytes + " bytes, at most " + MAX_FILE_BYTES + " are read", bytes, MAX_FILE_BYTES);
        }
        return parse(file.toString(), Files.readAllBytes(file));
    }

    static JsonNode parse(String name, byte[] json) throws IOException {
        try {
            JsonNode node = MAPPER.readTree(json);
            if (!node.isObject()) {
                throw new InvalidModelException(name + ": not a JSON object");
            }
            return node;
        } catch (JsonProcessingException e) {
            throw new InvalidModelException(name + ": " + e.getOriginalMessage(), e);
        }
    }
}
