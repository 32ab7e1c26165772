package io.kvfold.convert;

import com.fasterxml.jackson.databind.JsonNode;
import io.kvfold.convert.Vocabulary.TokenType;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Consumer;

/** The tokens of a vocabulary while it is put together: one slot per row of the embedding matrix. */
final class TokenTable {

    // Below every score of a token that merging should reach.
    private static final float ADDED_SCORE = -1000;
    private static final float PADDING_SCORE = -10000;

    // Tokens that published models fail to mark as special; from llama.cpp's converter.
    private static final Set<String> SPECIAL_TEXTS = Set.of("<pad>", "<mask>", "<2mass>", "[@BOS@]");

    private final List<String> texts;
    private final int[] types;
    private final float[] scores;
    private final Consumer<String> warnings;

    TokenTable(int size, Consumer<String> warnings) {
        texts = new ArrayList<>(size);
        for (int id = 0; id < size; id++) {
            texts.add("[PAD" + id + "]");
        }
        types = new int[size];
        Arrays.fill(types, TokenType.UNUSED);
        scores = new float[size];
        Arrays.fill(scores, PADDING_SCORE);
        this.warnings = warnings;
    }

    /** A token without a row in the embedding matrix cannot be used and is left out. */
    void set(int id, String text, int type, float score) {
        if (id < 0 || id >= types.length) {
            warnings.accept(
                    "token " + id + " \"" + text + "\" is left out, the model has " + types.length + " embeddings");
            return;
        }
        texts.set(id, text);
        types[id] = type;
        scores[id] = score;
    }

    /** A token that is cut out of the text before anything else happens to it. */
    void add(int id, String text, boolean special) {
        boolean control = special || looksSpecial(text);
        set(
                id,
                control ? text : text.replace(SentencePieceModel.SPACE, ' '),
                control ? TokenType.CONTROL : TokenType.USER_DEFINED,
                ADDED_SCORE);
    }

    /** Entries of {@code added_tokens} of a tokenizer.json, or values of {@code added_tokens_decoder}. */
    void add(int id, JsonNode token) {
        String text = token.path("content").asText();
        if (token.path("lstrip").asBoolean()
                || token.path("rstrip").asBoolean()
                || token.path("single_word").asBoolean()) {
            warnings.accept("token " + id + " \"" + text
                    + "\" wants white space around it removed or whole words only, which llama.cpp does not do");
        }
        add(id, text, token.path("special").asBoolean());
    }

    void addAll(Map<Integer, JsonNode> tokens) {
        tokens.forEach(this::add);
    }

    int size() {
        return types.length;
    }

    String text(int id) {
        return texts.get(id);
    }

    int type(int id) {
        return types[id];
    }

    List<String> texts() {
        return List.copyOf(texts);
    }

    List<Integer> types() {
        return Arrays.stream(types).boxed().toList();
    }

    List<Float> scores() {
        List<Float> list = new ArrayList<>(scores.length);
        for (float score : scores) {
            list.add(score);
        }
        return list;
    }

    private static boolean looksSpecial(String text) {
        return SPECIAL_TEXTS.contains(text)
                || (text.startsWith("<|") && text.endsWith("|>"))
                || (text.startsWith("<｜") && text.endsWith("｜>"))
                || (text.startsWith("<unused") && text.endsWith(">"));
    }
}
