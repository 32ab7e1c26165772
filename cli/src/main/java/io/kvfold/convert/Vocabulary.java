package io.kvfold.convert;

import io.kvfold.InvalidModelException;
import io.kvfold.gguf.GgufValueType;
import io.kvfold.gguf.GgufWriter;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/**
 * Tokens as llama.cpp wants them.
 *
 * @param model "llama" (SentencePiece-like, merges by score), "gpt2" (byte-level BPE, merges by rank) or "none" (ids
 *     only)
 * @param preTokenizer how text is cut into words before merging
 * @param texts by id
 * @param types by id, {@link TokenType}'s numbers
 * @param scores by id; null for "gpt2"
 * @param merges in the order of their rank, two parts joined by a space; null for "llama"
 * @param addSpacePrefix whether a text gets a space in front; null where the kind of vocabulary has no such thing
 * @param special ids of "bos" and "eos" as the vocabulary itself has them, for folders that say nothing else
 */
record Vocabulary(
        String model,
        String preTokenizer,
        List<String> texts,
        List<Integer> types,
        @Nullable List<Float> scores,
        @Nullable List<String> merges,
        @Nullable Boolean addSpacePrefix,
        Map<String, Integer> special) {

    static final Vocabulary NONE = new Vocabulary("none", "", List.of(), List.of(), null, null, null, Map.of());

    /** {@code llama_token_type}; SentencePiece numbers its types alike. */
    static final class TokenType {
        static final int NORMAL = 1;
        static final int UNKNOWN = 2;
        static final int CONTROL = 3;
        static final int USER_DEFINED = 4;
        static final int UNUSED = 5;
        static final int BYTE = 6;

        private TokenType() {}
    }

    boolean isNone() {
        return model.equals("none");
    }

    /** Ids by text. Two tokens of the same text would stop llama.cpp with an assertion. */
    Map<String, Integer> ids() {
        Map<String, Integer> ids = new HashMap<>();
        for (int id = 0; id < texts.size(); id++) {
            Integer other = ids.put(texts.get(id), id);
            if (other != null) {
                throw new InvalidModelException(
                        "tokens " + other + " and " + id + " have the same text \"" + texts.get(id) + "\"");
            }
        }
        return ids;
    }

    void write(GgufWriter writer) {
        writer.put("tokenizer.ggml.model", model);
        if (isNone()) {
            return;
        }
        writer.put("tokenizer.ggml.pre", preTokenizer);
        writer.put("tokenizer.ggml.tokens", texts);
        if (scores != null) {
            float[] values = new float[scores.size()];
            for (int id = 0; id < values.length; id++) {
                values[id] = scores.get(id);
            }
            writer.put("tokenizer.ggml.scores", values);
        }
        writer.put(
                "tokenizer.ggml.token_type",
                GgufValueType.INT32,
                types.stream().mapToLong(Integer::longValue).toArray());
        if (merges != null) {
            writer.put("tokenizer.ggml.merges", merges);
        }
        if (addSpacePrefix != null) {
            writer.put("tokenizer.ggml.add_space_prefix", addSpacePrefix);
        }
    }
}
