package io.kvfold.cli;

import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;

/** How much a request may use, of commands that answer requests. */
final class ContextOption {

    @Option(
            names = {"-c", "--ctx-size", "--ctx"},
            paramLabel = "N",
            description = "Tokens that one request may use, prompt and answer together. Default: what the model was"
                    + " trained with, which is also the most.")
    @Nullable
    Integer size;
}
