package io.kvfold.convert;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import io.kvfold.InvalidModelException;
import io.kvfold.convert.SentencePieceModel.Piece;
import io.kvfold.convert.Vocabulary.TokenType;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.function.Consumer;

/** Finds the tokenizer of a model folder. */
final class Tokenizers {

    static final String SENTENCE_PIECE_FILE = "tokenizer.model";
    static final String JSON_FILE = "tokenizer.json";

    // A folder with one of these has a tokenizer, only not one that is read here.
    private static final List<String> OTHER_FILES = List.of(
            "vocab.json",
            "merges.txt",
            "vocab.txt",
            "tekken.json",
            "spiece.model",
            "sentencepiece.bpe.model",
            "tiktoken.model",
            "tokenizer.model.v3",
            "tokenizer.model.v7",
            "tokenizer.tiktoken");

    private Tokenizers() {}

    /**
     * The vocabulary of {@code folder}: tokenizer.model if there is one, because it has the scores, otherwise
     * tokenizer.json, otherwise ids only.
     *
     * @param size rows of the embedding matrix; ids without a token are filled up
     * @throws InvalidModelException if the tokenizer is malformed or of a kind that llama.cpp does not have
     */
    static Vocabulary read(Path folder, int size, Consumer<String> warnings) throws IOException {
        Path sentencePiece = folder.resolve(SENTENCE_PIECE_FILE);
        Optional<JsonNode> json = Json.readIfPresent(folder.resolve(JSON_FILE));
        Optional<JsonNode> config = Json.readIfPresent(folder.resolve(SpecialTokens.CONFIG_FILE));
        if (Files.exists(sentencePiece)) {
            try {
                SentencePieceModel model = SentencePieceModel.parse(sentencePiece, Files.readAllBytes(sentencePiece));
                return sentencePiece(sentencePiece, model, addedTokens(folder, json, config), size, config, warnings);
            } catch (InvalidModelException e) {
                if (json.isEmpty()) {
                    throw e;
                }
                warnings.accept(JSON_FILE + " is used instead of " + SENTENCE_PIECE_FILE + ": " + e.getMessage());
            }
        }
        if (json.isPresent()) {
            Map<Integer, JsonNode> added = addedTokens(folder, json, config);
            return new JsonTokenizer(folder.resolve(JSON_FILE), json.get(), added, size, warnings).read();
        }
        for (String name : OTHER_FILES) {
            if (Files.exists(folder.resolve(name))) {
                throw new InvalidModelException(folder + ": the tokenizer is in " + name + "; supported are "
                        + JSON_FILE + ", which transformers writes when a fast tokenizer is saved, and "
                        + SENTENCE_PIECE_FILE);
            }
        }
        warnings.accept("no tokenizer: the model takes token ids only");
        return Vocabulary.NONE;
    }

    private static Vocabulary sentencePiece(
            Path file,
            SentencePieceModel model,
            Map<Integer, JsonNode> added,
            int size,
            Optional<JsonNode> config,
            Consumer<String> warnings) {
        if (!model.bpe()) {
            throw new InvalidModelException(file
                    + ": a SentencePiece model of another kind than BPE, which llama.cpp's llama tokenizer is not");
        }
        if (model.hasCharacterMap() || model.removeExtraWhitespaces()) {
            warnings.accept(file + " normalises text before it is tokenised ("
                    + (model.hasCharacterMap() ? "character map" : "extra white space") + "), llama.cpp does not");
        }
        TokenTable table = new TokenTable(size, warnings);
        boolean bytes = false;
        for (int id = 0; id < model.pieces().size(); id++) {
            Piece piece = model.pieces().get(id);
            String text = piece.type() == TokenType.USER_DEFINED
                    ? piece.text().replace(SentencePieceModel.SPACE, ' ')
                    : piece.text();
            bytes |= piece.type() == TokenType.BYTE;
            table.set(id, text, piece.type(), piece.score());
        }
        if (!bytes) {
            throw new InvalidModelException(file + ": no byte tokens, llama.cpp needs them for unknown characters");
        }
        table.addAll(added);
        boolean prefix = config.filter(node -> node.path("add_prefix_space").isBoolean())
                .map(node -> node.path("add_prefix_space").asBoolean())
                .orElse(model.addDummyPrefix());
        Map<String, Integer> special = new TreeMap<>();
        if (isControl(table, model.bos())) {
            special.put("bos", model.bos());
        }
        if (isControl(table, model.eos())) {
            special.put("eos", model.eos());
        }
        return new Vocabulary(
                "llama", "default", table.texts(), table.types(), table.scores(), null, prefix, Map.copyOf(special));
    }

    private static boolean isControl(TokenTable table, int id) {
        return id >= 0 && id < table.size() && table.type(id) == TokenType.CONTROL;
    }

    /** Tokens added after training, by id. The file that is most specific wins. */
    private static Map<Integer, JsonNode> addedTokens(Path folder, Optional<JsonNode> json, Optional<JsonNode> config)
            throws IOException {
        Map<Integer, JsonNode> added = new TreeMap<>();
        Optional<JsonNode> plain = Json.readIfPresent(folder.resolve("added_tokens.json"));
        if (plain.isPresent()) {
            for (Map.Entry<String, JsonNode> entry : plain.get().properties()) {
                added.put(
                        id(folder.resolve("added_tokens.json"), entry.getKey(), entry.getValue()),
                        JsonNodeFactory.instance.objectNode().put("content", entry.getKey()));
            }
        }
        if (json.isPresent()) {
            for (JsonNode token : json.get().path("added_tokens")) {
                added.put(id(folder.resolve(JSON_FILE), "added_tokens", token.path("id")), token);
            }
        }
        if (config.isPresent()) {
            for (Map.Entry<String, JsonNode> entry :
                    config.get().path("added_tokens_decoder").properties()) {
                try {
                    added.put(Integer.parseInt(entry.getKey()), entry.getValue());
                } catch (NumberFormatException e) {
                    throw new InvalidModelException(folder.resolve(SpecialTokens.CONFIG_FILE)
                            + ": added_tokens_decoder has the key " + entry.getKey() + ", expected a token id");
                }
            }
        }
        return added;
    }

    private static int id(Path file, String what, JsonNode id) {
        if (!id.isIntegralNumber() || !id.canConvertToInt() || id.asInt() < 0) {
            throw new InvalidModelException(file + ": " + what + " has " + id + ", expected a token id");
        }
        return id.asInt();
    }
}
