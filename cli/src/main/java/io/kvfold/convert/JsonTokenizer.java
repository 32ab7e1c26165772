package io.kvfold.convert;

import com.fasterxml.jackson.databind.JsonNode;
import io.kvfold.InvalidModelException;
import io.kvfold.convert.Vocabulary.TokenType;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Consumer;
import java.util.regex.Pattern;

/**
 * A {@code tokenizer.json} of the tokenizers library, with a BPE model: byte-level as GPT-2's, or over characters with
 * bytes as a last resort, as SentencePiece's.
 */
final class JsonTokenizer {

    private static final Pattern BYTE_TOKEN = Pattern.compile("<0x[0-9A-F]{2}>");

    private final Path file;
    private final JsonNode json;
    private final JsonNode model;
    private final Map<Integer, JsonNode> added;
    private final int size;
    private final Consumer<String> warnings;

    JsonTokenizer(Path file, JsonNode json, Map<Integer, JsonNode> added, int size, Consumer<String> warnings) {
        this.file = file;
        this.json = json;
        this.model = json.path("model");
        this.added = added;
        this.size = size;
        this.warnings = warnings;
    }

    Vocabulary read() {
        String type = model.path("type").asText("BPE");
        if (!type.equals("BPE")
                || !model.path("vocab").isObject()
                || !model.path("merges").isArray()) {
            throw error("the model is of type " + type + ", supported is BPE with vocab and merges");
        }
        for (String key : List.of("continuing_subword_prefix", "end_of_word_suffix")) {
            if (!model.path(key).asText("").isEmpty() && !model.path(key).isNull()) {
                throw error("model." + key + " is " + model.path(key) + ", which llama.cpp does not have");
            }
        }
        if (model.path("dropout").asDouble() != 0) {
            throw error("model.dropout is " + model.path("dropout") + ", which llama.cpp does not have");
        }
        return PreTokenizers.isByteLevel(json.path("pre_tokenizer")) ? byteLevel() : overCharacters();
    }

    private Vocabulary byteLevel() {
        checkByteLevelNormalizer(json.path("normalizer"));
        boolean wordsFirst = model.path("ignore_merges").asBoolean();
        String name = PreTokenizers.name(json.path("pre_tokenizer"), wordsFirst)
                .orElseThrow(() -> error("llama.cpp has no pre-tokenizer for " + abbreviate(json.path("pre_tokenizer"))
                        + " with ignore_merges " + wordsFirst));
        TokenTable table = table();
        List<String> merges = new ArrayList<>();
        for (String[] merge : merges()) {
            if (merge[0].contains(" ") || merge[1].contains(" ")) {
                throw error(
                        "a merge of \"" + merge[0] + "\" and \"" + merge[1] + "\", bytes are written without spaces");
            }
            merges.add(merge[0] + " " + merge[1]);
        }
        return new Vocabulary("gpt2", name, table.texts(), table.types(), null, merges, null, Map.of());
    }

    private void checkByteLevelNormalizer(JsonNode normalizer) {
        String type = normalizer.path("type").asText();
        if (type.equals("NFC")) {
            warnings.accept("text has to be in Unicode normalisation form C: " + file.getFileName()
                    + " asks for it, llama.cpp does not do it");
        } else if (type.equals("Sequence")) {
            normalizer.path("normalizers").forEach(this::checkByteLevelNormalizer);
        } else if (!type.isEmpty()) {
            throw error("the normalizer " + abbreviate(normalizer) + " is one that llama.cpp does not have");
        }
    }

    /**
     * llama.cpp merges characters by the score of the result, tokenizer.json by the rank of the pair. The two agree if
     * all pairs that give the same token follow one another, which holds where the file was made from a SentencePiece
     * model.
     */
    private Vocabulary overCharacters() {
        if (!model.path("byte_fallback").asBoolean()) {
            throw error("model.byte_fallback is off, llama.cpp needs byte tokens for unknown characters");
        }
        Spaces spaces = Spaces.of(this);
        TokenTable table = table();
        List<String[]> merges = merges();
        Map<String, Integer> firstRank = new HashMap<>();
        Map<String, Integer> lastRank = new HashMap<>();
        Set<String> pairs = new HashSet<>();
        for (int rank = 0; rank < merges.size(); rank++) {
            String[] merge = merges.get(rank);
            String result = merge[0] + merge[1];
            firstRank.putIfAbsent(result, rank);
            lastRank.put(result, rank);
            pairs.add(merge[0] + " " + merge[1]);
        }
        List<Float> scores = new ArrayList<>(size);
        Map<String, Integer> ids = new HashMap<>();
        for (int id = 0; id < size; id++) {
            scores.add(-(float) firstRank.getOrDefault(table.text(id), merges.size() + id));
            if (table.type(id) == TokenType.NORMAL) {
                ids.put(table.text(id), id);
            }
        }
        warnOfDifferences(ids, pairs, merges, lastRank, spaces);
        return new Vocabulary(
                "llama", "default", table.texts(), table.types(), scores, null, spaces.prefix(), Map.of());
    }

    private void warnOfDifferences(
            Map<String, Integer> ids,
            Set<String> pairs,
            List<String[]> merges,
            Map<String, Integer> lastRank,
            Spaces spaces) {
        int different = 0;
        String example = "";
        for (String text : ids.keySet()) {
            boolean differs = spaces.splitsWords() && text.indexOf(SentencePieceModel.SPACE, 1) > 0;
            for (int i = text.offsetByCodePoints(0, 1);
                    i < text.length() && !differs;
                    i += Character.charCount(text.codePointAt(i))) {
                String left = text.substring(0, i);
                String right = text.substring(i);
                differs = isReachable(left, ids) && isReachable(right, ids) && !pairs.contains(left + " " + right);
            }
            if (differs) {
                different++;
                example = text;
            }
        }
        String open = "";
        for (String[] merge : merges) {
            String result = merge[0] + merge[1];
            if (!result.equals(open)
                    && !open.isEmpty()
                    && lastRank.getOrDefault(open, 0) > lastRank.getOrDefault(result, 0)) {
                different++;
                example = open;
            }
            open = result;
        }
        if (different > 0) {
            warnings.accept(different + " tokens such as \"" + example + "\" have merge rules that llama.cpp's llama"
                    + " tokenizer cannot express; some words may be cut differently");
        }
    }

    private static boolean isReachable(String part, Map<String, Integer> ids) {
        return ids.containsKey(part) || part.codePointCount(0, part.length()) == 1;
    }

    /** How spaces become U+2581, said by the normalizer or by the pre-tokenizer. */
    private record Spaces(boolean prefix, boolean splitsWords) {

        static Spaces of(JsonTokenizer tokenizer) {
            boolean prefix = false;
            boolean replaced = false;
            for (JsonNode part : parts(tokenizer.json.path("normalizer"), "normalizers")) {
                String space = String.valueOf(SentencePieceModel.SPACE);
                if (part.path("type").asText().equals("Prepend")
                        && part.path("prepend").asText().equals(space)) {
                    prefix = true;
                } else if (part.path("type").asText().equals("Replace")
                        && part.path("pattern").path("String").asText().equals(" ")
                        && part.path("content").asText().equals(space)) {
                    replaced = true;
                } else {
                    throw tokenizer.error(
                            "the normalizer " + abbreviate(part) + " is one that llama.cpp does not have");
                }
            }
            boolean splits = false;
            for (JsonNode part : parts(tokenizer.json.path("pre_tokenizer"), "pretokenizers")) {
                if (!part.path("type").asText().equals("Metaspace")
                        || !part.path("replacement").asText().equals(String.valueOf(SentencePieceModel.SPACE))) {
                    throw tokenizer.error(
                            "the pre_tokenizer " + abbreviate(part) + " is one that llama.cpp does not have");
                }
                String scheme = part.path("prepend_scheme")
                        .asText(part.path("add_prefix_space").asBoolean(true) ? "always" : "never");
                prefix |= !scheme.equals("never");
                if (scheme.equals("first")) {
                    tokenizer.warnings.accept("only the start of a text should get a space in front; llama.cpp puts one"
                            + " after every special token too");
                }
                replaced = true;
                splits = part.path("split").asBoolean(true);
            }
            if (!replaced) {
                throw tokenizer.error("spaces are not replaced by U+2581, as llama.cpp's llama tokenizer does");
            }
            return new Spaces(prefix, splits);
        }

        private static List<JsonNode> parts(JsonNode node, String listKey) {
            if (!node.isObject()) {
                return List.of();
            }
            if (!node.path("type").asText().equals("Sequence")) {
                return List.of(node);
            }
            List<JsonNode> parts = new ArrayList<>();
            node.path(listKey).forEach(part -> parts.addAll(parts(part, listKey)));
            return parts;
        }
    }

    private TokenTable table() {
        TokenTable table = new TokenTable(size, warnings);
        String unknown = model.path("unk_token").asText("");
        boolean byteFallback = model.path("byte_fallback").asBoolean();
        for (Map.Entry<String, JsonNode> entry : model.path("vocab").properties()) {
            JsonNode id = entry.getValue();
            if (!id.isIntegralNumber() || !id.canConvertToInt()) {
                throw error("token \"" + entry.getKey() + "\" has the id " + id);
            }
            int type = TokenType.NORMAL;
            if (entry.getKey().equals(unknown)) {
                type = TokenType.UNKNOWN;
            } else if (byteFallback && BYTE_TOKEN.matcher(entry.getKey()).matches()) {
                type = TokenType.BYTE;
            }
            table.set(id.asInt(), entry.getKey(), type, 0);
        }
        table.addAll(added);
        return table;
    }

    private List<String[]> merges() {
        List<String[]> merges = new ArrayList<>();
        for (JsonNode merge : model.path("merges")) {
            String[] parts = merge.isTextual()
                    ? merge.asText().split(" ", -1)
                    : new String[] {merge.path(0).asText(), merge.path(1).asText()};
            if (parts.length != 2
                    || parts[0].isEmpty()
                    || parts[1].isEmpty()
                    || (merge.isArray() && merge.size() != 2)) {
                throw error("model.merges has " + abbreviate(merge) + ", expected two parts");
            }
            merges.add(parts);
        }
        return merges;
    }

    private InvalidModelException error(String message) {
        return new InvalidModelException(file + ": " + message);
    }

    private static String abbreviate(JsonNode node) {
        String text = node.toString();
        return text.length() <= 400 ? text : text.substring(0, 400) + "…";
    }
}
