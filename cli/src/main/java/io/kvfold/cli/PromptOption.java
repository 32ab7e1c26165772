package io.kvfold.cli;

import java.io.IOException;
import java.nio.file.Path;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Option;

/** Where a prompt comes from; an exclusive argument group. */
final class PromptOption {

    @Option(
            names = {"-p", "--prompt"},
            paramLabel = "TEXT",
            description = "The text to continue.")
    private @Nullable String text;

    @Option(
            names = "--prompt-file",
            paramLabel = "FILE",
            description = "A UTF-8 file that holds it; - is standard input.")
    private @Nullable Path file;

    String read() throws IOException {
        if (text != null) {
            return text;
        }
        if (file == null || file.toString().equals("-")) {
            return TextFile.decode(System.in.readAllBytes(), "standard input");
        }
        return TextFile.read(file);
    }
}
