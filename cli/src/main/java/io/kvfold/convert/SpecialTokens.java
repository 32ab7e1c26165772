package io.kvfold.convert;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.MissingNode;
import io.kvfold.InvalidModelException;
import io.kvfold.convert.Vocabulary.TokenType;
import io.kvfold.gguf.GgufWriter;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/** Which tokens have a meaning, whether texts start and end with one, and how a chat is written down. */
final class SpecialTokens {

    static final String CONFIG_FILE = "tokenizer_config.json";

    // Name in tokenizer_config.json and config.json, name in GGUF.
    private static final Map<String, String> NAMES = names();

    private final Path folder;
    private final JsonNode modelConfig;
    private final Optional<JsonNode> tokenizerConfig;
    private final boolean embeds;
    private final Consumer<String> warnings;

    /** @param embeds whether the last token of a text is what embeddings are taken from, whatever else may end an answer */
    SpecialTokens(Path folder, JsonNode modelConfig, boolean embeds, Consumer<String> warnings) throws IOException {
        this.folder = folder;
        this.modelConfig = modelConfig;
        this.tokenizerConfig = Json.readIfPresent(folder.resolve(CONFIG_FILE));
        this.embeds = embeds;
        this.warnings = warnings;
    }

    private static Map<String, String> names() {
        Map<String, String> names = new LinkedHashMap<>();
        names.put("bos", "bos");
        names.put("eos", "eos");
        names.put("unk", "unknown");
        names.put("sep", "seperator"); // llama.cpp's spelling
        names.put("pad", "padding");
        names.put("mask", "mask");
        return names;
    }

    void write(GgufWriter writer, Vocabulary vocabulary) throws IOException {
        if (vocabulary.isNone()) {
            return;
        }
        Map<String, Integer> ids = vocabulary.ids();
        Map<String, Integer> special = new LinkedHashMap<>();
        for (String name : NAMES.keySet()) {
            id(name, ids, vocabulary.texts().size()).ifPresent(id -> special.put(name, id));
        }
        for (int id = 0; id < vocabulary.types().size(); id++) {
            if (vocabulary.types().get(id) == TokenType.UNKNOWN) {
                special.putIfAbsent("unk", id);
            }
        }
        Optional<Template> template = template(ids);
        template.map(Template::first).ifPresent(first -> special.putIfAbsent("bos", first));
        template.map(Template::last).ifPresent(last -> {
            if (embeds) {
                special.put("eos", last);
            }
            special.putIfAbsent("eos", last);
        });
        vocabulary.special().forEach(special::putIfAbsent);
        special.forEach((name, id) -> writer.put("tokenizer.ggml." + NAMES.get(name) + "_token_id", id));
        boolean sentencePiece = vocabulary.model().equals("llama");
        writeAdd(writer, "bos", special.get("bos"), template.map(Template::first), template.isEmpty() && sentencePiece);
        writeAdd(writer, "eos", special.get("eos"), template.map(Template::last), false);
        if (!special.containsKey("eos")) {
            warnings.accept(
                    "no end-of-text token is named; llama.cpp will assume " + (sentencePiece ? "token 2" : "token 11"));
        }
        writeChatTemplates(writer);
    }

    /** The token of tokenizer_config.json, otherwise the id of config.json, of which a list means its first element. */
    private Optional<Integer> id(String name, Map<String, Integer> ids, int size) {
        JsonNode token = tokenizerConfig
                .<JsonNode>map(config -> config.path(name + "_token"))
                .orElse(MissingNode.getInstance());
        String text = token.isObject() ? token.path("content").asText() : token.asText("");
        if (!text.isEmpty() && !token.isNull()) {
            Integer id = ids.get(text);
            if (id != null) {
                return Optional.of(id);
            }
            warnings.accept(
                    CONFIG_FILE + " names \"" + text + "\" as " + name + "_token, which is not in the vocabulary");
        }
        JsonNode id = modelConfig.path(name + "_token_id");
        if (id.isArray() && !id.isEmpty()) {
            id = id.path(0);
        }
        if (!id.isIntegralNumber() || id.asLong() < 0) {
            return Optional.empty();
        }
        if (id.asLong() >= size) {
            warnings.accept("config.json has " + name + "_token_id " + id + ", the vocabulary has " + size + " tokens");
            return Optional.empty();
        }
        return Optional.of(id.asInt());
    }

    private void writeAdd(
            GgufWriter writer, String name, @Nullable Integer id, Optional<Integer> fromTemplate, boolean usual) {
        JsonNode flag = tokenizerConfig
                .<JsonNode>map(config -> config.path("add_" + name + "_token"))
                .orElse(MissingNode.getInstance());
        boolean add = flag.isBoolean() ? flag.asBoolean() : fromTemplate.isPresent() || usual;
        if (!flag.isBoolean() && fromTemplate.isPresent() && !fromTemplate.get().equals(id)) {
            warnings.accept(Tokenizers.JSON_FILE + " puts token " + fromTemplate.get() + " at the "
                    + (name.equals("bos") ? "start" : "end") + " of a text, but the " + name + " token is " + id
                    + "; it is not added");
            add = false;
        }
        if (add && id == null) {
            warnings.accept("add_" + name + "_token is set without a " + name + " token; it is not added");
            add = false;
        }
        writer.put("tokenizer.ggml.add_" + name + "_token", add);
    }

    /** First and last token that the post-processor puts around a text, null where it puts none. */
    private record Template(
            @Nullable Integer first, @Nullable Integer last) {}

    private Optional<Template> template(Map<String, Integer> ids) throws IOException {
        Optional<JsonNode> json = Json.readIfPresent(folder.resolve(Tokenizers.JSON_FILE));
        JsonNode processor = json.<JsonNode>map(node -> node)
                .orElse(MissingNode.getInstance())
                .path("post_processor");
        List<JsonNode> processors = new ArrayList<>();
        if (processor.path("type").asText().equals("Sequence")) {
            processor.path("processors").forEach(processors::add);
        } else if (processor.isObject()) {
            processors.add(processor);
        }
        for (JsonNode candidate : processors) {
            if (candidate.path("type").asText().equals("TemplateProcessing")) {
                JsonNode single = candidate.path("single");
                return Optional.of(new Template(
                        specialToken(single.path(0), ids),
                        specialToken(single.path(Math.max(0, single.size() - 1)), ids)));
            }
        }
        return Optional.empty();
    }

    private static @Nullable Integer specialToken(JsonNode item, Map<String, Integer> ids) {
        return ids.get(item.path("SpecialToken").path("id").asText());
    }

    private void writeChatTemplates(GgufWriter writer) throws IOException {
        Map<String, String> templates = chatTemplates();
        List<String> others = templates.keySet().stream()
                .filter(name -> !name.equals("default"))
                .toList();
        if (!others.isEmpty()) {
            writer.put("tokenizer.chat_templates", others);
        }
        templates.forEach((name, template) -> writer.put(
                name.equals("default") ? "tokenizer.chat_template" : "tokenizer.chat_template." + name, template));
    }

    /** Newer versions of transformers write files, older ones a text or a list into tokenizer_config.json. */
    private Map<String, String> chatTemplates() throws IOException {
        Map<String, String> templates = new TreeMap<>();
        Path file = folder.resolve("chat_template.jinja");
        Path more = folder.resolve("additional_chat_templates");
        JsonNode inConfig = tokenizerConfig
                .<JsonNode>map(config -> config.path("chat_template"))
                .orElse(MissingNode.getInstance());
        if (Files.exists(file)) {
            templates.put("default", Files.readString(file));
            if (Files.isDirectory(more)) {
                try (Stream<Path> files = Files.list(more)) {
                    for (Path other : files.sorted().toList()) {
                        String name = String.valueOf(other.getFileName());
                        if (name.endsWith(".jinja")) {
                            put(templates, name.substring(0, name.length() - 6), Files.readString(other));
                        }
                    }
                }
            }
        } else if (inConfig.isTextual()) {
            templates.put("default", inConfig.asText());
        } else if (inConfig.isArray()) {
            inConfig.forEach(entry -> put(
                    templates,
                    entry.path("name").asText(),
                    entry.path("template").asText()));
        } else if (!inConfig.isMissingNode() && !inConfig.isNull()) {
            throw new InvalidModelException(
                    folder.resolve(CONFIG_FILE) + ": chat_template is neither a text nor a list");
        }
        return templates;
    }

    private static void put(Map<String, String> templates, String name, String template) {
        String safe = name.replaceAll("[^A-Za-z0-9]", "_");
        if (!safe.isEmpty() && !template.isEmpty()) {
            templates.put(safe, template);
        }
    }
}
