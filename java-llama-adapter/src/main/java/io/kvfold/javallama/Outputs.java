package io.kvfold.javallama;

import com.fasterxml.jackson.databind.JsonNode;
import de.kherud.llama.LlamaOutput;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;

/** Makes java-llama.cpp's outputs, whose constructor is not public. */
final class Outputs {

    private static final MethodHandle CONSTRUCTOR = constructor();

    private Outputs() {}

    /** A chunk of a completion. */
    static LlamaOutput of(JsonNode chunk) {
        return of(
                chunk.path("content").asText(),
                probabilities(chunk.path("completion_probabilities")),
                chunk.path("stop").asBoolean());
    }

    static LlamaOutput of(String text, Map<String, Float> probabilities, boolean stop) {
        byte[] utf8 = text.getBytes(StandardCharsets.UTF_8);
        try {
            return (LlamaOutput) CONSTRUCTOR.invokeExact(utf8, probabilities, stop);
        } catch (Throwable e) {
            throw new IllegalStateException("java-llama.cpp's LlamaOutput could not be made", e);
        }
    }

    /** What could have come instead of each token, by text; a text of two tokens of a chunk has its later value. */
    private static Map<String, Float> probabilities(JsonNode tokens) {
        Map<String, Float> probabilities = new LinkedHashMap<>();
        for (JsonNode token : tokens) {
            for (JsonNode candidate : token.path("top_logprobs")) {
                double probability = Math.exp(candidate.path("logprob").asDouble());
                probabilities.put(candidate.path("token").asText(), (float) probability);
            }
        }
        return probabilities;
    }

    private static MethodHandle constructor() {
        MethodType type = MethodType.methodType(void.class, byte[].class, Map.class, boolean.class);
        try {
            return MethodHandles.privateLookupIn(LlamaOutput.class, MethodHandles.lookup())
                    .findConstructor(LlamaOutput.class, type);
        } catch (ReflectiveOperationException e) {
            throw new IllegalStateException(
                    "this is not java-llama.cpp 4.2.0: LlamaOutput has no constructor " + type, e);
        }
    }
}
