package io.kvfold.convert;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.jspecify.annotations.Nullable;

/**
 * llama.cpp's names for the ways to cut text into words.
 *
 * <p>Upstream's converter tells them apart by the hash of a tokenised test sentence, which only knows published
 * vocabularies. Here the rules of tokenizer.json themselves are compared with those that llama-vocab.cpp quotes, so that
 * a vocabulary of one's own with one of these rules works too.
 */
final class PreTokenizers {

    private static final String CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    private static final String UPPER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
    private static final String LOWER = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
    private static final String SPACES = "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

    private static final String GPT2 =
            "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    private static final String LLAMA3 =
            CONTRACTIONS + "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" + SPACES;
    private static final String QWEN2 =
            CONTRACTIONS + "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" + SPACES;
    private static final String QWEN35 = CONTRACTIONS
            + "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" + SPACES;
    private static final String SEED_CODER =
            CONTRACTIONS + "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+" + SPACES;
    private static final String TEKKEN = "[^\\r\\n\\p{L}\\p{N}]?" + UPPER + "*" + LOWER + "+|[^\\r\\n\\p{L}\\p{N}]?"
            + UPPER + "+" + LOWER + "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" + SPACES;
    private static final String GPT4O = "[^\\r\\n\\p{L}\\p{N}]?" + UPPER + "*" + LOWER + "+" + CONTRACTIONS
            + "?|[^\\r\\n\\p{L}\\p{N}]?" + UPPER + "+" + LOWER + "*" + CONTRACTIONS
            + "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" + SPACES;
    private static final String DEEPSEEK3 =
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
                    + "| ?[\\p{P}\\p{S}]+[\\r\\n]*" + SPACES;

    /** Names for vocabularies that merge strictly by rank, and for those that take a whole word first if it is one. */
    private record Names(@Nullable String byRank, @Nullable String wordsFirst) {}

    private static final Map<List<String>, Names> KNOWN = Map.of(
            List.of("bytes by words"), new Names("gpt-2", null),
            List.of("split " + GPT2, "bytes"), new Names("gpt-2", null),
            List.of("digits", "bytes by words"), new Names("smollm", null),
            List.of("split " + LLAMA3, "bytes"), new Names("smaug-bpe", "llama-bpe"),
            List.of("split " + QWEN2, "bytes"), new Names("qwen2", null),
            List.of("split " + QWEN35, "bytes"), new Names("qwen35", null),
            List.of("split " + SEED_CODER, "bytes"), new Names("seed-coder", null),
            List.of("split " + TEKKEN, "bytes"), new Names(null, "tekken"),
            List.of("split " + GPT4O, "bytes"), new Names("gpt-4o", null),
            List.of("split \\p{N}{1,3}", "split [一-龥぀-ゟ゠-ヿ]+", "split " + DEEPSEEK3, "bytes"),
                    new Names("deepseek-v3", null));

    private PreTokenizers() {}

    /** Whether text goes through GPT-2's byte alphabet. */
    static boolean isByteLevel(JsonNode preTokenizer) {
        return parts(preTokenizer).stream()
                .anyMatch(part -> part.path("type").asText().equals("ByteLevel"));
    }

    /**
     * The value of {@code tokenizer.ggml.pre}, empty if llama.cpp has no such rule.
     *
     * @param wordsFirst {@code ignore_merges} of the model
     */
    static Optional<String> name(JsonNode preTokenizer, boolean wordsFirst) {
        List<String> rules = new ArrayList<>();
        for (JsonNode part : parts(preTokenizer)) {
            rules.add(rule(part));
        }
        Names names = KNOWN.get(rules);
        return names == null ? Optional.empty() : Optional.ofNullable(wordsFirst ? names.wordsFirst() : names.byRank());
    }

    private static List<JsonNode> parts(JsonNode preTokenizer) {
        if (!preTokenizer.path("type").asText().equals("Sequence")) {
            return preTokenizer.isObject() ? List.of(preTokenizer) : List.of();
        }
        List<JsonNode> parts = new ArrayList<>();
        preTokenizer.path("pretokenizers").forEach(part -> parts.addAll(parts(part)));
        return parts;
    }

    private static String rule(JsonNode part) {
        String type = part.path("type").asText();
        switch (type) {
            case "ByteLevel" -> {
                if (!part.path("add_prefix_space").asBoolean(true)) {
                    return part.path("use_regex").asBoolean(true) ? "bytes by words" : "bytes";
                }
            }
            case "Digits" -> {
                if (part.path("individual_digits").asBoolean()) {
                    return "digits";
                }
            }
            case "Split" -> {
                // Where the pattern matches everything, removing what lies between matches is the same as isolating
                // them.
                String behavior = part.path("behavior").asText();
                boolean invert = part.path("invert").asBoolean();
                boolean isolates = (behavior.equals("Isolated") && !invert) || (behavior.equals("Removed") && invert);
                if (isolates && part.path("pattern").hasNonNull("Regex")) {
                    String regex = part.path("pattern").path("Regex").asText();
                    return "split " + regex.replace("\r", "\\r").replace("\n", "\\n");
                }
            }
            default -> {}
        }
        return "unknown " + part;
    }
}
