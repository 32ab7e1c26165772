package io.kvfold.cli;

import com.fasterxml.jackson.databind.JsonNode;
import io.kvfold.ScriptedEngine;
import io.kvfold.ScriptedEngine.Step;
import java.util.ArrayDeque;
import java.util.List;
import java.util.Queue;

/** Prepared answers to the questions of a chat, one after the other. */
final class ChatScript implements ScriptedEngine.Script {

    private final Queue<List<Step>> answers = new ArrayDeque<>();

    ChatScript then(Step... answer) {
        answers.add(List.of(answer));
        return this;
    }

    @Override
    public List<Step> answer(String route, JsonNode body) {
        return answers.remove();
    }

    static Step piece(String text) {
        return ScriptedEngine.chunk(
                "{\"choices\":[{\"index\":0,\"finish_reason\":null,\"delta\":{\"content\":\"" + text + "\"}}]}");
    }

    static Step end(String finishReason) {
        return ScriptedEngine.chunk("{\"choices\":[{\"index\":0,\"finish_reason\":\"" + finishReason
                + "\",\"delta\":{}}],\"timings\":{\"prompt_n\":7,\"prompt_per_second\":70.0,\"predicted_n\":2,"
                + "\"predicted_per_second\":20.5}}");
    }
}
