package io.kvfold.langchain4j;

import static io.kvfold.ScriptedEngine.chunk;
import static io.kvfold.ScriptedEngine.fail;
import static io.kvfold.ScriptedEngine.pause;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.ScriptedEngine;
import io.kvfold.ScriptedEngine.Step;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * llama-server without a model: takes its requests, gives its chunks (as {@code to_json_oaicompat_chat} and
 * {@code to_json_oaicompat_chat_stream} of tools/server/server-task.cpp write them), and lets a {@link ScriptedModel} know
 * the answers. It counts tokens, obeys {@code max_tokens}, {@code stop}, {@code tools}, {@code tool_choice} and
 * {@code response_format}, and rejects what llama-server rejects.
 */
final class FakeLlamaServer implements ScriptedEngine.Script {

    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Pattern TOKEN = Pattern.compile("\\s*[^\\s\\w]|\\s*\\w{1,6}|\\s+");
    private static final int INVALID_ARGUMENT = -1;
    private static final String PROPS = """
            {"model_alias": "scripted", "modalities": {"vision": true, "audio": false},
             "chat_template_caps": {"supports_tools": true, "supports_tool_calls": true}}""";

    private final ScriptedModel model = new ScriptedModel();
    private final AtomicInteger number = new AtomicInteger();

    /** An engine over a server that knows the answers of {@link ScriptedModel}. */
    static Engine engine() {
        return new ScriptedEngine(new FakeLlamaServer()).open();
    }

    /** A script that answers every request but the one for the model's properties. */
    static ScriptedEngine scripted(ScriptedEngine.Script script) {
        return new ScriptedEngine(
                (route, body) -> route.equals("/props") ? List.of(chunk(PROPS)) : script.answer(route, body));
    }

    @Override
    public List<Step> answer(String route, JsonNode body) {
        return switch (route) {
            case "/v1/chat/completions" -> chat(body);
            case "/apply-template" -> List.of(chunk(JSON.createObjectNode().put("prompt", prompt(body))));
            case "/props" -> List.of(chunk(PROPS));
            case "/tokenize" -> List.of(chunk(tokens(body)));
            case "/v1/chat/completions/input_tokens" -> List.of(chunk(inputTokens(body)));
            case "/v1/embeddings" -> List.of(chunk(embeddings(body)));
            case "/v1/rerank" -> List.of(chunk(rerank(body)));
            default -> List.of(fail(INVALID_ARGUMENT, "no route " + route));
        };
    }

    // ---- chat

    private List<Step> chat(JsonNode body) {
        ScriptedModel.Reply reply = model.reply(body);
        if (reply.error() != null) {
            return List.of(fail(INVALID_ARGUMENT, reply.error()));
        }
        Completion completion = new Completion(body, reply);
        if (!body.path("stream").asBoolean()) {
            return List.of(chunk(completion.whole()));
        }
        List<Step> steps = new ArrayList<>();
        for (ObjectNode chunk : completion.chunks()) {
            if (reply.slow()) {
                steps.add(pause(Duration.ofMillis(2)));
            }
            steps.add(chunk(chunk));
        }
        return steps;
    }

    private final class Completion {

        private final String id = "chatcmpl-" + number.incrementAndGet();
        private final boolean includeUsage;
        private final ScriptedModel.Reply reply;
        private final List<String> pieces;
        private final String finishReason;
        private final int promptTokens;
        private final int completionTokens;

        Completion(JsonNode body, ScriptedModel.Reply reply) {
            this.includeUsage =
                    body.path("stream_options").path("include_usage").asBoolean();
            this.reply = reply;
            this.promptTokens = pieces(prompt(body)).size();
            String text = reply.text();
            for (JsonNode stop : body.path("stop")) {
                int end = text.indexOf(stop.asText());
                text = end < 0 ? text : text.substring(0, end);
            }
            List<String> all = pieces(text);
            int most = body.path("max_tokens").asInt(Integer.MAX_VALUE);
            int calls = reply.calls().stream()
                    .mapToInt(call -> pieces(call.arguments()).size())
                    .sum();
            this.pieces = all.subList(0, Math.min(most, all.size()));
            if (all.size() >= most) {
                finishReason = "length";
                completionTokens = most;
            } else {
                finishReason = reply.calls().isEmpty() ? "stop" : "tool_calls";
                completionTokens = all.size() + calls + 1; // and the end-of-turn token
            }
        }

        ObjectNode whole() {
            ObjectNode message =
                    JSON.createObjectNode().put("role", "assistant").put("content", String.join("", pieces));
            if (!reply.thinking().isEmpty()) {
                message.put("reasoning_content", reply.thinking());
            }
            for (ScriptedModel.Call call : reply.calls()) {
                ObjectNode node = message.withArray("tool_calls").addObject().put("type", "function");
                node.putObject("function").put("name", call.name()).put("arguments", call.arguments());
                node.put("id", callId(reply.calls().indexOf(call)));
            }
            ObjectNode completion = envelope("chat.completion");
            completion
                    .putArray("choices")
                    .addObject()
                    .put("finish_reason", finishReason)
                    .put("index", 0)
                    .set("message", message);
            completion.set("usage", usage());
            completion.set("timings", timings());
            return completion;
        }

        List<ObjectNode> chunks() {
            List<ObjectNode> chunks = new ArrayList<>();
            chunks.add(delta(JSON.createObjectNode().put("role", "assistant").putNull("content")));
            for (String piece : FakeLlamaServer.pieces(reply.thinking())) {
                chunks.add(delta(JSON.createObjectNode().put("reasoning_content", piece)));
            }
            for (String piece : pieces) {
                chunks.add(delta(JSON.createObjectNode().put("content", piece)));
            }
            for (int i = 0; i < reply.calls().size(); i++) {
                addCall(chunks, i);
            }
            ObjectNode last = delta(JSON.createObjectNode());
            ((ObjectNode) last.at("/choices/0")).put("finish_reason", finishReason);
            chunks.add(last);
            if (includeUsage) {
                ObjectNode usage = envelope("chat.completion.chunk");
                usage.putArray("choices");
                usage.set("usage", usage());
                chunks.add(usage);
            }
            chunks.get(chunks.size() - 1).set("timings", timings());
            return chunks;
        }

        private void addCall(List<ObjectNode> chunks, int index) {
            ScriptedModel.Call call = reply.calls().get(index);
            ObjectNode header = JSON.createObjectNode();
            ObjectNode node = header.putArray("tool_calls").addObject().put("index", index);
            node.put("id", callId(index)).put("type", "function");
            node.putObject("function").put("name", call.name());
            chunks.add(delta(header));
            for (String piece : FakeLlamaServer.pieces(call.arguments())) {
                ObjectNode fragment = JSON.createObjectNode();
                fragment.putArray("tool_calls")
                        .addObject()
                        .put("index", index)
                        .putObject("function")
                        .put("arguments", piece);
                chunks.add(delta(fragment));
            }
        }

        private ObjectNode delta(ObjectNode delta) {
            ObjectNode chunk = envelope("chat.completion.chunk");
            chunk.putArray("choices")
                    .addObject()
                    .putNull("finish_reason")
                    .put("index", 0)
                    .set("delta", delta);
            return chunk;
        }

        private ObjectNode envelope(String object) {
            return JSON.createObjectNode()
                    .put("created", 1_700_000_000)
                    .put("id", id)
                    .put("model", "/somewhere/scripted.gguf")
                    .put("system_fingerprint", "b1-scripted")
                    .put("object", object);
        }

        private ObjectNode usage() {
            ObjectNode usage = JSON.createObjectNode()
                    .put("completion_tokens", completionTokens)
                    .put("prompt_tokens", promptTokens)
                    .put("total_tokens", completionTokens + promptTokens);
            usage.putObject("prompt_tokens_details").put("cached_tokens", 1);
            return usage;
        }

        private ObjectNode timings() {
            return JSON.createObjectNode()
                    .put("cache_n", 1)
                    .put("prompt_n", promptTokens - 1)
                    .put("prompt_per_second", 1000.5)
                    .put("predicted_n", completionTokens)
                    .put("predicted_per_second", 50.25);
        }

        private String callId(int index) {
            return "call-" + id + "-" + index;
        }
    }

    /** What a chat template would make of the messages. */
    private static String prompt(JsonNode body) {
        StringBuilder prompt = new StringBuilder();
        for (JsonNode message : body.path("messages")) {
            prompt.append("<|").append(message.path("role").asText()).append("|>");
            prompt.append(ScriptedModel.text(message)).append('\n');
        }
        return body.path("add_generation_prompt").asBoolean(true) ? prompt + "<|assistant|>" : prompt.toString();
    }

    static List<String> pieces(String text) {
        List<String> pieces = new ArrayList<>();
        Matcher matcher = TOKEN.matcher(text);
        while (matcher.find()) {
            pieces.add(matcher.group());
        }
        return pieces;
    }

    // ---- the other routes

    private static ObjectNode tokens(JsonNode body) {
        ObjectNode answer = JSON.createObjectNode();
        ArrayNode tokens = answer.putArray("tokens");
        pieces(body.path("content").asText()).forEach(piece -> tokens.add(piece.hashCode()));
        return answer;
    }

    private static ObjectNode inputTokens(JsonNode body) {
        return JSON.createObjectNode().put("input_tokens", pieces(prompt(body)).size());
    }

    private static ObjectNode embeddings(JsonNode body) {
        ObjectNode answer = JSON.createObjectNode().put("object", "list").put("model", "scripted");
        ArrayNode data = answer.putArray("data");
        int tokens = 0;
        for (JsonNode input : body.path("input")) {
            ByteBuffer vector = ByteBuffer.allocate(4 * Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);
            for (int i = 0; i < 4; i++) {
                vector.putFloat((float) Math.sin(input.asText().hashCode() + i));
            }
            data.addObject()
                    .put("embedding", Base64.getEncoder().encodeToString(vector.array()))
                    .put("index", data.size() - 1)
                    .put("object", "embedding")
                    .put("encoding_format", "base64");
            tokens += pieces(input.asText()).size();
        }
        answer.putObject("usage").put("prompt_tokens", tokens).put("total_tokens", tokens);
        return answer;
    }

    /** Scores a document by the words it shares with the query; best first, as llama-server does. */
    private static ObjectNode rerank(JsonNode body) {
        List<String> query = List.of(
                body.path("query").asText().toLowerCase(java.util.Locale.ROOT).split("\\W+"));
        List<ObjectNode> results = new ArrayList<>();
        int tokens = 0;
        for (JsonNode document : body.path("documents")) {
            String text = document.asText().toLowerCase(java.util.Locale.ROOT);
            double score = query.stream().filter(text::contains).count();
            results.add(JSON.createObjectNode().put("index", results.size()).put("relevance_score", score));
            tokens += pieces(text).size();
        }
        results.sort((a, b) -> Double.compare(
                b.path("relevance_score").asDouble(), a.path("relevance_score").asDouble()));
        ObjectNode answer = JSON.createObjectNode().put("object", "list");
        answer.putObject("usage").put("prompt_tokens", tokens).put("total_tokens", tokens);
        answer.putArray("results").addAll(results);
        return answer;
    }
}
