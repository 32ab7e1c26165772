package io.kvfold.cli;

import com.fasterxml.jackson.databind.JsonNode;

/**
 * How long one request took; llama-server's {@code timings} object.
 *
 * @param promptTokens computed for this request, without those that the KV cache still held
 * @param tokens generated
 */
record Timings(int promptTokens, double promptTokensPerSecond, int tokens, double tokensPerSecond) {

    /** Of a request that ended before it gave any. */
    static final Timings NONE = new Timings(0, 0, 0, 0);

    static Timings of(JsonNode timings) {
        return new Timings(
                timings.path("prompt_n").asInt(),
                timings.path("prompt_per_second").asDouble(),
                timings.path("predicted_n").asInt(),
                timings.path("predicted_per_second").asDouble());
    }

    @Override
    public String toString() {
        return Values.format(
                "%d tokens at %.1f tokens/s, prompt %d at %.1f",
                tokens, tokensPerSecond, promptTokens, promptTokensPerSecond);
    }
}
