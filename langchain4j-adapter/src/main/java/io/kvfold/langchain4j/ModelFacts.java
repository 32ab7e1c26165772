package io.kvfold.langchain4j;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import io.kvfold.Engine;

/**
 * What llama-server's route {@code /props} says about a model.
 *
 * @param name the alias the engine was opened with, or the file's name
 * @param vision whether messages may hold images, which takes an image projector
 * @param tools whether the chat template describes tools; others drop them without a word
 */
record ModelFacts(String name, boolean vision, boolean tools) {

    static ModelFacts of(Engine engine) {
        JsonNode props = engine.call("/props", JsonNodeFactory.instance.objectNode());
        JsonNode template = props.path("chat_template_caps");
        return new ModelFacts(
                props.path("model_alias").asText(engine.info().model().path()),
                props.path("modalities").path("vision").asBoolean(),
                template.path("supports_tools").asBoolean()
                        || template.path("supports_tool_calls").asBoolean()
                        || props.has("chat_template_tool_use"));
    }
}
