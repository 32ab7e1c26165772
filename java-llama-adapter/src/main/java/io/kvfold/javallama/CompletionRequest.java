package io.kvfold.javallama;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadConstraints;
import com.fasterxml.jackson.core.json.JsonReadFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import de.kherud.llama.InferenceParameters;
import io.kvfold.Engine;
import io.kvfold.InvalidRequestException;

/**
 * java-llama.cpp's {@link InferenceParameters} as a request. They are the JSON that llama-server takes, with fields that it
 * has stopped to know.
 */
record CompletionRequest(String route, ObjectNode body) {

    // The parameters write control characters as they are. A prompt may be longer than Jackson's default limit.
    static final JsonMapper JSON_MAPPER = JsonMapper.builder()
            .enable(JsonReadFeature.ALLOW_UNESCAPED_CONTROL_CHARS)
            .build();

    static {
        JSON_MAPPER
                .getFactory()
                .setStreamReadConstraints(StreamReadConstraints.builder()
                        .maxStringLength(Integer.MAX_VALUE)
                        .build());
    }

    /**
     * @param engine renders the messages, if the parameters have some and ask for a chat template
     * @throws InvalidRequestException for a parameter that llama.cpp no longer has
     */
    static CompletionRequest of(InferenceParameters parameters, boolean stream, Engine engine) {
        ObjectNode body = object(parameters.toString());
        refuseRemoved(body);
        JsonNode chatTemplate = body.remove("use_jinja");
        JsonNode messages = body.remove("messages");
        if (messages != null && chatTemplate != null && chatTemplate.asBoolean()) {
            ObjectNode chat = JSON_MAPPER.createObjectNode();
            chat.set("messages", messages);
            body.put("prompt", engine.applyTemplate(chat));
        }
        body.put("stream", stream);
        boolean infill = body.has("input_prefix") || body.has("input_suffix");
        if (infill) {
            body.put("input_prefix", body.path("input_prefix").asText());
            body.put("input_suffix", body.path("input_suffix").asText());
        }
        return new CompletionRequest(infill ? "/infill" : "/completion", body);
    }

    /** Values that mean what llama.cpp does now anyway are let through. */
    private static void refuseRemoved(ObjectNode body) {
        JsonNode penalizeNl = body.remove("penalize_nl");
        if (penalizeNl != null && !penalizeNl.asBoolean()) {
            throw removed("penalize_nl", penalizeNl, "line breaks are penalised as any other token");
        }
        JsonNode tfsZ = body.remove("tfs_z");
        if (tfsZ != null && tfsZ.asDouble() != 1) {
            throw removed("tfs_z", tfsZ, "there is no tail-free sampling");
        }
        JsonNode penaltyPrompt = body.remove("penalty_prompt");
        if (penaltyPrompt != null) {
            throw removed("penalty_prompt", penaltyPrompt, "the prompt itself is what penalties look at");
        }
    }

    private static InvalidRequestException removed(String name, JsonNode value, String instead) {
        return new InvalidRequestException("parameter \"" + name + "\" of java-llama.cpp cannot be " + value
                + ": llama.cpp no longer has it; " + instead);
    }

    static ObjectNode object(String json) {
        JsonNode value;
        try {
            value = JSON_MAPPER.readTree(json);
        } catch (JsonProcessingException e) {
            throw new InvalidRequestException("not valid JSON: " + e.getOriginalMessage(), e);
        }
        if (value instanceof ObjectNode object) {
            return object;
        }
        throw new InvalidRequestException("not a JSON object: " + json);
    }
}
