package io.kvfold.langchain4j;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import dev.langchain4j.agent.tool.ToolExecutionRequest;
import dev.langchain4j.model.chat.response.CompleteToolCall;
import dev.langchain4j.model.chat.response.PartialToolCall;
import java.util.ArrayList;
import java.util.List;
import java.util.UUID;
import java.util.function.Consumer;

/**
 * Puts the tool calls of one answer together from llama-server's deltas and tells about them under LangChain4j's rules: a
 * partial call carries the final name and id and is never blank, a call without arguments has the one partial
 * <code>{}</code>, and a call is complete before the partials of the next one. Not thread-safe.
 */
final class ToolCalls {

    private final List<Call> calls = new ArrayList<>();

    /** Takes one element of a delta's or a message's {@code tool_calls}; {@code position} is its index if it names none. */
    void accept(JsonNode delta, int position, Consumer<Object> events) {
        int index = delta.path("index").asInt(position);
        while (calls.size() <= index) {
            calls.add(new Call(calls.size()));
        }
        Call call = calls.get(index);
        JsonNode function = delta.path("function");
        // The parser may correct an earlier guess while it reads on, and then sends id and name as a whole again.
        call.id = delta.path("id").asText(call.id);
        call.name = function.path("name").asText(call.name);
        String arguments = function.path("arguments").asText("");
        if (!arguments.isEmpty()) {
            calls.subList(0, index).forEach(earlier -> earlier.complete(events));
            call.append(arguments, events);
        }
    }

    boolean isEmpty() {
        return calls.isEmpty();
    }

    void complete(Consumer<Object> events) {
        calls.forEach(call -> call.complete(events));
    }

    /** Forgets the last call if the limit of the answer has cut its arguments short. */
    void dropUnfinished() {
        if (!calls.isEmpty() && !calls.get(calls.size() - 1).isWhole()) {
            calls.remove(calls.size() - 1);
        }
    }

    List<ToolExecutionRequest> requests() {
        return calls.stream().map(Call::request).toList();
    }

    private static final class Call {

        private final int index;
        private final CompactJson json = new CompactJson();
        private final StringBuilder arguments = new StringBuilder();
        private final StringBuilder pending = new StringBuilder();
        private String id = "";
        private String name = "";
        private boolean complete;

        Call(int index) {
            this.index = index;
        }

        void append(String fragment, Consumer<Object> events) {
            if (complete) {
                throw new IllegalStateException("tool call " + index + " continues after tool call " + (index + 1));
            }
            pending.append(json.append(fragment));
            // A lone brace waits for what follows, since "{}" has to arrive in one piece.
            boolean loneBrace = arguments.isEmpty() && pending.toString().equals("{");
            if (!loneBrace && !pending.toString().isBlank()) {
                flush(events);
            }
        }

        void complete(Consumer<Object> events) {
            if (complete) {
                return;
            }
            complete = true;
            if (arguments.isEmpty() && pending.isEmpty()) {
                pending.append("{}");
            }
            if (!pending.isEmpty()) {
                flush(events);
            }
            events.accept(new CompleteToolCall(index, request()));
        }

        boolean isWhole() {
            try {
                return ChatRequestMapper.JSON_MAPPER
                        .readTree(arguments.toString() + pending)
                        .isObject();
            } catch (JsonProcessingException e) {
                return false;
            }
        }

        private void flush(Consumer<Object> events) {
            if (id.isBlank()) {
                id = "call_" + UUID.randomUUID();
            }
            events.accept(PartialToolCall.builder()
                    .index(index)
                    .id(id)
                    .name(name)
                    .partialArguments(pending.toString())
                    .build());
            arguments.append(pending);
            pending.setLength(0);
        }

        ToolExecutionRequest request() {
            return ToolExecutionRequest.builder()
                    .id(id)
                    .name(name)
                    .arguments(arguments.toString())
                    .build();
        }
    }
}
