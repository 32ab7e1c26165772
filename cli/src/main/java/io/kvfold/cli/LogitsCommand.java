package io.kvfold.cli;

import io.kvfold.Engine;
import io.kvfold.Logits;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** {@code kvfold logits}. */
@Command(
        name = "logits",
        header = "Writes the logits of every position of a token sequence.",
        description = {
            "",
            "For comparing a model with a reference implementation. The file is a NumPy array, float32 in C order, of shape"
                    + " [tokens, vocabulary]: row i scores the token after position i. --ubatch says how many tokens are"
                    + " computed at a time; 1 decodes token by token.",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold logits --model model.gguf --tokens 1,403,407 --out logits.npy",
            "  kvfold logits -m model.gguf --tokens @ids -ub 1 --kv-type f32 --out l.npy",
            "  python3 -c \"import numpy; print(numpy.load('logits.npy').argmax(-1))\""
        })
final class LogitsCommand implements Callable<Integer> {

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Mixin
    @SuppressWarnings("NullAway.Init")
    private EngineOptions engineOptions;

    @Option(
            names = "--tokens",
            required = true,
            paramLabel = "IDS|@FILE",
            description = "Token ids with commas or blanks between them, or a file that holds them.")
    @SuppressWarnings("NullAway.Init")
    private String tokens;

    @Option(names = "--out", required = true, paramLabel = "FILE", description = "The .npy file to write.")
    @SuppressWarnings("NullAway.Init")
    private Path out;

    @Override
    public Integer call() throws IOException {
        int[] ids = parse(tokens.startsWith("@") ? TextFile.read(Path.of(tokens.substring(1))) : tokens);
        try (Engine engine = engineOptions.openToEvaluate(ids.length)) {
            Logits logits = engine.evaluate(ids);
            try (FileChannel file = FileChannel.open(
                    out, StandardOpenOption.CREATE, StandardOpenOption.TRUNCATE_EXISTING, StandardOpenOption.WRITE)) {
                NpyWriter.write(file, logits.tokens(), logits.vocabularySize(), logits::row);
            }
            spec.commandLine()
                    .getOut()
                    .println(Values.format("[%d, %d] float32 in %s", logits.tokens(), logits.vocabularySize(), out));
        }
        return ExitCode.OK;
    }

    private int[] parse(String text) {
        try {
            int[] ids = Arrays.stream(text.strip().split("[,\\s]+"))
                    .mapToInt(Integer::parseInt)
                    .toArray();
            return ids;
        } catch (NumberFormatException e) {
            throw new ParameterException(
                    spec.commandLine(),
                    "--tokens takes whole numbers with commas or blanks between them: " + e.getMessage());
        }
    }
}
