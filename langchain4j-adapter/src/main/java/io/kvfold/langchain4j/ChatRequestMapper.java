package io.kvfold.langchain4j;

import static dev.langchain4j.model.chat.request.ResponseFormatType.JSON;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import dev.langchain4j.agent.tool.ToolExecutionRequest;
import dev.langchain4j.agent.tool.ToolSpecification;
import dev.langchain4j.data.image.Image;
import dev.langchain4j.data.message.AiMessage;
import dev.langchain4j.data.message.ChatMessage;
import dev.langchain4j.data.message.Content;
import dev.langchain4j.data.message.ContentType;
import dev.langchain4j.data.message.ImageContent;
import dev.langchain4j.data.message.SystemMessage;
import dev.langchain4j.data.message.TextContent;
import dev.langchain4j.data.message.ToolExecutionResultMessage;
import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.exception.InvalidRequestException;
import dev.langchain4j.exception.UnsupportedFeatureException;
import dev.langchain4j.internal.JsonSchemaElementJsonUtils;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.request.ChatRequestParameters;
import dev.langchain4j.model.chat.request.ResponseFormat;
import dev.langchain4j.model.chat.request.ToolChoice;
import dev.langchain4j.model.chat.request.json.JsonSchema;
import dev.langchain4j.model.chat.request.json.JsonSchemaElement;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import org.jspecify.annotations.Nullable;

/**
 * A {@link ChatRequest} as the body of llama-server's {@code /v1/chat/completions} (tools/server/README.md of llama.cpp).
 *
 * <p>What llama-server would clamp or drop without a word is refused here.
 */
final class ChatRequestMapper {

    static final ObjectMapper JSON_MAPPER = new ObjectMapper();

    /** A response format that is told to the model and not held by a grammar. */
    private static final String ANSWER_FORMAT = "answer_format";

    /** What the answer's reader relies on. */
    private static final Set<String> RESERVED = Set.of(
            "messages",
            "prompt",
            "stream",
            "stream_options",
            "n",
            "tools",
            "tool_choice",
            "response_format",
            ANSWER_FORMAT,
            "json_schema");

    private final ModelFacts model;
    private final boolean sendThinking;

    /** @param sendThinking whether the thinking of earlier answers goes back to the model */
    ChatRequestMapper(ModelFacts model, boolean sendThinking) {
        this.model = model;
        this.sendThinking = sendThinking;
    }

    ObjectNode toBody(ChatRequest request, boolean stream) {
        ChatRequestParameters parameters = request.parameters();
        validate(parameters);
        if (parameters.toolChoice() == ToolChoice.REQUIRED
                && parameters.toolSpecifications().isEmpty()) {
            throw new InvalidRequestException("ToolChoice.REQUIRED needs at least one tool specification");
        }
        ObjectNode body = JSON_MAPPER.createObjectNode();
        body.set("messages", messages(request.messages()));
        body.put("stream", stream);
        if (stream) {
            body.putObject("stream_options").put("include_usage", true);
        }
        putSampling(body, parameters);
        putTools(body, parameters);
        putResponseFormat(body, parameters.responseFormat());
        putOptions(body, parameters);
        return body;
    }

    /**
     * What a request with tools as well as a JSON response format asks first: llama.cpp's grammar of a response format leaves
     * no room for a tool call, so calls are asked for without it. The prompt is that of the other request. Null for requests of
     * one kind only.
     */
    @Nullable
    ObjectNode toCallingBody(ChatRequest request) {
        if (!usesTools(request.parameters()) || !isJson(request.parameters().responseFormat())) {
            return null;
        }
        ObjectNode body = toBody(request, !mustCall(request));
        body.set(ANSWER_FORMAT, body.remove("response_format"));
        return body;
    }

    /** The request for the answer to what the model has thought already. */
    static ObjectNode after(String thinking, ObjectNode body) {
        if (thinking.isBlank()) {
            return body;
        }
        ObjectNode continued = body.deepCopy();
        continued
                .withArray("messages")
                .addObject()
                .put("role", "assistant")
                .put("content", "")
                .put("reasoning_content", thinking);
        return continued.put("continue_final_message", "content").put("add_generation_prompt", false);
    }

    boolean mustCall(ChatRequest request) {
        return request.parameters().toolChoice() == ToolChoice.REQUIRED;
    }

    /** Throws for what no request to this model may hold; also asked of a builder's defaults. */
    void validate(ChatRequestParameters parameters) {
        Errors.checkModelName(parameters.modelName(), model.name());
        if (usesTools(parameters) && !model.tools()) {
            throw new UnsupportedFeatureException("'toolSpecifications' parameter is not supported by model '"
                    + model.name() + "': its chat template does not describe tools");
        }
        checkRange("temperature", parameters.temperature(), 0, Double.MAX_VALUE);
        checkRange("topP", parameters.topP(), 0, 1);
        checkRange("topK", parameters.topK(), 0, Integer.MAX_VALUE);
        checkRange("frequencyPenalty", parameters.frequencyPenalty(), -Double.MAX_VALUE, Double.MAX_VALUE);
        checkRange("presencePenalty", parameters.presencePenalty(), -Double.MAX_VALUE, Double.MAX_VALUE);
        checkRange("maxOutputTokens", parameters.maxOutputTokens(), 1, Integer.MAX_VALUE);
        if (parameters.stopSequences().stream().anyMatch(String::isEmpty)) {
            throw new InvalidRequestException("stopSequences holds an empty string, which would match everywhere");
        }
        if (parameters instanceof KvfoldChatRequestParameters ours) {
            checkRange("seed", ours.seed(), 0, Integer.MAX_VALUE);
            checkRange("minP", ours.minP(), 0, 1);
            checkRange("repeatPenalty", ours.repeatPenalty(), Double.MIN_VALUE, Double.MAX_VALUE);
            ours.options().forEach((name, value) -> {
                if (RESERVED.contains(name)) {
                    throw setElsewhere(name);
                }
                optionValue(name, value);
            });
            if (ours.grammar() != null && (isJson(ours.responseFormat()) || usesTools(ours))) {
                throw new InvalidRequestException(
                        "grammar cannot be combined with tools or a JSON response format, which are grammars themselves");
            }
        }
        checkToolNames(parameters.toolSpecifications());
    }

    /** Of two tools with one name the grammar would know one. */
    private static void checkToolNames(List<ToolSpecification> tools) {
        Set<String> names = new HashSet<>();
        for (ToolSpecification tool : tools) {
            if (!names.add(tool.name())) {
                throw new InvalidRequestException("two tool specifications have the name '" + tool.name() + "'");
            }
        }
    }

    private static void checkRange(String name, @Nullable Number value, double least, double most) {
        if (value == null) {
            return;
        }
        double number = value.doubleValue();
        if (!(number >= least && number <= most)) {
            throw new InvalidRequestException(
                    most >= Integer.MAX_VALUE
                            ? "%s must be at least %s, but is %s".formatted(name, plain(least), value)
                            : "%s must be in [%s, %s], but is %s".formatted(name, plain(least), plain(most), value));
        }
    }

    private static String plain(double limit) {
        return limit == Math.rint(limit) && Math.abs(limit) < 1e9
                ? Long.toString((long) limit)
                : Double.toString(limit);
    }

    private static boolean isJson(@Nullable ResponseFormat format) {
        return format != null && format.type() == JSON;
    }

    private static boolean usesTools(ChatRequestParameters parameters) {
        return !parameters.toolSpecifications().isEmpty() && parameters.toolChoice() != ToolChoice.NONE;
    }

    static void putSampling(ObjectNode body, ChatRequestParameters parameters) {
        putNumber(body, "temperature", parameters.temperature());
        putNumber(body, "top_p", parameters.topP());
        putNumber(body, "top_k", parameters.topK());
        putNumber(body, "frequency_penalty", parameters.frequencyPenalty());
        putNumber(body, "presence_penalty", parameters.presencePenalty());
        putNumber(body, "max_tokens", parameters.maxOutputTokens());
        if (!parameters.stopSequences().isEmpty()) {
            ArrayNode stop = body.putArray("stop");
            parameters.stopSequences().forEach(stop::add);
        }
        if (parameters instanceof KvfoldChatRequestParameters ours) {
            putNumber(body, "seed", ours.seed());
            putNumber(body, "min_p", ours.minP());
            putNumber(body, "repeat_penalty", ours.repeatPenalty());
            putText(body, "grammar", ours.grammar());
            putText(body, "cache_salt", ours.cacheSalt());
            if (ours.enableThinking() != null) {
                body.putObject("chat_template_kwargs").put("enable_thinking", ours.enableThinking());
            }
            if (ours.parallelToolCalls() != null) {
                body.put("parallel_tool_calls", ours.parallelToolCalls());
            }
        }
    }

    /** Fields that no setter has; what a setter has said cannot be said twice. */
    static void putOptions(ObjectNode body, ChatRequestParameters parameters) {
        if (!(parameters instanceof KvfoldChatRequestParameters ours)) {
            return;
        }
        ours.options().forEach((name, value) -> {
            if (body.has(name)) {
                throw setElsewhere(name);
            }
            body.set(name, optionValue(name, value));
        });
    }

    private static InvalidRequestException setElsewhere(String option) {
        return new InvalidRequestException("option '" + option + "' of a request is set by other means");
    }

    private static JsonNode optionValue(String name, Object value) {
        try {
            return JSON_MAPPER.valueToTree(value);
        } catch (IllegalArgumentException e) {
            throw new InvalidRequestException("option '" + name + "' of a request is no JSON value: " + value, e);
        }
    }

    private static void putNumber(ObjectNode body, String key, @Nullable Number value) {
        if (value instanceof Integer number) {
            body.put(key, number.intValue());
        } else if (value != null) {
            body.put(key, value.doubleValue());
        }
    }

    private static void putText(ObjectNode node, String key, @Nullable String value) {
        if (value != null) {
            node.put(key, value);
        }
    }

    private static void putTools(ObjectNode body, ChatRequestParameters parameters) {
        if (parameters.toolSpecifications().isEmpty()) {
            return;
        }
        ArrayNode tools = body.putArray("tools");
        for (ToolSpecification tool : parameters.toolSpecifications()) {
            ObjectNode function = tools.addObject().put("type", "function").putObject("function");
            function.put("name", tool.name());
            putText(function, "description", tool.description());
            function.set("parameters", parameters(tool));
        }
        if (parameters.toolChoice() != null) {
            body.put("tool_choice", parameters.toolChoice().name().toLowerCase(Locale.ROOT));
        }
    }

    /** A schema without properties means any object, which for the arguments of a tool means none. */
    private static ObjectNode parameters(ToolSpecification tool) {
        if (tool.parameters() == null) {
            ObjectNode none = JSON_MAPPER.createObjectNode().put("type", "object");
            none.putObject("properties");
            return none;
        }
        ObjectNode schema = schema(tool.parameters(), "the parameters of tool '" + tool.name() + "'");
        if (!schema.has("properties") && !schema.has("additionalProperties")) {
            schema.putObject("properties");
        }
        return schema;
    }

    /** Strict in any case, since the grammar made of it lets nothing else through. */
    private static ObjectNode schema(JsonSchemaElement element, String where) {
        try {
            return JSON_MAPPER.valueToTree(JsonSchemaElementJsonUtils.toMap(element));
        } catch (RuntimeException e) {
            String why = e.getCause() instanceof JsonProcessingException broken
                    ? broken.getOriginalMessage()
                    : e.getMessage();
            throw new InvalidRequestException("no valid JSON schema in " + where + ": " + why, e);
        }
    }

    private static void putResponseFormat(ObjectNode body, @Nullable ResponseFormat format) {
        if (format == null || !isJson(format)) {
            return;
        }
        ObjectNode target = body.putObject("response_format");
        JsonSchema schema = format.jsonSchema();
        if (schema == null) {
            target.put("type", "json_object");
            return;
        }
        target.put("type", "json_schema");
        ObjectNode wrapper = target.putObject("json_schema");
        putText(wrapper, "name", schema.name());
        wrapper.set("schema", schema(schema.rootElement(), "the response format"));
    }

    ArrayNode messages(Iterable<ChatMessage> messages) {
        ArrayNode array = JSON_MAPPER.createArrayNode();
        for (ChatMessage message : messages) {
            array.add(message(message));
        }
        return array;
    }

    private ObjectNode message(ChatMessage message) {
        ObjectNode node = JSON_MAPPER.createObjectNode();
        if (message instanceof SystemMessage system) {
            return node.put("role", "system").put("content", system.text());
        }
        if (message instanceof UserMessage user) {
            putText(node.put("role", "user"), "name", user.name());
            return node.set("content", content(user.contents(), "a user message"));
        }
        if (message instanceof AiMessage answer) {
            return assistant(node, answer);
        }
        if (message instanceof ToolExecutionResultMessage result) {
            putText(node.put("role", "tool"), "tool_call_id", result.id());
            putText(node, "name", result.toolName());
            return node.set("content", content(result.contents(), "a tool result"));
        }
        throw Errors.unsupported("A chat message of type " + message.type());
    }

    private ObjectNode assistant(ObjectNode node, AiMessage answer) {
        node.put("role", "assistant").put("content", answer.text() == null ? "" : answer.text());
        if (sendThinking) {
            putText(node, "reasoning_content", answer.thinking());
        }
        if (answer.hasToolExecutionRequests()) {
            ArrayNode calls = node.putArray("tool_calls");
            for (ToolExecutionRequest request : answer.toolExecutionRequests()) {
                ObjectNode call = calls.addObject().put("type", "function");
                putText(call, "id", request.id());
                call.putObject("function").put("name", request.name()).put("arguments", arguments(request));
            }
        }
        return node;
    }

    /** An object in any case: llama.cpp refuses others, as of a call that the limit of an answer cut short. */
    private static String arguments(ToolExecutionRequest request) {
        String arguments = request.arguments();
        if (arguments == null || arguments.isBlank()) {
            return "{}";
        }
        try {
            if (JSON_MAPPER.readTree(arguments).isObject()) {
                return arguments;
            }
        } catch (JsonProcessingException e) {
            // the same as another value
        }
        return JSON_MAPPER
                .createObjectNode()
                .put("invalid_arguments", arguments)
                .toString();
    }

    private JsonNode content(List<Content> contents, String where) {
        if (contents.size() == 1 && contents.get(0) instanceof TextContent text) {
            return JSON_MAPPER.getNodeFactory().textNode(text.text());
        }
        ArrayNode parts = JSON_MAPPER.createArrayNode();
        for (Content content : contents) {
            if (content instanceof TextContent text) {
                parts.addObject().put("type", "text").put("text", text.text());
            } else if (content instanceof ImageContent image && model.vision()) {
                parts.addObject()
                        .put("type", "image_url")
                        .putObject("image_url")
                        .put("url", dataUrl(image.image()));
            } else {
                throw Errors.unsupported("Content of type " + name(content.type()) + " (non-text content) in " + where);
            }
        }
        return parts;
    }

    private static String dataUrl(Image image) {
        if (image.base64Data() == null) {
            throw Errors.unsupported("An image given by its URL (pass its bytes instead); reading from the network");
        }
        String type = image.mimeType() == null ? "image/jpeg" : image.mimeType();
        return "data:" + type + ";base64," + image.base64Data();
    }

    private static String name(ContentType type) {
        return type.name().toLowerCase(Locale.ROOT);
    }
}
