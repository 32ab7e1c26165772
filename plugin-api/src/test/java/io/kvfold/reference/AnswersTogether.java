package io.kvfold.reference;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.Generation;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;

/**
 * What requests answer together, compared with what they answer alone.
 *
 * <p>Answers are compared token by token up to where the two most likely tokens of the lone answer are closer than the size
 * of a batch changes how sums are rounded.
 */
final class AnswersTogether {
    static final double GAP = 1e-3;

    /** Flash attention that rounds what it adds up to f16 is that much coarser on weights without structure. */
    static final double GAP_OF_FLASH_ATTENTION = 1e-2;

    private static final ObjectMapper JSON = new ObjectMapper();

    private AnswersTogether() {}

    /** A request that says how likely each of its tokens was, and takes nothing from an earlier one. */
    static ObjectNode request(int[] prompt, int answer, int seed) {
        ObjectNode body = JSON.createObjectNode()
                .put("n_predict", answer)
                .put("ignore_eos", true)
                .put("temperature", 0.0)
                .put("seed", 1000 + seed)
                .put("n_probs", 2)
                .put("return_tokens", true)
                .put("cache_prompt", false);
        for (int token : prompt) {
            body.withArray("prompt").add(token);
        }
        return body;
    }

    static List<JsonNode> together(Engine engine, List<ObjectNode> bodies) {
        List<Generation> running = new ArrayList<>();
        for (ObjectNode body : bodies) {
            running.add(engine.complete(body));
        }
        List<JsonNode> answers = new ArrayList<>();
        for (Generation each : running) {
            try (each) {
                answers.add(Objects.requireNonNull(each.next()));
            }
        }
        return answers;
    }

    static void assertSame(String what, JsonNode alone, JsonNode loaded, double least) {
        JsonNode expected = alone.path("tokens");
        JsonNode actual = loaded.path("tokens");
        assertThat(expected.size()).as(what).isPositive();
        for (int i = 0; i < expected.size(); i++) {
            JsonNode top = alone.path("completion_probabilities").path(i).path("top_logprobs");
            double gap = top.path(0).path("logprob").asDouble()
                    - top.path(1).path("logprob").asDouble();
            if (gap <= least && actual.path(i).asInt() != expected.path(i).asInt()) {
                return; // as likely as not
            }
            assertThat(actual.path(i).asInt(-1))
                    .as("%s: token %d of %d, gap %f", what, i, expected.size(), gap)
                    .isEqualTo(expected.path(i).asInt());
        }
        assertThat(actual.size()).as(what).isEqualTo(expected.size());
        assertThat(loaded.path("tokens_evaluated")).as(what).isEqualTo(alone.path("tokens_evaluated"));
        assertThat(loaded.path("completion_probabilities")).as(what).hasSize(expected.size());
    }
}
