package io.kvfold.langchain4j;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.langchain4j.agent.tool.ToolExecutionRequest;
import dev.langchain4j.agent.tool.ToolSpecification;
import dev.langchain4j.data.message.AiMessage;
import dev.langchain4j.data.message.AudioContent;
import dev.langchain4j.data.message.ChatMessage;
import dev.langchain4j.data.message.CustomMessage;
import dev.langchain4j.data.message.ImageContent;
import dev.langchain4j.data.message.SystemMessage;
import dev.langchain4j.data.message.TextContent;
import dev.langchain4j.data.message.ToolExecutionResultMessage;
import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.exception.InvalidRequestException;
import dev.langchain4j.exception.UnsupportedFeatureException;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.request.ChatRequestParameters;
import dev.langchain4j.model.chat.request.ResponseFormat;
import dev.langchain4j.model.chat.request.ResponseFormatType;
import dev.langchain4j.model.chat.request.ToolChoice;
import dev.langchain4j.model.chat.request.json.JsonArraySchema;
import dev.langchain4j.model.chat.request.json.JsonObjectSchema;
import dev.langchain4j.model.chat.request.json.JsonRawSchema;
import dev.langchain4j.model.chat.request.json.JsonReferenceSchema;
import dev.langchain4j.model.chat.request.json.JsonSchema;
import dev.langchain4j.model.chat.request.json.JsonSchemaElement;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

class ChatRequestMapperTest {

    private static final ModelFacts TEXT_MODEL = new ModelFacts("own", false, true);

    private final ChatRequestMapper mapper = new ChatRequestMapper(TEXT_MODEL, false);

    @Test
    void mapsEveryParameter() {
        JsonNode body = body(KvfoldChatRequestParameters.builder()
                .modelName("own")
                .temperature(0.5)
                .topP(0.25)
                .topK(7)
                .frequencyPenalty(-0.5)
                .presencePenalty(1.5)
                .maxOutputTokens(9)
                .stopSequences("a", "b")
                .seed(3)
                .minP(0.125)
                .repeatPenalty(1.25)
                .enableThinking(false)
                .grammar("root ::= \"x\"")
                .option("cache_prompt", false)
                .option("logit_bias", List.of(List.of(1, -2)))
                .build());

        assertThat(body).isEqualTo(json("""
                {"messages": [{"role": "user", "content": "hi"}], "stream": true,
                 "stream_options": {"include_usage": true},
                 "temperature": 0.5, "top_p": 0.25, "top_k": 7, "frequency_penalty": -0.5, "presence_penalty": 1.5,
                 "max_tokens": 9, "stop": ["a", "b"], "seed": 3, "min_p": 0.125, "repeat_penalty": 1.25,
                 "grammar": "root ::= \\"x\\"", "chat_template_kwargs": {"enable_thinking": false},
                 "cache_prompt": false, "logit_bias": [[1, -2]]}"""));
    }

    @Test
    void refusesToSayTwoThings() {
        ChatRequest request = ChatRequest.builder()
                .messages(UserMessage.from("hi"))
                .parameters(KvfoldChatRequestParameters.builder()
                        .temperature(1.0)
                        .option("temperature", 2)
                        .build())
                .build();

        assertThatThrownBy(() -> mapper.toBody(request, false))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("option 'temperature'");
    }

    @Test
    void leavesOutWhatIsNotSet() {
        assertThat(mapper.toBody(
                        ChatRequest.builder().messages(UserMessage.from("hi")).build(), false))
                .isEqualTo(json("{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}], \"stream\": false}"));
    }

    @Test
    void mapsAConversationWithTools() {
        List<ChatMessage> messages = List.of(
                SystemMessage.from("be brief"),
                UserMessage.from("Ann", "weather?"),
                AiMessage.builder()
                        .text("let me see")
                        .thinking("hm")
                        .toolExecutionRequests(List.of(
                                ToolExecutionRequest.builder()
                                        .id("1")
                                        .name("f")
                                        .arguments("{\"a\":1}")
                                        .build(),
                                ToolExecutionRequest.builder().name("g").build()))
                        .build(),
                ToolExecutionResultMessage.from("1", "f", "sunny"),
                ToolExecutionResultMessage.builder()
                        .toolName("g")
                        .contents(List.of(TextContent.from("a"), TextContent.from("b")))
                        .build());

        JsonNode expected = json("""
                [{"role": "system", "content": "be brief"},
                 {"role": "user", "name": "Ann", "content": "weather?"},
                 {"role": "assistant", "content": "let me see", "tool_calls": [
                   {"type": "function", "id": "1", "function": {"name": "f", "arguments": "{\\"a\\":1}"}},
                   {"type": "function", "function": {"name": "g", "arguments": "{}"}}]},
                 {"role": "tool", "tool_call_id": "1", "name": "f", "content": "sunny"},
                 {"role": "tool", "name": "g", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]""");
        assertThat(mapper.messages(messages)).isEqualTo(expected);

        JsonNode withThinking = new ChatRequestMapper(TEXT_MODEL, true).messages(messages);
        assertThat(withThinking.get(2).path("reasoning_content").asText()).isEqualTo("hm");
    }

    @Test
    void mapsToolsAndTheirChoice() {
        ToolSpecification f = ToolSpecification.builder()
                .name("f")
                .description("does f")
                .parameters(JsonObjectSchema.builder()
                        .addStringProperty("a")
                        .addProperty("map", JsonObjectSchema.builder().build())
                        .addProperty(
                                "open",
                                JsonObjectSchema.builder()
                                        .addStringProperty("x")
                                        .additionalProperties(true)
                                        .build())
                        .required("a")
                        .build())
                .build();
        ToolSpecification g = ToolSpecification.builder().name("g").build();
        ToolSpecification h = ToolSpecification.builder()
                .name("h")
                .parameters(JsonObjectSchema.builder().build())
                .build();

        JsonNode body = body(KvfoldChatRequestParameters.builder()
                .toolSpecifications(f, g, h)
                .toolChoice(ToolChoice.REQUIRED)
                .parallelToolCalls(false)
                .build());

        assertThat(body.path("tool_choice").asText()).isEqualTo("required");
        assertThat(body.path("parallel_tool_calls").asBoolean(true)).isFalse();
        assertThat(body.path("tools")).isEqualTo(json("""
                [{"type": "function", "function": {"name": "f", "description": "does f", "parameters": {
                    "type": "object", "properties": {
                      "a": {"type": "string"},
                      "map": {"type": "object"},
                      "open": {"type": "object", "properties": {"x": {"type": "string"}}, "additionalProperties": true}},
                    "required": ["a"]}}},
                 {"type": "function", "function": {"name": "g", "parameters": {"type": "object", "properties": {}}}},
                 {"type": "function", "function": {"name": "h", "parameters": {"type": "object", "properties": {}}}}]"""));
    }

    @Test
    void mapsRecursiveAndRawSchemas() {
        JsonObjectSchema node = JsonObjectSchema.builder()
                .addProperty(
                        "children",
                        JsonArraySchema.builder()
                                .items(JsonReferenceSchema.builder()
                                        .reference("node")
                                        .build())
                                .build())
                .build();
        JsonNode recursive = schema(JsonObjectSchema.builder()
                .addProperty(
                        "root", JsonReferenceSchema.builder().reference("node").build())
                .definitions(Map.of("node", node))
                .build());

        assertThat(recursive).isEqualTo(json("""
                {"type": "object", "properties": {"root": {"$ref": "#/$defs/node"}},
                 "$defs": {"node": {"type": "object", "properties": {
                   "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}}}"""));
        assertThat(schema(JsonRawSchema.from("{\"type\": \"string\", \"pattern\": \"a+\"}")))
                .isEqualTo(json("{\"type\": \"string\", \"pattern\": \"a+\"}"));
    }

    @Test
    void mapsJsonMode() {
        JsonNode body = body(ChatRequestParameters.builder()
                .responseFormat(ResponseFormat.JSON)
                .build());

        assertThat(body.path("response_format")).isEqualTo(json("{\"type\": \"json_object\"}"));
        assertThat(body(ChatRequestParameters.builder()
                                .responseFormat(ResponseFormat.TEXT)
                                .build())
                        .has("response_format"))
                .isFalse();
    }

    static Stream<Arguments> invalid() {
        return Stream.of(
                Arguments.of(common().temperature(-0.1).build(), "temperature must be at least 0, but is -0.1"),
                Arguments.of(common().temperature(Double.NaN).build(), "temperature"),
                Arguments.of(common().topP(1.1).build(), "topP must be in [0, 1], but is 1.1"),
                Arguments.of(common().topK(-1).build(), "topK must be at least 0, but is -1"),
                Arguments.of(common().frequencyPenalty(Double.POSITIVE_INFINITY).build(), "frequencyPenalty"),
                Arguments.of(common().presencePenalty(Double.NaN).build(), "presencePenalty"),
                Arguments.of(common().maxOutputTokens(0).build(), "maxOutputTokens must be at least 1, but is 0"),
                Arguments.of(common().stopSequences("a", "").build(), "stopSequences"),
                Arguments.of(common().seed(-1).build(), "seed must be at least 0, but is -1"),
                Arguments.of(common().minP(2.0).build(), "minP must be in [0, 1], but is 2.0"),
                Arguments.of(common().repeatPenalty(0.0).build(), "repeatPenalty"),
                Arguments.of(common().option("messages", List.of()).build(), "option 'messages'"),
                Arguments.of(common().option("x", new Object()).build(), "option 'x'"),
                Arguments.of(
                        common().grammar("root ::= \"x\"")
                                .responseFormat(ResponseFormat.JSON)
                                .build(),
                        "grammar"));
    }

    @ParameterizedTest
    @MethodSource("invalid")
    void refusesValuesThatLlamaServerWouldClampOrDrop(ChatRequestParameters parameters, String message) {
        assertThatThrownBy(() -> mapper.validate(parameters))
                .isExactlyInstanceOf(InvalidRequestException.class)
                .hasMessageContaining(message);
    }

    static Stream<Arguments> unsupported() {
        return Stream.of(
                Arguments.of(UserMessage.from(ImageContent.from("AAAA", "image/png")), "image"),
                Arguments.of(UserMessage.from(AudioContent.from("AAAA", "audio/wav")), "audio"),
                Arguments.of(CustomMessage.from(Map.of("a", "b")), "CUSTOM"),
                Arguments.of(
                        ToolExecutionResultMessage.builder()
                                .id("1")
                                .toolName("f")
                                .contents(List.of(ImageContent.from("AAAA", "image/png")))
                                .build(),
                        "non-text content"));
    }

    @ParameterizedTest
    @MethodSource("unsupported")
    void refusesContentThatTheModelCannotTake(ChatMessage message, String what) {
        assertThatThrownBy(() -> mapper.messages(List.of(message)))
                .isExactlyInstanceOf(UnsupportedFeatureException.class)
                .hasMessageContaining(what)
                .hasMessageContaining("not support");
    }

    @Test
    void sendsImagesToAModelThatSees() {
        JsonNode content = new ChatRequestMapper(new ModelFacts("own", true, false), false)
                .messages(List.of(UserMessage.from(TextContent.from("what?"), ImageContent.from("AAAA", "image/png"))))
                .get(0)
                .path("content");

        assertThat(content).isEqualTo(json("""
                [{"type": "text", "text": "what?"},
                 {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]"""));
    }

    @Test
    void refusesToolsThatTheTemplateWouldDrop() {
        ChatRequestMapper withoutTools = new ChatRequestMapper(new ModelFacts("own", false, false), false);
        ToolSpecification tool = ToolSpecification.builder().name("f").build();

        assertThatThrownBy(() ->
                        withoutTools.validate(common().toolSpecifications(tool).build()))
                .isExactlyInstanceOf(UnsupportedFeatureException.class)
                .hasMessageContaining("tool")
                .hasMessageContaining("not support");
        withoutTools.validate(
                common().toolSpecifications(tool).toolChoice(ToolChoice.NONE).build());
    }

    @Test
    void refusesASchemaThatIsNoJson() {
        assertThatThrownBy(() -> schema(JsonRawSchema.from("{type:")))
                .isExactlyInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("response format");
    }

    private static KvfoldChatRequestParameters.Builder common() {
        return KvfoldChatRequestParameters.builder();
    }

    private JsonNode body(ChatRequestParameters parameters) {
        return mapper.toBody(
                ChatRequest.builder()
                        .messages(UserMessage.from("hi"))
                        .parameters(parameters)
                        .build(),
                true);
    }

    private JsonNode schema(JsonSchemaElement root) {
        JsonNode format = body(ChatRequestParameters.builder()
                        .responseFormat(ResponseFormat.builder()
                                .type(ResponseFormatType.JSON)
                                .jsonSchema(JsonSchema.builder()
                                        .name("Answer")
                                        .rootElement(root)
                                        .build())
                                .build())
                        .build())
                .path("response_format");
        assertThat(format.path("type").asText()).isEqualTo("json_schema");
        assertThat(format.path("json_schema").path("name").asText()).isEqualTo("Answer");
        return format.path("json_schema").path("schema");
    }

    private static JsonNode json(String text) {
        try {
            return new ObjectMapper().readTree(text);
        } catch (JsonProcessingException e) {
            throw new IllegalArgumentException(e);
        }
    }

    @Test
    void goesOnFromWhatTheModelHasThought() throws JsonProcessingException {
        ObjectNode body = (ObjectNode)
                ChatRequestMapper.JSON_MAPPER.readTree("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}");

        assertThat(ChatRequestMapper.after(" ", body)).isSameAs(body);
        assertThat(ChatRequestMapper.after("hm", body)).isEqualTo(ChatRequestMapper.JSON_MAPPER.readTree("""
                        {"messages": [{"role": "user", "content": "a"},
                                      {"role": "assistant", "content": "", "reasoning_content": "hm"}],
                         "continue_final_message": "content", "add_generation_prompt": false}"""));
    }
}
