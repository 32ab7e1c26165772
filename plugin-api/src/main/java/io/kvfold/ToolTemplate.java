package io.kvfold;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKeys;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.List;
import java.util.Objects;
import java.util.Optional;
import java.util.regex.Pattern;

/**
 * Describes tools to a model whose chat template does not: Jinja that stands before the template and, if a request has tools
 * or messages about them, rewrites the messages that the template then renders.
 */
final class ToolTemplate {

    /** Options that decide themselves how a prompt is rendered. */
    private static final List<String> EXCLUDED = List.of("chat-template", "chat-template-file", "jinja", "no-jinja");

    /** As the template writes it. */
    private static final String CALL_START = "<tool_call>\n";

    private static final Pattern KNOWS_TOOLS = Pattern.compile("\\btool");

    private ToolTemplate() {}

    /** The options of an engine, with a template if its model needs one. */
    static ObjectNode addTo(ObjectNode options) {
        if (EXCLUDED.stream().anyMatch(options::has)) {
            return options;
        }
        return template(options.path("model").asText())
                .map(template -> options.deepCopy().put("chat-template", template))
                .orElse(options);
    }

    private static Optional<String> template(String model) {
        try {
            GgufFile file = GgufFile.open(Path.of(model));
            boolean others = file.keys().stream().anyMatch(key -> key.startsWith(GgufKeys.CHAT_TEMPLATE + '.'));
            return others
                    ? Optional.empty()
                    : file.string(GgufKeys.CHAT_TEMPLATE).flatMap(ToolTemplate::extend);
        } catch (KvfoldException | InvalidPathException e) {
            return Optional.empty(); // what is wrong with the file is said by the native library
        }
    }

    /** A request to a model that was not trained to call: one call at a time unless more are asked for, and forced ones. */
    static JsonNode adapt(JsonNode body) {
        JsonNode forced = force(body);
        if (body.path("tools").isEmpty() || body.hasNonNull("parallel_tool_calls")) {
            return forced;
        }
        ObjectNode adapted = forced.deepCopy();
        return adapted.put("parallel_tool_calls", false);
    }

    /**
     * A request whose answer has to be a call, with the beginning of one as the beginning of the answer: llama.cpp's grammar
     * allows for a text before the call, which a small model would not end. Not where the caller has begun the answer, or
     * where a response format leaves no room for a call.
     */
    static JsonNode force(JsonNode body) {
        if (!body.path("tool_choice").asText().equals("required")
                || body.path("tools").isEmpty()
                || body.hasNonNull("response_format")
                || !body.path("messages").isArray()
                || body.path("messages").isEmpty()
                || lastRole(body.path("messages")).equals("assistant")) {
            return body;
        }
        ObjectNode forced = body.deepCopy();
        forced.withArray("messages").addObject().put("role", "assistant").put("content", CALL_START);
        return forced;
    }

    private static String lastRole(JsonNode messages) {
        return messages.path(messages.size() - 1).path("role").asText();
    }

    static Optional<String> extend(String template) {
        return KNOWS_TOOLS.matcher(template).find() ? Optional.empty() : Optional.of(prefix() + template);
    }

    private static String prefix() {
        try (InputStream in = Objects.requireNonNull(ToolTemplate.class.getResourceAsStream("tools.jinja"))) {
            return new String(in.readAllBytes(), StandardCharsets.UTF_8).strip();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
