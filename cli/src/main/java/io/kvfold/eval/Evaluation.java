package io.kvfold.eval;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.Generation;
import io.kvfold.InvalidRequestException;
import java.util.Objects;
import java.util.Random;

/** Puts questions of given lengths to a model. The same seed gives the same questions under every plan and type. */
public final class Evaluation {

    private final Engine engine;
    private final Haystack haystack;
    private final long seed;
    private final boolean chats;

    /** @param chats whether the model's chat template is put around a question */
    public Evaluation(Engine engine, Haystack haystack, long seed, boolean chats) {
        this.engine = engine;
        this.haystack = haystack;
        this.seed = seed;
        this.chats = chats;
    }

    /**
     * Makes up a question about as much text as fits.
     *
     * @param length tokens of prompt and answer
     * @param depth see {@link Task#SINGLE}
     * @param trial tells questions of the same length and depth apart
     * @throws InvalidRequestException if the length is too small for the task
     */
    public Question question(Task task, int length, double depth, int trial) {
        int least = tokens(sized(task, 1, depth, trial));
        if (least > length) {
            throw new InvalidRequestException(
                    "the least length of " + task + " is " + least + " tokens, not " + length, (long) length, (long)
                            least);
        }
        int fits = 1;
        int tooMany = 2;
        while (tokens(sized(task, tooMany, depth, trial)) <= length) {
            fits = tooMany;
            tooMany *= 2;
        }
        while (tooMany - fits > 1) {
            int middle = (fits + tooMany) >>> 1;
            if (tokens(sized(task, middle, depth, trial)) <= length) {
                fits = middle;
            } else {
                tooMany = middle;
            }
        }
        return sized(task, fits, depth, trial);
    }

    /** Asks a question, and scores the likeliest answer from 0 to 1. */
    public double score(Question question) {
        return question.score(answer(question));
    }

    private Question sized(Task task, int size, double depth, int trial) {
        // the first numbers of similar seeds are similar
        long mixed = 31 * (31 * (31 * seed + task.ordinal()) + trial) + Math.round(1000 * depth);
        return task.question(haystack, size, depth, new Random(mixed * 0x9E3779B97F4A7C15L));
    }

    private int tokens(Question question) {
        return engine.tokenize(prompt(question), true, true).length + answerTokens(question);
    }

    /** Twice what the answer takes, and some. */
    private int answerTokens(Question question) {
        return 2 * engine.tokenize(String.join(", ", question.answers()), false, false).length + 16;
    }

    private String prompt(Question question) {
        if (!chats) {
            return question.text() + "\n\n" + question.prefix();
        }
        ObjectNode chat = JsonNodeFactory.instance.objectNode();
        chat.putArray("messages").addObject().put("role", "user").put("content", question.text());
        return engine.applyTemplate(chat) + question.prefix();
    }

    private String answer(Question question) {
        ObjectNode body = JsonNodeFactory.instance
                .objectNode()
                .put("prompt", prompt(question))
                .put("max_tokens", answerTokens(question))
                .put("temperature", 0);
        try (Generation generation = engine.complete(body)) {
            JsonNode answer = Objects.requireNonNull(generation.next());
            return answer.path("content").asText();
        }
    }
}
