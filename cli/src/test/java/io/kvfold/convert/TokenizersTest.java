package io.kvfold.convert;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assumptions.assumeThat;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.InvalidModelException;
import io.kvfold.NativeLibrary;
import io.kvfold.gguf.GgufFile;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

class TokenizersTest {

    private static final String TEXT = """
            Once upon a time there was a layer that kept no keys and no values of its own. It read those of a layer
            above, which it had never met; "they're good keys," it said, "and I'm fond of them."  In 1984 it'd read 20
            tokens a second, in 2024 12345678 of them.   The end:   the layers, the keys and the values were one.
            \tThere is nothing new under the sun, nor over it, except the window that slides.

            """;

    private static final List<String> SAMPLES = List.of(
            "Once upon a time",
            " the layers' keys",
            "it'd I'LL they're WE'VE",
            "1 22 333 4444 55555 3.14159",
            "  two  spaces   three",
            "tabs\tand\nlines\n\n\nmore \r\n end ",
            "(punctuation!) ... [brackets] {x:=y} <=> +++",
            "Grüße aus Köln, naïve café — 漢字とかな 🚀🙂 и кириллица",
            "snake_case camelCase HTTPServer x86_64",
            "",
            "a");

    /** The rules of published tokenizers; the expressions are those of their tokenizer.json. */
    private enum Rule {
        GPT2("gpt-2", List.of(PRE_GPT2), false, List.of(byteLevel(true))),
        SMOLLM(
                "smollm",
                List.of("\\p{N}", PRE_GPT2),
                false,
                List.of(Map.of("type", "Digits", "individual_digits", true), byteLevel(true))),
        QWEN2("qwen2", List.of(PRE_QWEN2), false, List.of(split(PRE_QWEN2), byteLevel(false))),
        LLAMA3("llama-bpe", List.of(PRE_LLAMA3), true, List.of(split(PRE_LLAMA3), byteLevel(false))),
        LLAMA3_BY_RANK("smaug-bpe", List.of(PRE_LLAMA3), false, List.of(split(PRE_LLAMA3), byteLevel(false))),
        SEED_CODER("seed-coder", List.of(PRE_SEED), false, List.of(split(PRE_SEED), byteLevel(false))),
        DEEPSEEK3(
                "deepseek-v3",
                List.of("\\p{N}{1,3}", CJK, PRE_DEEPSEEK),
                false,
                List.of(split("\\p{N}{1,3}"), split(CJK), split(PRE_DEEPSEEK), byteLevel(false)));

        private final String name;
        private final List<String> cuts;
        private final boolean wordsFirst;
        private final List<Map<String, Object>> preTokenizers;

        Rule(String name, List<String> cuts, boolean wordsFirst, List<Map<String, Object>> preTokenizers) {
            this.name = name;
            this.cuts = cuts;
            this.wordsFirst = wordsFirst;
            this.preTokenizers = preTokenizers;
        }
    }

    static final String PRE_GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    private static final String PRE_QWEN2 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
            + " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    private static final String PRE_LLAMA3 = PRE_QWEN2.replace("|\\p{N}|", "|\\p{N}{1,3}|");

    private static final String PRE_SEED =
            PRE_QWEN2.replace("|\\p{N}|", "|\\p{N}{1}|").replace("\\p{N}]+[\\r\\n]*", "\\p{N}\\r\\n]+");
    private static final String CJK = "[一-龥\u3040-ゟ゠-ヿ]+";
    private static final String PRE_DEEPSEEK =
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
                    + " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";

    @TempDir
    Path folder;

    @ParameterizedTest
    @EnumSource
    void cutsTextLikeLlamaCpp(Rule rule) throws IOException {
        ToyTokenizer toy = ToyTokenizer.byteLevel(rule.cuts, rule.wordsFirst, TEXT, 150);
        ModelFolder model = ModelFolder.of(folder, "llama", toy.ids.size() + 3);
        model.json("tokenizer.json", byteLevelJson(toy, rule));
        model.json(
                "tokenizer_config.json",
                Map.of("bos_token", "<|begin|>", "eos_token", Map.of("content", "<|end|>"), "add_bos_token", true));

        GgufFile file = convert(model.write(), new ArrayList<>());

        assertThat(file.string("tokenizer.ggml.model")).contains("gpt2");
        assertThat(file.string("tokenizer.ggml.pre")).contains(rule.name);
        assertThat(file.integer("tokenizer.ggml.bos_token_id")).hasValue(toy.ids.size());
        assertThat(file.integer("tokenizer.ggml.eos_token_id")).hasValue(toy.ids.size() + 1);
        assertThat(file.bool("tokenizer.ggml.add_bos_token")).contains(true);
        assertThat(file.bool("tokenizer.ggml.add_eos_token")).contains(false);
        assertThat(file.strings("tokenizer.ggml.tokens").orElseThrow()).endsWith("[PAD" + (toy.ids.size() + 2) + "]");
        try (Engine engine = open(file)) {
            for (String sample : samples()) {
                assertThat(engine.tokenize(sample, false, false)).as(sample).isEqualTo(toy.encode(sample));
            }
            assertThat(engine.tokenize("a<|end|>", true, true))
                    .containsExactly(toy.ids.size(), toy.encode("a")[0], toy.ids.size() + 1);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"normalizer", "metaspace"})
    void cutsTextLikeLlamaCppFromCharactersWithByteFallback(String style) throws IOException {
        ToyTokenizer toy = ToyTokenizer.overCharacters(TEXT, 150);
        toy.closeMerges();
        ModelFolder model = ModelFolder.of(folder, "llama", toy.ids.size());
        model.json("tokenizer.json", characterJson(toy, style.equals("normalizer")));
        model.json("tokenizer_config.json", Map.of("bos_token", "<s>", "eos_token", "</s>", "unk_token", "<unk>"));
        List<String> warnings = new ArrayList<>();

        GgufFile file = convert(model.write(), warnings);

        assertThat(warnings)
                .allMatch(warning -> style.equals("metaspace") && warning.contains("after every special token"));
        assertThat(file.string("tokenizer.ggml.model")).contains("llama");
        assertThat(file.bool("tokenizer.ggml.add_space_prefix")).contains(true);
        assertThat(file.integer("tokenizer.ggml.unknown_token_id")).hasValue(0);
        assertThat(file.integers("tokenizer.ggml.token_type").orElseThrow())
                .startsWith(2, 3, 3, 6)
                .endsWith(1);
        try (Engine engine = open(file)) {
            for (String sample : samples()) {
                assertThat(engine.tokenize(sample, false, false))
                        .as(sample)
                        .isEqualTo(sample.isEmpty() ? new int[0] : toy.encode(" " + sample));
            }
            assertThat(engine.tokenize("the", true, false)).startsWith(1).endsWith(toy.encode(" the"));
            assertThat(engine.detokenize(toy.encode("the keys"))).isEqualTo("the keys");
        }
    }

    @Test
    void warnsWhereScoresCannotExpressTheMerges() throws IOException {
        ToyTokenizer toy = ToyTokenizer.overCharacters(TEXT, 150);
        ModelFolder model = ModelFolder.of(folder, "llama", toy.ids.size());
        model.json("tokenizer.json", characterJson(toy, true));
        List<String> warnings = new ArrayList<>();

        convert(model.write(), warnings);

        assertThat(warnings)
                .anySatisfy(
                        warning -> assertThat(warning)
                                .containsPattern(
                                        "[0-9]+ tokens such as .* have merge rules that llama.cpp's llama tokenizer cannot express"));
    }

    @Test
    void readsASentencePieceModelAndPrefersItsScores() throws IOException {
        ToyTokenizer toy = ToyTokenizer.overCharacters(TEXT, 150);
        toy.closeMerges();
        ModelFolder model = ModelFolder.of(folder, "llama", toy.ids.size() + 2);
        Files.write(folder.resolve("tokenizer.model"), sentencePiece(toy, 2));
        model.json("tokenizer.json", Map.of("broken", true));
        model.json("added_tokens.json", Map.of("<|user|>", toy.ids.size()));
        model.json(
                "tokenizer_config.json",
                Map.of(
                        "added_tokens_decoder",
                        Map.of("" + (toy.ids.size() + 1), Map.of("content", "[tool]", "special", false)),
                        "bos_token",
                        "<s>",
                        "eos_token",
                        "</s>",
                        "add_bos_token",
                        true));

        GgufFile file = convert(model.write(), new ArrayList<>());

        assertThat(file.string("tokenizer.ggml.model")).contains("llama");
        long[] types = file.integers("tokenizer.ggml.token_type").orElseThrow();
        assertThat(types[toy.ids.size()]).as("looks special").isEqualTo(3);
        assertThat(types[toy.ids.size() + 1]).as("user-defined").isEqualTo(4);
        try (Engine engine = open(file)) {
            for (String sample : samples()) {
                assertThat(engine.tokenize(sample, false, false))
                        .as(sample)
                        .isEqualTo(sample.isEmpty() ? new int[0] : toy.encode(" " + sample));
            }
            assertThat(engine.tokenize("[tool]", true, false)).containsExactly(1, toy.ids.size() + 1);
        }
    }

    @Test
    void takesStartAndEndFromASentencePieceModelThatStandsAlone() throws IOException {
        ToyTokenizer toy = ToyTokenizer.overCharacters(TEXT, 10);
        ModelFolder model = ModelFolder.of(folder, "llama", toy.ids.size());
        Files.write(folder.resolve("tokenizer.model"), sentencePiece(toy, 2));
        List<String> warnings = new ArrayList<>();

        GgufFile file = convert(model.write(), warnings);

        assertThat(warnings).isEmpty();
        assertThat(file.integer("tokenizer.ggml.bos_token_id")).hasValue(1);
        assertThat(file.integer("tokenizer.ggml.eos_token_id")).hasValue(2);
        assertThat(file.bool("tokenizer.ggml.add_bos_token")).contains(true);
        assertThat(file.bool("tokenizer.ggml.add_eos_token")).contains(false);
    }

    @Test
    void rejectsSentencePieceModelsThatAreNone() throws IOException {
        ToyTokenizer toy = ToyTokenizer.overCharacters("ab", 0);
        ModelFolder model = ModelFolder.of(folder, "llama");
        byte[] whole = sentencePiece(toy, 2);

        Files.write(folder.resolve("tokenizer.model"), sentencePiece(toy, 1));
        assertThatThrownBy(() -> convert(model.write(), new ArrayList<>()))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("another kind than BPE");
        Random random = new Random(5);
        for (int round = 0; round < 300; round++) {
            byte[] mutated = Arrays.copyOf(whole, round % 2 == 0 ? random.nextInt(whole.length) : whole.length);
            for (int i = 0; i < 3 && mutated.length > 0; i++) {
                mutated[random.nextInt(mutated.length)] = (byte) random.nextInt(256);
            }
            try {
                SentencePieceModel.parse(Path.of("tokenizer.model"), mutated);
            } catch (InvalidModelException expected) {
                assertThat(expected).hasMessageContaining("tokenizer.model: not a SentencePiece model");
            }
        }
    }

    @Test
    void findsStartAndEndInThePostProcessor() throws IOException {
        ToyTokenizer toy = ToyTokenizer.byteLevel(List.of(PRE_GPT2), false, TEXT, 5);
        ModelFolder model = ModelFolder.of(folder, "llama", toy.ids.size() + 2);
        Map<String, Object> json = byteLevelJson(toy, Rule.GPT2);
        json.put(
                "post_processor",
                Map.of(
                        "type",
                        "Sequence",
                        "processors",
                        List.of(
                                byteLevel(false),
                                Map.of(
                                        "type",
                                        "TemplateProcessing",
                                        "single",
                                        List.of(
                                                Map.of("SpecialToken", Map.of("id", "<|begin|>", "type_id", 0)),
                                                Map.of("Sequence", Map.of("id", "A", "type_id", 0)))))));
        model.json("tokenizer.json", json);
        model.config.put("bos_token_id", toy.ids.size());
        model.set("eos_token_id", List.of(toy.ids.size() + 1, 3));

        GgufFile file = convert(model.write(), new ArrayList<>());

        assertThat(file.bool("tokenizer.ggml.add_bos_token")).contains(true);
        assertThat(file.bool("tokenizer.ggml.add_eos_token")).contains(false);
        assertThat(file.integer("tokenizer.ggml.eos_token_id")).hasValue(toy.ids.size() + 1);
    }

    @Test
    void neverAsksForATokenThatIsNotThere() throws IOException {
        ToyTokenizer toy = ToyTokenizer.byteLevel(List.of(PRE_GPT2), false, TEXT, 5);
        ModelFolder model = ModelFolder.of(folder, "llama", toy.ids.size() + 2);
        model.json("tokenizer.json", byteLevelJson(toy, Rule.GPT2));
        model.json("tokenizer_config.json", Map.of("add_bos_token", true, "bos_token", "<absent>"));
        List<String> warnings = new ArrayList<>();

        GgufFile file = convert(model.write(), warnings);

        assertThat(file.bool("tokenizer.ggml.add_bos_token")).contains(false);
        assertThat(warnings)
                .anyMatch(warning -> warning.contains("\"<absent>\" as bos_token"))
                .anyMatch(warning -> warning.contains("add_bos_token is set without a bos token"))
                .anyMatch(warning -> warning.contains("no end-of-text token"));
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "{\"model\":{\"type\":\"Unigram\"}}                                             | of type Unigram, supported is BPE",
                "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[],\"end_of_word_suffix\":\"x\"}}  | model.end_of_word_suffix",
                "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[],\"dropout\":0.1}}      | model.dropout is 0.1",
                "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}                      | model.byte_fallback is off",
                "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[],\"byte_fallback\":true}} | spaces are not replaced by U+2581",
                "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[\"a\"]},\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}} | model.merges has \"a\"",
                "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true}} | no pre-tokenizer for",
                "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]},\"normalizer\":{\"type\":\"Lowercase\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\"}} | the normalizer {\"type\":\"Lowercase\"}",
                "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"x\"},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}} | token \"a\" has the id \"x\"",
                "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"[PAD0]\":2},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}} | tokens 0 and 2 have the same text",
                "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]},\"added_tokens\":[{\"id\":-1}]} | added_tokens has -1"
            })
    void namesWhatLlamaCppCannotDo(String json, String message) {
        ModelFolder model = ModelFolder.of(folder, "llama");
        model.file("tokenizer.json", json);

        assertThatThrownBy(() -> convert(model.write(), new ArrayList<>()))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining(message);
    }

    @Test
    void doesNotMistakeAnotherTokenizerForNone() {
        ModelFolder model = ModelFolder.of(folder, "llama");
        model.file("vocab.json", "{}");

        assertThatThrownBy(() -> convert(model.write(), new ArrayList<>()))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("the tokenizer is in vocab.json");
    }

    @Test
    void opensAModelWithoutATokenizer() throws IOException {
        GgufFile file = convert(ModelFolder.of(folder, "llama").write(), new ArrayList<>());

        try (Engine engine = open(file)) {
            assertThat(engine.evaluate(1, 2, 39).vocabularySize()).isEqualTo(40);
        }
    }

    @Test
    void takesChatTemplatesFromWhereverTheyStand() throws IOException {
        ToyTokenizer toy = ToyTokenizer.byteLevel(List.of(PRE_GPT2), false, TEXT, 5);
        ModelFolder model = ModelFolder.of(folder, "llama", toy.ids.size() + 2);
        model.json("tokenizer.json", byteLevelJson(toy, Rule.GPT2));
        model.json("tokenizer_config.json", Map.of("eos_token", "<|end|>", "chat_template", "one"));
        assertThat(convert(model.write(), new ArrayList<>()).string("tokenizer.chat_template"))
                .contains("one");

        model.json(
                "tokenizer_config.json",
                Map.of(
                        "chat_template",
                        List.of(
                                Map.of("name", "default", "template", "two"),
                                Map.of("name", "tool use", "template", "three"))));
        GgufFile list = convert(model.write(), new ArrayList<>());
        assertThat(list.string("tokenizer.chat_template")).contains("two");
        assertThat(list.string("tokenizer.chat_template.tool_use")).contains("three");
        assertThat(list.strings("tokenizer.chat_templates")).contains(List.of("tool_use"));

        model.file("chat_template.jinja", "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}");
        GgufFile jinja = convert(model.write(), new ArrayList<>());
        try (Engine engine = open(jinja)) {
            ObjectNode body = JsonNodeFactory.instance.objectNode();
            body.putArray("messages").addObject().put("role", "user").put("content", "hi");
            assertThat(engine.applyTemplate(body)).isEqualTo("user: hi\n");
        }
    }

    private static List<String> samples() {
        List<String> samples = new ArrayList<>(SAMPLES);
        samples.add(TEXT);
        Random random = new Random(11);
        String alphabet = "abcdefgh theyrs' 0123456789 ,.!?\n\t\"-é漢🙂";
        int[] characters = alphabet.codePoints().toArray();
        for (int i = 0; i < 60; i++) {
            StringBuilder sample = new StringBuilder();
            for (int j = 0; j < 30; j++) {
                sample.appendCodePoint(characters[random.nextInt(characters.length)]);
            }
            samples.add(sample.toString());
        }
        return samples;
    }

    private Engine open(GgufFile file) {
        assumeThat(NativeLibrary.isAvailable())
                .as("the native library: %s", NativeLibrary.unavailabilityCause())
                .isTrue();
        return Engine.builder()
                .model(file.path())
                .contextSize(256)
                .slots(1)
                .threads(1)
                .open();
    }

    private GgufFile convert(Path source, List<String> warnings) throws IOException {
        Path target = folder.resolve("model.gguf");
        Converter.convert(source, target, OutputType.F32, new ConversionListener() {
            @Override
            public void onWarning(String message) {
                warnings.add(message);
            }
        });
        return GgufFile.open(target);
    }

    private static Map<String, Object> byteLevelJson(ToyTokenizer toy, Rule rule) {
        int size = toy.ids.size();
        Map<String, Object> json = new LinkedHashMap<>();
        json.put(
                "added_tokens",
                List.of(
                        Map.of("id", size, "content", "<|begin|>", "special", true),
                        Map.of("id", size + 1, "content", "<|end|>", "special", true)));
        json.put(
                "pre_tokenizer",
                rule.preTokenizers.size() == 1
                        ? rule.preTokenizers.get(0)
                        : Map.of("type", "Sequence", "pretokenizers", rule.preTokenizers));
        json.put(
                "model",
                Map.of(
                        "type", "BPE",
                        "vocab", toy.ids,
                        "merges", toy.merges,
                        "ignore_merges", rule.wordsFirst));
        return json;
    }

    private static Map<String, Object> characterJson(ToyTokenizer toy, boolean normalizer) {
        Map<String, Object> json = new LinkedHashMap<>();
        json.put(
                "added_tokens",
                List.of(
                        Map.of("id", 1, "content", "<s>", "special", true),
                        Map.of("id", 2, "content", "</s>", "special", true)));
        if (normalizer) {
            json.put(
                    "normalizer",
                    Map.of(
                            "type",
                            "Sequence",
                            "normalizers",
                            List.of(
                                    Map.of("type", "Prepend", "prepend", "▁"),
                                    Map.of("type", "Replace", "pattern", Map.of("String", " "), "content", "▁"))));
        } else {
            json.put(
                    "pre_tokenizer",
                    Map.of("type", "Metaspace", "replacement", "▁", "prepend_scheme", "first", "split", false));
        }
        json.put(
                "model",
                Map.of(
                        "type",
                        "BPE",
                        "unk_token",
                        "<unk>",
                        "byte_fallback",
                        true,
                        "vocab",
                        toy.ids,
                        "merges",
                        toy.merges.stream()
                                .map(merge -> String.join(" ", merge))
                                .toList()));
        return json;
    }

    private static Map<String, Object> byteLevel(boolean useRegex) {
        return Map.of("type", "ByteLevel", "add_prefix_space", false, "trim_offsets", true, "use_regex", useRegex);
    }

    private static Map<String, Object> split(String regex) {
        return Map.of("type", "Split", "pattern", Map.of("Regex", regex), "behavior", "Isolated", "invert", false);
    }

    /** A sentencepiece_model.proto message with the scores that SentencePiece gives: minus the order of learning. */
    private static byte[] sentencePiece(ToyTokenizer toy, int modelType) throws IOException {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        toy.ids.forEach((text, id) -> {
            ByteArrayOutputStream piece = new ByteArrayOutputStream();
            byte[] utf8 = text.getBytes(StandardCharsets.UTF_8);
            field(piece, 1, utf8);
            piece.write((2 << 3) | 5);
            piece.writeBytes(ByteBuffer.allocate(4)
                    .order(ByteOrder.LITTLE_ENDIAN)
                    .putFloat(-id)
                    .array());
            if (id < 259) {
                piece.write(3 << 3);
                piece.write(id == 0 ? 2 : id < 3 ? 3 : 6);
            }
            field(out, 1, piece.toByteArray());
        });
        field(out, 2, new byte[] {3 << 3, (byte) modelType, (byte) ((35 << 3) & 0x7f | 0x80), 2, 1});
        field(out, 3, new byte[] {3 << 3, 1, 4 << 3, 0});
        return out.toByteArray();
    }

    private static void field(ByteArrayOutputStream out, int number, byte[] bytes) {
        out.write((number << 3) | 2);
        int length = bytes.length;
        while (length > 0x7f) {
            out.write((length & 0x7f) | 0x80);
            length >>>= 7;
        }
        out.write(length);
        out.writeBytes(bytes);
    }
}
