package io.kvfold;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.function.Supplier;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import org.slf4j.event.Level;

/** What becomes of the texts, messages and numbers of a request before a model sees them. */
@Timeout(120)
class ChatContractTest {

    private static final ObjectMapper JSON = new ObjectMapper();
    private static final String CHAT = "/v1/chat/completions";

    /** As the templates of Gemma and Mistral. */
    private static final String STRICT = """
            {%- if messages[0].role == 'system' %}{% set rest = messages[1:] %}[{{ messages[0].content }}]
            {%- else %}{% set rest = messages %}{% endif %}
            {%- for m in rest %}
            {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
            {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
            {%- endif %}
            {%- for c in m.tool_calls or [] %}
            {%- if c.id | length != 9 %}{{ raise_exception('Tool call IDs should be nine characters') }}{% endif %}
            {%- endfor %}{{ m.role }}:{{ m.content }};{% endfor %}""";

    @TempDir
    static Path folder;

    private static Path model;
    private static Engine engine;

    @BeforeAll
    static void open() throws IOException {
        RealLibrary.require();
        model = TinyModel.write(folder.resolve("tiny.gguf"), 1);
        engine = builder().open();
    }

    @AfterAll
    static void close() {
        engine.close();
    }

    private static Engine.Builder builder() {
        return Engine.builder().model(model).contextSize(4096).slots(1).threads(1);
    }

    private static ObjectNode json(String text) throws JsonProcessingException {
        return (ObjectNode) JSON.readTree(text);
    }

    private static ObjectNode chat(String... rolesAndContents) {
        ObjectNode body = JSON.createObjectNode().put("max_tokens", 1);
        for (int i = 0; i < rolesAndContents.length; i += 2) {
            body.withArray("messages")
                    .addObject()
                    .put("role", rolesAndContents[i])
                    .put("content", rolesAndContents[i + 1]);
        }
        return body;
    }

    /** The template writes no special token, so there is none in the prompt but the first. */
    private static int plainTokens(ObjectNode body) {
        return engine.tokenize(engine.applyTemplate(body), true, false).length;
    }

    private static int promptTokens(ObjectNode body) {
        return engine.call(CHAT, body).at("/usage/prompt_tokens").asInt();
    }

    @ParameterizedTest
    @ValueSource(strings = {"</s>", "<s>x", "a</s></s> b<unk>", "</</s>s>", "<s", "\uFDD0\uFDEF</s>"})
    void takesTheNameOfASpecialTokenForText(String text) throws JsonProcessingException {
        ObjectNode body = chat("system", text, "user", text, "assistant", text, "user", "x");

        assertThat(promptTokens(body))
                .isEqualTo(plainTokens(
                        chat("system", clean(text), "user", clean(text), "assistant", clean(text), "user", "x")));
        assertThat(engine.call("/v1/chat/completions/input_tokens", body)
                        .path("input_tokens")
                        .asInt())
                .isEqualTo(promptTokens(body));
        ObjectNode parts = chat("user", "");
        parts.withArray("messages").removeAll();
        parts.withArray("messages")
                .addObject()
                .put("role", "user")
                .putArray("content")
                .addObject()
                .put("type", "text")
                .put("text", text);
        assertThat(promptTokens(parts)).isEqualTo(promptTokens(chat("user", text)));
    }

    /** Without what marks are made of, which a text may bring along. */
    private static String clean(String text) {
        return text.replace("\uFDD0\uFDEF", "");
    }

    @Test
    void goesOnWithAnAnswerWithoutRepeatingIt() {
        ObjectNode body = chat("user", "a", "assistant", "It begins ");
        body.put("max_tokens", 8).put("temperature", 0).put("ignore_eos", true);

        String whole = engine.call(CHAT, body).at("/choices/0/message/content").asText();
        StringBuilder streamed = new StringBuilder();
        try (Generation generation = engine.chat(body.deepCopy().put("stream", true))) {
            for (JsonNode chunk = generation.next(); chunk != null; chunk = generation.next()) {
                streamed.append(chunk.at("/choices/0/delta/content").asText(""));
            }
        }
        ObjectNode raw = JSON.createObjectNode()
                .put("prompt", engine.applyTemplate(body))
                .put("parse_special", false)
                .put("n_predict", 8)
                .put("temperature", 0)
                .put("ignore_eos", true);
        assertThat(engine.applyTemplate(body)).endsWith("It begins ");
        assertThat(whole)
                .isNotEmpty()
                .isEqualTo(streamed.toString())
                .isEqualTo(engine.call("/completion", raw).path("content").asText());
    }

    /** Half a minute of the tokeniser, which nobody can interrupt. */
    @Test
    void refusesATextOfManyMegabytesBeforeItIsTokenised() {
        String text = "lorem ipsum dolor ".repeat(2_000_000);
        for (Supplier<Generation> start : List.<Supplier<Generation>>of(
                () -> engine.complete(JSON.createObjectNode().put("prompt", text)),
                () -> engine.chat(chat("user", text)))) {
            try (Generation generation = start.get()) {
                assertThatThrownBy(generation::next)
                        .isInstanceOf(ContextExceededException.class)
                        .hasMessageContaining("which are at least");
            }
        }
    }

    @Test
    void leavesRawPromptsToTheCaller() {
        ObjectNode raw = JSON.createObjectNode().put("prompt", "a</s>").put("n_predict", 1);

        int special = engine.call("/completion", raw).path("tokens_evaluated").asInt();
        int plain = engine.call("/completion", raw.put("parse_special", false))
                .path("tokens_evaluated")
                .asInt();
        assertThat(special).isEqualTo(engine.tokenize("a</s>", true, true).length);
        assertThat(plain)
                .isEqualTo(engine.tokenize("a</s>", true, false).length)
                .isGreaterThan(special);
    }

    @Test
    void embedsTextsAsText() {
        try (Engine embedding =
                builder().option("embeddings", true).option("pooling", "mean").open()) {
            ObjectNode body = JSON.createObjectNode().put("input", "a</s>");
            assertThat(embedding
                            .call("/v1/embeddings", body)
                            .at("/usage/prompt_tokens")
                            .asInt())
                    .isEqualTo(engine.tokenize("a</s>", true, false).length);
        }
    }

    @Test
    void replacesHalfAnEmoji() {
        assertThat(engine.tokenize("cut \uD83D", false, false)).isEqualTo(engine.tokenize("cut \uFFFD", false, false));
        assertThat(engine.tokenize("\uDE00 cut", false, false)).isEqualTo(engine.tokenize("\uFFFD cut", false, false));
        assertThat(engine.tokenize("\uD83D\uDE00", false, false)).hasSize(5); // a blank and four bytes
    }

    @Test
    void showsTheModelTheSchemaOfItsAnswer() throws JsonProcessingException {
        String format = """
                {"type": "json_schema", "json_schema": {"schema": {"type": "object", "properties": {
                 "name": {"type": "string", "description": "in full"}, "age": {"type": "integer"},
                 "home": {"$ref": "#/$defs/Home"}, "tags": {"type": "array", "items": {"enum": ["a", 1]}}},
                 "required": ["name", "tags"],
                 "$defs": {"Home": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"city": {"type": "string"}}}]}}}}}""";
        ObjectNode body = chat("user", "Who?", "assistant", "I", "user", "Say it again");
        body.set("response_format", json(format));

        assertThat(engine.applyTemplate(body))
                .contains("user: Who?\n")
                .contains("user: Say it again\n\nAnswer with JSON: {\"name\": string (in full), \"age\"?: integer,"
                        + " \"home\"?: null | {\"city\"?: string}, \"tags\": [\"a\" | 1, ...]}\n");
        assertThat(engine.applyTemplate(chat("user", "Who?"))).doesNotContain("JSON");
        body.set("answer_format", body.get("response_format"));
        body.remove("response_format");
        body.set("tools", json("""
                {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}""").get("tools"));
        assertThat(engine.applyTemplate(body))
                .contains("Say it again\n\nUnless you call a tool, answer with JSON: {\"name\"");
        body.put("tool_choice", "none");
        assertThat(engine.applyTemplate(body)).contains("Say it again\n\nAnswer with JSON: {\"name\"");
        body.remove(List.of("answer_format", "tools", "tool_choice"));
        body.set("response_format", json("{\"type\": \"json_object\"}"));
        assertThat(engine.applyTemplate(body)).doesNotContain("Answer with");
        body.set("response_format", json(format));
        try (Engine silent = builder().describeSchema(false).open()) {
            assertThat(silent.applyTemplate(body)).doesNotContain("Answer with");
        }
    }

    @Test
    void givesAStrictTemplateTheMessagesThatItTakes() throws JsonProcessingException {
        try (Engine strict = builder().option("chat-template", STRICT).open()) {
            assertThat(strict.applyTemplate(chat("user", "a", "user", "b"))).isEqualTo("user:a\n\nb;");
            assertThat(strict.applyTemplate(
                            chat("system", "s", "user", "a", "assistant", "b", "system", "t", "user", "c")))
                    .isEqualTo("[s\n\nt]user:a;assistant:b;user:c;");
            assertThat(strict.applyTemplate(chat("assistant", "a", "user", "b")))
                    .isEqualTo("user:;assistant:a;user:b;");
            ObjectNode call = json("""
                    {"messages": [{"role": "user", "content": "a"},
                     {"role": "assistant", "content": "b", "tool_calls":
                       [{"id": "call_1234567890", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                     {"role": "user", "content": "c"}]}""");
            assertThat(strict.applyTemplate(call)).isEqualTo("user:a;assistant:b;user:c;");
            assertThat(strict.call(CHAT, chat("user", "a", "user", "b")).has("choices"))
                    .isTrue();
            ObjectNode hopeless = chat("user", "a", "tool", "b", "tool", "c");
            assertThatThrownBy(() -> strict.applyTemplate(hopeless))
                    .isInstanceOf(InvalidRequestException.class)
                    .hasMessage(
                            "the chat template of this model does not take messages of user, tool, tool: Conversation"
                                    + " roles must alternate user/assistant/user/assistant/...");
        }
    }

    @Test
    void embedsTextsAsLongAsTheContext() {
        String segment = "a".repeat(601);
        ObjectNode body = JSON.createObjectNode();
        body.putArray("input").add("a").add(segment);
        try (Engine embedding =
                builder().option("embeddings", true).option("pooling", "mean").open()) {
            assertThat(embedding.call("/v1/embeddings", body).path("data")).hasSize(2);
        }
        try (Engine small = builder()
                .ubatchSize(64)
                .option("embeddings", true)
                .option("pooling", "mean")
                .open()) {
            assertThatThrownBy(() -> small.call("/v1/embeddings", body))
                    .isInstanceOf(ContextExceededException.class)
                    .hasMessageContaining("input 1 of 2 (counted from 0) has ")
                    .hasMessageContaining("the limit is 64");
        }
    }

    /** Cut into pieces, a text had the vector of its last one. */
    @Test
    void poolsWholeTextsUnderAPlanThatReadsUpward() throws IOException {
        Path two = TinyModel.write(folder.resolve("two.gguf"), 1, 2);
        Engine.Builder upward = Engine.builder()
                .model(two)
                .contextSize(256)
                .slots(1)
                .threads(1)
                .kvPlan(KvPlan.parse("1_1", 2))
                .option("embeddings", true)
                .option("pooling", "mean");

        assertThatThrownBy(upward::open)
                .isInstanceOf(UnsupportedOperationByModelException.class)
                .hasMessageContaining("kv-prefill");
        for (String plan : List.of("1_1;exact", "1_1;passes=17")) {
            assertThatThrownBy(() -> upward.kvPlan(KvPlan.parse(plan))
                            .option("kv-prefill", "fixed")
                            .open())
                    .isInstanceOf(UnsupportedOperationByModelException.class)
                    .hasMessageContaining("16 passes");
        }
        try (Engine fixed = upward.kvPlan(KvPlan.parse("1_1")).open()) {
            assertThat(vector(fixed, "a b a b c")).isNotEqualTo(vector(fixed, "c a b a b c"));
            assertThat(vector(fixed, "b b b b c")).isNotEqualTo(vector(fixed, "a b a b c"));
        }
    }

    private static JsonNode vector(Engine embedding, String text) {
        return embedding
                .call("/v1/embeddings", JSON.createObjectNode().put("input", text))
                .at("/data/0/embedding");
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "{\"max_tokens\": 0}",
                "{\"max_completion_tokens\": -2}",
                "{\"temperature\": -1}",
                "{\"top_p\": 1.5}",
                "{\"n\": 2}",
                "{\"id_slot\": 1}",
                "{\"lora\": [{\"id\": 0, \"scale\": 1}]}",
                "{\"messages\": [{\"role\": \"wizard\", \"content\": \"a\"}]}"
            })
    void refusesWhatWouldBeIgnored(String part) throws JsonProcessingException {
        ObjectNode body = chat("user", "a");
        body.setAll(json(part));
        String name = json(part).fieldNames().next();

        assertThatThrownBy(() -> engine.call(CHAT, body))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining(name.equals("lora") ? "adapter 0" : name.equals("messages") ? "wizard" : name);
    }

    @Test
    void limitsWhatTakesTimeByTheSquare() {
        ObjectNode tools = chat("user", "a");
        for (int i = 0; i < 5000; i++) {
            tools.withArray("tools")
                    .addObject()
                    .put("type", "function")
                    .putObject("function")
                    .put("name", "f" + i);
        }
        ObjectNode arguments = chat("user", "a");
        for (int i = 0; i < 20_000; i++) {
            arguments.withObject("/chat_template_kwargs").put("k" + i, i);
        }

        assertThatThrownBy(() -> engine.call(CHAT, tools))
                .hasMessageContaining("\"tools\" has 5000 elements, the limit is 256");
        assertThatThrownBy(() -> engine.call(CHAT, arguments))
                .hasMessageContaining("\"chat_template_kwargs\" has 20000");
        arguments.withObject("/chat_template_kwargs").put("one more", 1);
        assertThatThrownBy(() -> engine.call(CHAT, arguments))
                .hasMessageContaining("too many members in its objects, 20001 in one; the limit is 20000 in one");
    }

    @Test
    void logsNothingOfARequestAtInfo() {
        List<String> lines = Collections.synchronizedList(new ArrayList<>());
        NativeLibrary.logTo((level, line) -> lines.add(level + " " + line), Level.INFO);
        try {
            engine.call(CHAT, chat("user", "a"));
            engine.call(CHAT, chat("user", "a"));
            assertThatThrownBy(() -> engine.call(CHAT, chat("user", "a".repeat(5000))))
                    .isInstanceOf(ContextExceededException.class);
        } finally {
            NativeLibrary.logTo(null, Level.INFO);
        }
        assertThat(lines).isEmpty();
    }

    /** A pool is as large as the budget holds; cells of their own are there for each slot. */
    @Test
    void keepsSlotsApartIfAsked() {
        Engine.Builder four = Engine.builder().model(model).contextSize(2048).threads(1);
        long perToken = engine.kvCacheStats().bytesPerToken();
        four.kvBudget(3 * 1024 * perToken);
        try (Engine unified = four.open();
                Engine apart = four.option("kv-unified", false).open()) {
            assertThat(unified.kvCacheStats().bytesAllocated()).isLessThanOrEqualTo(3 * 1024 * perToken);
            assertThat(apart.kvCacheStats().bytesAllocated()).isEqualTo(4 * 2048 * perToken);
        }
    }
}
