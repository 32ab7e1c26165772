package io.kvfold.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;

/** How the next token is chosen, and how many are. The other samplers are llama-server options, see {@code --option}. */
final class SamplingOptions {

    @Option(
            names = {"-n", "--max-tokens"},
            paramLabel = "N",
            description =
                    "Stop after N tokens. Default: 64 of compare, else when the model ends its text or the context is full.")
    private @Nullable Integer maxTokens;

    @Option(
            names = "--temperature",
            paramLabel = "T",
            description =
                    "0 takes the likeliest token each time; higher is more varied. Default: 0 of compare, else 0.8, or what"
                            + " the model file says.")
    private @Nullable Double temperature;

    @Option(
            names = {"-s", "--seed"},
            paramLabel = "N",
            description = "Seed of the random choice. Default: another one each time.")
    private @Nullable Long seed;

    /** Adds what was given to the body of a request, under the names that both routes take. */
    void addTo(ObjectNode body) {
        if (maxTokens != null) {
            body.put("max_tokens", maxTokens);
        }
        if (temperature != null) {
            body.put("temperature", temperature);
        }
        if (seed != null) {
            body.put("seed", seed);
        }
    }
}
