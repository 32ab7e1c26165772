package io.kvfold.langchain4j;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.networknt.schema.JsonSchemaFactory;
import com.networknt.schema.SpecVersion;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.Objects;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/**
 * Knows the answers to the questions of LangChain4j's conformance suites, and nothing else. What it says depends on the
 * request's body alone: a tool call takes its argument names from the schema of the request's tool, and JSON is given only
 * where the request's schema lets it through, with properties that are not named forbidden as in llama.cpp's grammars. So
 * a request that was mapped wrongly gets a wrong answer.
 */
final class ScriptedModel {

    /** A tool call with its arguments as JSON text, formatted as models like to format it. */
    record Call(String name, String arguments) {}

    /** One answer; {@code slow} takes a few milliseconds per token. */
    record Reply(
            String thinking,
            String text,
            List<Call> calls,
            boolean slow,
            @Nullable String error) {

        static Reply text(String text) {
            return new Reply("", text, List.of(), false, null);
        }

        static Reply calls(List<Call> calls) {
            return new Reply("", "", calls, false, null);
        }

        static Reply error(String message) {
            return new Reply("", "", List.of(), false, message);
        }
    }

    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Pattern SUM = Pattern.compile("(\\d+) plus (\\d+)");

    /** JSON answers by a part of the question; the first one that the schema accepts is given. */
    private static final List<JsonAnswer> JSON_ANSWERS = List.of(
            json("capital of Germany", "{\"city\": \"Berlin\"}"),
            json("weather in Munich? Use 'getWeather'", "{\"city\": \"Munich\", \"weather\": \"SUNNY\"}"),
            json("weather in Munich", "{\"weather\": \"sunny\"}"),
            json(
                    "Klaus is 37 years old, 1.78m height and single. Franny is 35 years old, 1.65m height and"
                            + " married.Staniel",
                    "{\"values\": [\"SINGLE\", \"MARRIED\", \"MARRIED\"]}"),
            json(
                    "Franny is 35 years old",
                    "{\"value\": 2}",
                    "{\"values\": [\"Klaus\", \"Franny\"]}",
                    "{\"values\": [{\"name\": \"Klaus\", \"age\": 37, \"height\": 1.78, \"married\": false},"
                            + " {\"name\": \"Franny\", \"age\": 35, \"height\": 1.65, \"married\": true}]}"),
            json(
                    "Klaus is 37 years old, 1.78m height and single",
                    "{\"name\": \"Klaus\", \"age\": 37, \"height\": 1.78, \"married\": false}",
                    "{\"value\": \"SINGLE\"}"),
            json("Klaus is a 37-year-old man", "{\"value\": true}"),
            json("Text: 'Klaus'", "{\"name\": \"Klaus\"}"),
            json(
                    "delivery to Langley Falls",
                    "{\"name\": \"Klaus\", \"shippingAddress\": {\"city\": \"Langley Falls\"},"
                            + " \"billingAddress\": {\"city\": \"New York\"}}"),
            json("Klaus is single", "{\"name\": \"Klaus\", \"maritalStatus\": \"SINGLE\"}"),
            json("Klaus likes orange and green", "{\"name\": \"Klaus\", \"favouriteColors\": [\"orange\", \"green\"]}"),
            json(
                    "Klaus has 2 pets",
                    "{\"name\": \"Klaus\", \"pets\": [{\"name\": \"Peanut\"}, {\"name\": \"Muffin\"}]}"),
            json("groups A and C", "{\"name\": \"Klaus\", \"groups\": [\"A\", \"C\"]}"),
            json(
                    "Klaus was born at 14:43",
                    "{\"name\": \"Klaus\", \"birthDate\": {\"year\": 1976, \"month\": 8, \"day\": 12},"
                            + " \"birthTime\": {\"hour\": 14, \"minute\": 43, \"second\": 0, \"nano\": 0},"
                            + " \"birthDateTime\": {\"date\": {\"year\": 1976, \"month\": 8, \"day\": 12},"
                            + " \"time\": {\"hour\": 14, \"minute\": 43, \"second\": 0, \"nano\": 0}}}"),
            json("text: Klaus and Francine", "{\"values\": [{\"name\": \"Klaus\"}, {\"name\": \"Francine\"}]}"),
            json("text: Klaus", "{\"name\": \"Klaus\"}"),
            json(
                    "Francine has 2 children",
                    "{\"name\": \"Francine\", \"children\": [{\"name\": \"Steve\", \"children\": []},"
                            + " {\"name\": \"Hayley\", \"children\": []}]}"),
            json("567b229a", "{\"name\": \"Klaus\", \"id\": \"567b229a-6b0a-4f1e-9006-448cd9dfbfda\"}"),
            json("coldest month", "{\"value\": -0.5}"),
            json("Berlin was sunny and windy", "{\"values\": [\"SUNNY\", \"WINDY\", \"RAINY\", \"CLOUDY\"]}"),
            json(
                    "Rex is a Labrador dog",
                    "{\"value\": {\"type\": \"Dog\", \"name\": \"Rex\", \"breed\": \"Labrador\"}}"),
            json(
                    "Rex is a Labrador. Whiskers",
                    "{\"values\": [{\"type\": \"Dog\", \"name\": \"Rex\", \"breed\": \"Labrador\"},"
                            + " {\"type\": \"Cat\", \"name\": \"Whiskers\", \"indoor\": true}]}"),
            json(
                    "Alice owns a Labrador",
                    "{\"name\": \"Alice\", \"pet\": {\"type\": \"Dog\", \"name\": \"Rex\", \"breed\": \"Labrador\"}}"),
            json(
                    "literal expression 1+2+3",
                    "{\"value\": {\"type\": \"Addition\", \"left\": {\"type\": \"Addition\", \"left\": {\"type\":"
                            + " \"Constant\", \"value\": 1}, \"right\": {\"type\": \"Constant\", \"value\": 2}}, \"right\":"
                            + " {\"type\": \"Constant\", \"value\": 3}}}"));

    /** Tool calls by a part of the question: what is called in each round, and with which arguments, in their order. */
    private static final List<ToolPlan> TOOL_PLANS = List.of(
            plan("weather in Munich and time in France", round(use("getWeather", "Munich"), use("getTime", "France"))),
            plan("weather in Munich", round(use("getWeather", "Munich"))),
            plan("I live in Munich", round(use("getWeather", "Munich"))),
            plan("get_current_time", round(use("get_current_time"))),
            plan("What is the time now", round(use("currentTime"))),
            plan("date today", round(use("currentDate"))),
            plan("Call 2 tools in parallel", round(use("add", 37, 87), use("add", 73, 78))),
            plan("First add 2 and 3", round(use("add", 2, 3)), round(use("multiply", 5, 4))),
            plan("37 plus 87", round(use("add", 37, 87))),
            plan("Now add 47", round(use("add", 124, 47))),
            plan("argument '7'", round(use("modify", 7))),
            plan("takePhoto tool", round(use("takePhoto"))),
            plan("temperature in Munich in celsius", round(use("currentTemperature", "Munich", "CELSIUS"))),
            plan("username with ID", round(use("getUsernameFromId", "62dbcc27-aaf3-449a-b12d-5a904271a57f"))),
            plan("integers: 37, 73", round(use("processNumbers", List.of(37, 73)))),
            plan("names: Klaus and Franny", round(use("processNames", List.of("Klaus", "Franny")))),
            plan("colors: RED and GREEN", round(use("process", List.of("RED", "GREEN")))),
            plan(
                    "people: Klaus and Franny",
                    round(use("process", tree("[{\"name\":\"Klaus\"},{\"name\":\"Franny\"}]")))),
            plan("Klaus is 42 years old", round(use("process", tree("{\"Klaus\":42,\"Francine\":47}")))),
            plan(
                    "Klaus is 37 years old",
                    round(use("process", tree("{\"name\":\"Klaus\",\"age\":37,\"height\":1.78,\"married\":false}")))),
            plan(
                    "Klaus lives in Langley Falls",
                    round(use("process", tree("{\"name\":\"Klaus\",\"address\":{\"city\":\"Langley Falls\"}}")))),
            plan(
                    "Francine has 2 children",
                    round(
                            use(
                                    "process",
                                    tree(
                                            "{\"name\":\"Francine\",\"children\":[{\"name\":\"Steve\",\"children\":[]},{\"name\":\"Hayley\",\"children\":[]}]}")))));

    Reply reply(JsonNode body) {
        List<JsonNode> messages = new ArrayList<>();
        body.path("messages").forEach(messages::add);
        int lastUser = last(messages, "user");
        String question = lastUser < 0 ? "" : text(messages.get(lastUser));
        List<JsonNode> since = messages.subList(lastUser + 1, messages.size());

        if (question.contains("will fail")) {
            return Reply.error("the template refuses it");
        }
        if (!matchesItsCalls(since)) {
            return Reply.error("a tool result that no call asked for: " + since);
        }
        List<Call> calls = calls(body, question, since);
        if (!calls.isEmpty()) {
            return Reply.calls(calls);
        }
        if (body.path("tool_choice").asText().equals("required")) {
            return Reply.error("no plan for a required tool call: " + question);
        }
        if (body.path("response_format").path("type").asText().startsWith("json")) {
            return json(question, body.path("response_format"));
        }
        List<String> results = new ArrayList<>();
        for (JsonNode message : since) {
            if (message.path("role").asText().equals("tool")) {
                results.add(text(message));
            }
        }
        if (!results.isEmpty()) {
            return Reply.text("The tools say: " + String.join(" and ", results) + ".");
        }
        return speak(question, messages);
    }

    private static Reply speak(String question, List<JsonNode> messages) {
        String system = messages.isEmpty() ? "" : text(messages.get(0));
        if (question.contains("How much is 2 + 2")) {
            return Reply.text("The capital of Germany is Berlin, and 2 + 2 equals 4.");
        }
        if (question.contains("capital of Germany")) {
            return new Reply(
                    "The user asks for a capital.", "The capital of Germany is Berlin.", List.of(), false, null);
        }
        if (system.contains("into German") && question.contains("I love you")) {
            return Reply.text("Ich liebe dich");
        }
        if (question.contains("favorite color")) {
            Matcher said = Pattern.compile("color is (\\w+)").matcher(text(messages.get(0)));
            return Reply.text(said.find() ? "Your favorite color is " + said.group(1) + "." : "I do not know it.");
        }
        if (question.contains("What do you see")) {
            return Reply.text("I see " + question.substring(question.indexOf('<')));
        }
        if (question.contains("Say 'Hello World'")) {
            return Reply.text("Hello World");
        }
        if (question.contains("long story")) {
            return new Reply("", "There was a fox who met a bear. ".repeat(200), List.of(), true, null);
        }
        Matcher sum = SUM.matcher(question);
        if (sum.find()) {
            return Reply.text(String.valueOf(Integer.parseInt(sum.group(1)) + Integer.parseInt(sum.group(2))));
        }
        return Reply.text("Hello! You said: " + question);
    }

    // ---- tools

    private static List<Call> calls(JsonNode body, String question, List<JsonNode> since) {
        if (body.path("tools").isEmpty()
                || body.has("response_format") // whose grammar leaves no room for a call
                || body.path("tool_choice").asText("auto").equals("none")) {
            return List.of();
        }
        if (question.contains("I live in") && !body.path("tool_choice").asText().equals("required")) {
            return List.of();
        }
        int round = (int) since.stream()
                .filter(message -> message.path("role").asText().equals("assistant"))
                .count();
        for (ToolPlan plan : TOOL_PLANS) {
            if (question.contains(plan.question())) {
                return round < plan.rounds().size()
                        ? plan.rounds().get(round).stream()
                                .map(use -> call(use, body))
                                .toList()
                        : List.of();
            }
        }
        return List.of();
    }

    /** Whether every tool result names a call of the message before. */
    private static boolean matchesItsCalls(List<JsonNode> messages) {
        Set<String> asked = new HashSet<>();
        for (JsonNode message : messages) {
            message.path("tool_calls").forEach(call -> asked.add(call.path("id").asText()));
            if (message.path("role").asText().equals("tool")
                    && !asked.remove(message.path("tool_call_id").asText("none"))) {
                return false;
            }
        }
        return true;
    }

    private static Call call(ToolUse use, JsonNode body) {
        for (JsonNode tool : body.path("tools")) {
            JsonNode function = tool.path("function");
            if (function.path("name").asText().equals(use.name())) {
                JsonNode parameters = function.path("parameters");
                ObjectNode arguments = JSON.createObjectNode();
                Iterator<String> names = parameters.path("properties").fieldNames();
                use.arguments().forEach(value -> arguments.set(names.next(), JSON.valueToTree(value)));
                if (!accepts(parameters, arguments)) {
                    throw new AssertionError(arguments + " does not match the tool's parameters " + parameters);
                }
                return new Call(use.name(), pretty(arguments));
            }
        }
        throw new AssertionError("no tool " + use.name() + " in " + body);
    }

    // ---- JSON

    private static Reply json(String question, JsonNode format) {
        JsonNode schema = format.path("json_schema").path("schema");
        for (JsonAnswer answer : JSON_ANSWERS) {
            if (question.contains(answer.question())) {
                for (JsonNode candidate : answer.candidates()) {
                    if (schema.isMissingNode() || accepts(schema, candidate)) {
                        return Reply.text(pretty(candidate));
                    }
                }
                throw new AssertionError("no answer to '" + question + "' matches " + schema);
            }
        }
        throw new AssertionError("no JSON answer to " + question);
    }

    private static boolean accepts(JsonNode schema, JsonNode value) {
        return JsonSchemaFactory.getInstance(SpecVersion.VersionFlag.V202012)
                .getSchema(closed(schema.deepCopy()))
                .validate(value)
                .isEmpty();
    }

    /** As json-schema-to-grammar reads a schema: what is not among the properties is forbidden. */
    private static JsonNode closed(JsonNode schema) {
        if (schema instanceof ObjectNode object) {
            object.remove("$schema");
            if (object.path("properties").isObject()
                    && object.path("type").asText().equals("object")
                    && !object.has("additionalProperties")) {
                object.put("additionalProperties", false);
            }
        }
        schema.forEach(ScriptedModel::closed);
        return schema;
    }

    private static String pretty(JsonNode json) {
        return json.toPrettyString();
    }

    // ---- reading a request

    private static int last(List<JsonNode> messages, String role) {
        for (int i = messages.size() - 1; i >= 0; i--) {
            if (messages.get(i).path("role").asText().equals(role)) {
                return i;
            }
        }
        return -1;
    }

    /** A message's content, whether it is a text or an array of parts. */
    static String text(JsonNode message) {
        JsonNode content = message.path("content");
        if (content.isTextual()) {
            return content.asText();
        }
        StringBuilder text = new StringBuilder();
        for (JsonNode part : content) {
            text.append(
                    part.path("type").asText().equals("image_url")
                            ? " " + picture(part.path("image_url").path("url").asText())
                            : part.path("text").asText());
        }
        return text.toString();
    }

    /** What the suites' pictures show; recognised by their bytes. */
    private static String picture(String dataUrl) {
        String prefix = "data:image/jpeg;base64,";
        if (dataUrl.startsWith(prefix)) {
            byte[] bytes = Base64.getDecoder().decode(dataUrl.substring(prefix.length()));
            for (String name : List.of("cat", "dice")) {
                if (Arrays.equals(bytes, image(name))) {
                    return "<a picture of a " + name + ">";
                }
            }
        }
        return "<an unknown picture>";
    }

    /** A picture of LangChain4j's test artifact, as JPEG. */
    static byte[] image(String name) {
        try (InputStream in = ScriptedModel.class.getResourceAsStream("/images/" + name + ".jpg")) {
            return Objects.requireNonNull(in).readAllBytes();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    // ---- the script

    private record JsonAnswer(String question, List<JsonNode> candidates) {}

    private record ToolUse(String name, List<?> arguments) {}

    private record ToolPlan(String question, List<List<ToolUse>> rounds) {}

    private static JsonAnswer json(String question, String... candidates) {
        List<JsonNode> trees = new ArrayList<>();
        for (String candidate : candidates) {
            trees.add(tree(candidate));
        }
        return new JsonAnswer(question, trees);
    }

    @SafeVarargs
    private static ToolPlan plan(String question, List<ToolUse>... rounds) {
        return new ToolPlan(question, List.of(rounds));
    }

    private static List<ToolUse> round(ToolUse... uses) {
        return List.of(uses);
    }

    private static ToolUse use(String name, Object... arguments) {
        return new ToolUse(name, List.of(arguments));
    }

    private static JsonNode tree(String json) {
        try {
            return JSON.readTree(json);
        } catch (JsonProcessingException e) {
            throw new IllegalArgumentException(e);
        }
    }
}
