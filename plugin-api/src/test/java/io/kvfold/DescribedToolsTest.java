package io.kvfold;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Path;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Tools for a model whose chat template knows nothing of them, on the built library. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
@Timeout(120)
class DescribedToolsTest {

    private static final ObjectMapper JSON = new ObjectMapper();

    private static final String TOOLS = """
            [{"type": "function", "function": {"name": "light", "description": "Switches a light",
              "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}}},
             {"type": "function", "function": {"name": "door", "parameters": {"type": "object", "properties": {}}}}]""";

    @TempDir
    static Path directory;

    private Path model = Path.of("");

    @SuppressWarnings("NullAway.Init")
    private Engine engine;

    @BeforeAll
    void open() throws Exception {
        RealLibrary.require();
        model = TinyModel.write(directory.resolve("tiny.gguf"), 1);
        engine = builder().open();
    }

    @AfterAll
    void close() {
        if (engine != null) {
            engine.close();
        }
    }

    private Engine.Builder builder() {
        return Engine.builder().model(model).contextSize(4096).slots(1).threads(1);
    }

    private static ObjectNode body(String messages, String tools) throws Exception {
        ObjectNode body = JSON.createObjectNode().put("max_tokens", 60).put("temperature", 0);
        body.set("messages", JSON.readTree(messages));
        body.set("tools", JSON.readTree(tools));
        return body;
    }

    private static String user(String text) {
        return "[{\"role\": \"user\", \"content\": \"" + text + "\"}]";
    }

    @Test
    void leavesAPromptWithoutToolsAsItIs() throws Exception {
        ObjectNode body = body("""
                [{"role": "system", "content": "be brief "}, {"role": "user", "content": " hello"},
                 {"role": "assistant", "content": "hi"}, {"role": "user", "content": "again"}]""", "[]");
        try (Engine plain = builder().describeTools(false).open()) {
            assertThat(engine.applyTemplate(body))
                    .isEqualTo(plain.applyTemplate(body))
                    .isEqualTo("system: be brief \nuser:  hello\nassistant: hi\nuser: again\nassistant:");
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"system", "user", "assistant"})
    void describesToolsOnceWhoeverSpeaksFirst(String first) throws Exception {
        String prompt = engine.applyTemplate(body("""
                [{"role": "%s", "content": "be brief"}, {"role": "user", "content": "light!"}]""".formatted(first), TOOLS));

        assertThat(prompt)
                .containsOnlyOnce("\"Switches a light\"")
                .containsOnlyOnce("\"door\"")
                .containsSubsequence("<tools>", "</tools>", "be brief", "user: light!", "assistant:");
    }

    @Test
    void rendersCallsAndTheirResults() throws Exception {
        String prompt = engine.applyTemplate(body("""
                [{"role": "user", "content": "light!"},
                 {"role": "assistant", "content": "", "tool_calls": [
                   {"id": "a", "type": "function", "function": {"name": "light", "arguments": "{\\"on\\":true}"}},
                   {"id": "b", "type": "function", "function": {"name": "door", "arguments": "{}"}}]},
                 {"role": "tool", "tool_call_id": "a", "content": "it is on"},
                 {"role": "tool", "tool_call_id": "b", "content": "it is open"},
                 {"role": "user", "content": "thanks"}]""", TOOLS));

        assertThat(prompt).endsWith("""
                assistant: <tool_call>
                {"name": "light", "arguments": {"on": true}}
                </tool_call>
                <tool_call>
                {"name": "door", "arguments": {}}
                </tool_call>
                user: <tool_response>
                it is on
                </tool_response>
                <tool_response>
                it is open
                </tool_response>
                user: thanks
                assistant:""");
    }

    /** Random weights call, and go on calling, since the grammar leaves them nothing else. */
    @Test
    void forcesACall() throws Exception {
        ObjectNode body =
                body(user("light!"), TOOLS).put("tool_choice", "required").put("max_tokens", 300);
        JsonNode choice = engine.call("/v1/chat/completions", body).at("/choices/0");

        assertThat(choice.at("/message/content").asText()).isEmpty();
        JsonNode function = choice.at("/message/tool_calls/0/function");
        assertThat(function.path("name").asText()).isIn("light", "door");
        JsonNode arguments = JSON.readTree(function.path("arguments").asText());
        if (function.path("name").asText().equals("light")) {
            assertThat(arguments.path("on").isBoolean()).as("%s", arguments).isTrue();
        } else {
            assertThat(arguments).isEmpty();
        }
    }

    /** Blanks within arguments are held back by the parser: results without a chunk, for which the slot must not wait. */
    @Test
    @Timeout(120)
    void streamsACallOfManyBlanks() throws Exception {
        ObjectNode body = body(user("light!"), TOOLS)
                .put("tool_choice", "required")
                .put("max_tokens", 300)
                .put("stream", true);
        int chunks = 0;
        try (Generation generation = engine.chat(body)) {
            while (generation.next() != null) {
                chunks++;
            }
        }
        assertThat(chunks).isPositive();
    }

    @Test
    void addsNothingToAnAnswerThatTheCallerHasBegun() throws Exception {
        ObjectNode body = body("""
                [{"role": "user", "content": "light!"}, {"role": "assistant", "content": "well"}]""", TOOLS).put("tool_choice", "required");

        assertThat(engine.applyTemplate(body)).endsWith("well");
        assertThat(engine.call("/v1/chat/completions", body).at("/choices/0").isObject())
                .isTrue();
    }

    /** A grammar of one call ends with it; a model that may go on calls until the limit. */
    @Test
    void endsTheAnswerAfterOneCall() throws Exception {
        ObjectNode body =
                body(user("light!"), TOOLS).put("tool_choice", "required").put("max_tokens", 3000);
        JsonNode choice = engine.call("/v1/chat/completions", body).at("/choices/0");

        assertThat(choice.at("/message/tool_calls")).hasSize(1);
        assertThat(choice.path("finish_reason").asText()).isEqualTo("tool_calls");

        body.put("parallel_tool_calls", true).put("max_tokens", 600);
        assertThat(engine.call("/v1/chat/completions", body).at("/choices/0/message/tool_calls"))
                .hasSizeGreaterThan(1);
    }

    /** Wherever the limit falls: before the call, in its name, or in its arguments, which are no JSON then. */
    @Test
    void handsOutNoCallThatTheLimitHasCutOff() throws Exception {
        ObjectNode body = body(user("light!"), TOOLS).put("tool_choice", "required");
        String finishReason = "length";
        for (int limit = 20; finishReason.equals("length"); limit += 10) {
            JsonNode choice = engine.call("/v1/chat/completions", body.put("max_tokens", limit))
                    .at("/choices/0");
            for (JsonNode call : choice.at("/message/tool_calls")) {
                assertThat(JSON.readTree(call.at("/function/arguments").asText())
                                .isObject())
                        .as("%s", call)
                        .isTrue();
            }
            finishReason = choice.path("finish_reason").asText();
        }
        assertThat(finishReason).isEqualTo("tool_calls");
    }

    @Test
    void leavesRoomForAResponseFormat() throws Exception {
        ObjectNode body = body(user("light!"), TOOLS).put("tool_choice", "required");
        body.putObject("response_format").put("type", "json_object");

        JsonNode message = engine.call("/v1/chat/completions", body).at("/choices/0/message");
        assertThat(message.path("content").asText()).startsWith("{");
    }

    @Test
    void leavesItToTheModelWhetherToCall() throws Exception {
        JsonNode choice =
                engine.call("/v1/chat/completions", body(user("light!"), TOOLS)).at("/choices/0");

        assertThat(choice.at("/message/tool_calls").isMissingNode()).isTrue();
        assertThat(choice.at("/message/content").asText()).matches("[a-z ]+");
    }

    @Test
    void canBeSwitchedOff() {
        try (Engine plain = builder().describeTools(false).open()) {
            assertThat(supportsTools(plain)).isFalse();
        }
        assertThat(supportsTools(engine)).isTrue();
    }

    @Test
    void leavesTheCallersTemplateAlone() {
        try (Engine own =
                builder().option("chat-template", "{{ messages[0].content }}").open()) {
            assertThat(supportsTools(own)).isFalse();
        }
    }

    private static boolean supportsTools(Engine engine) {
        return engine.call("/props", JSON.createObjectNode())
                .at("/chat_template_caps/supports_tools")
                .asBoolean();
    }
}
