package io.kvfold.convert;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Byte-pair encoding in the words of the tokenizers library: learns merges from a text and applies them, one at a time,
 * the pair of lowest rank first and the leftmost of equals. Written for comparison with llama.cpp, slow and plain.
 */
final class ToyTokenizer {

    /** By rank: two parts. */
    final List<List<String>> merges = new ArrayList<>();

    final Map<String, Integer> ids = new LinkedHashMap<>();

    private final List<Pattern> rules;
    private final boolean bytes;
    private final boolean wordsFirst;

    private ToyTokenizer(List<String> rules, boolean bytes, boolean wordsFirst) {
        this.rules = rules.stream().map(Pattern::compile).toList();
        this.bytes = bytes;
        this.wordsFirst = wordsFirst;
    }

    /** GPT-2's byte alphabet; the rules cut words, each within what the former one has left. */
    static ToyTokenizer byteLevel(List<String> rules, boolean wordsFirst, String text, int merges) {
        ToyTokenizer tokenizer = new ToyTokenizer(rules, true, wordsFirst);
        for (int b = 0; b < 256; b++) {
            tokenizer.ids.put(String.valueOf(byteSymbol(b)), b);
        }
        tokenizer.learn(text, merges);
        return tokenizer;
    }

    /** Characters, with byte tokens for those that are unknown. Ids 0 to 2 are for unknown, start and end. */
    static ToyTokenizer overCharacters(String text, int merges) {
        ToyTokenizer tokenizer = new ToyTokenizer(List.of("▁*[^▁]*"), false, false);
        tokenizer.ids.put("<unk>", 0);
        tokenizer.ids.put("<s>", 1);
        tokenizer.ids.put("</s>", 2);
        for (int b = 0; b < 256; b++) {
            tokenizer.ids.put(String.format("<0x%02X>", b), 3 + b);
        }
        tokenizer
                .escape(text)
                .codePoints()
                .distinct()
                .sorted()
                .forEach(c -> tokenizer.ids.putIfAbsent(Character.toString(c), tokenizer.ids.size()));
        tokenizer.learn(tokenizer.escape(text), merges);
        return tokenizer;
    }

    String escape(String text) {
        return text.replace(' ', '▁');
    }

    /**
     * Adds, next to the merge that made a token, every other pair that gives it, as transformers does when it converts a
     * SentencePiece model.
     */
    void closeMerges() {
        List<List<String>> closed = new ArrayList<>();
        for (List<String> merge : merges) {
            String result = merge.get(0) + merge.get(1);
            for (int i = 1; i < result.length(); i++) {
                if (ids.containsKey(result.substring(0, i)) && ids.containsKey(result.substring(i))) {
                    closed.add(List.of(result.substring(0, i), result.substring(i)));
                }
            }
        }
        merges.clear();
        merges.addAll(closed);
    }

    int[] encode(String text) {
        Map<List<String>, Integer> ranks = new HashMap<>();
        for (int rank = 0; rank < merges.size(); rank++) {
            ranks.putIfAbsent(merges.get(rank), rank);
        }
        List<Integer> out = new ArrayList<>();
        for (String word : bytes ? cut(text) : List.of(escape(text))) {
            for (String symbol : wordsFirst && ids.containsKey(word) ? List.of(word) : merge(word, ranks)) {
                Integer id = ids.get(symbol);
                if (id != null) {
                    out.add(id);
                } else {
                    for (byte b : symbol.getBytes(StandardCharsets.UTF_8)) {
                        out.add(3 + (b & 0xff));
                    }
                }
            }
        }
        return out.stream().mapToInt(Integer::intValue).toArray();
    }

    private static List<String> merge(String word, Map<List<String>, Integer> ranks) {
        List<String> symbols = new ArrayList<>();
        word.codePoints().forEach(c -> symbols.add(Character.toString(c)));
        while (true) {
            int best = -1;
            int bestRank = Integer.MAX_VALUE;
            for (int i = 0; i + 1 < symbols.size(); i++) {
                int rank = ranks.getOrDefault(symbols.subList(i, i + 2), Integer.MAX_VALUE);
                if (rank < bestRank) {
                    best = i;
                    bestRank = rank;
                }
            }
            if (best < 0) {
                return symbols;
            }
            symbols.set(best, symbols.get(best) + symbols.remove(best + 1));
        }
    }

    private List<String> cut(String text) {
        List<String> pieces = List.of(text);
        for (Pattern rule : rules) {
            List<String> cut = new ArrayList<>();
            for (String piece : pieces) {
                int end = 0;
                Matcher matcher = rule.matcher(piece);
                while (matcher.find()) {
                    cut.add(piece.substring(end, matcher.start()));
                    cut.add(matcher.group());
                    end = matcher.end();
                }
                cut.add(piece.substring(end));
            }
            cut.removeIf(String::isEmpty);
            pieces = cut;
        }
        return bytes ? pieces.stream().map(ToyTokenizer::inByteSymbols).toList() : pieces;
    }

    private void learn(String text, int count) {
        List<List<String>> corpus = new ArrayList<>();
        for (String word : cut(text)) {
            List<String> symbols = new ArrayList<>();
            word.codePoints().forEach(c -> symbols.add(Character.toString(c)));
            corpus.add(symbols);
        }
        for (int i = 0; i < count; i++) {
            Map<List<String>, Integer> counts = new LinkedHashMap<>();
            for (List<String> word : corpus) {
                for (int at = 0; at + 1 < word.size(); at++) {
                    counts.merge(List.copyOf(word.subList(at, at + 2)), 1, Integer::sum);
                }
            }
            List<String> pair = List.of();
            int most = 0;
            for (Map.Entry<List<String>, Integer> entry : counts.entrySet()) {
                String result = String.join("", entry.getKey());
                if (entry.getValue() > most && !ids.containsKey(result)) {
                    pair = entry.getKey();
                    most = entry.getValue();
                }
            }
            if (pair.isEmpty()) {
                return;
            }
            merges.add(pair);
            ids.put(String.join("", pair), ids.size());
            for (List<String> word : corpus) {
                for (int at = 0; at + 1 < word.size(); at++) {
                    if (word.subList(at, at + 2).equals(pair)) {
                        word.set(at, word.get(at) + word.remove(at + 1));
                    }
                }
            }
        }
    }

    static String inByteSymbols(String text) {
        StringBuilder symbols = new StringBuilder();
        for (byte b : text.getBytes(StandardCharsets.UTF_8)) {
            symbols.append(byteSymbol(b & 0xff));
        }
        return symbols.toString();
    }

    /** Printable Latin-1 bytes stand for themselves, the other 68 for the characters from U+0100. */
    private static char byteSymbol(int b) {
        int shifted = 0x100;
        for (int i = 0; i < 256; i++) {
            boolean printable = (i >= '!' && i <= '~') || (i >= 0xa1 && i <= 0xac) || i >= 0xae;
            if (i == b) {
                return (char) (printable ? i : shifted);
            }
            shifted += printable ? 0 : 1;
        }
        throw new IllegalArgumentException("not a byte: " + b);
    }
}
