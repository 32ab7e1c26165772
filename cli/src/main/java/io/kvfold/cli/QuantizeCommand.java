package io.kvfold.cli;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.NativeLibrary;
import io.kvfold.gguf.GgufFile;
import java.nio.file.Path;
import java.util.Locale;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code kvfold quantize}. */
@Command(
        name = "quantize",
        header = "Makes a model file smaller, with llama.cpp's quantiser.",
        description = {
            "",
            "Reads a GGUF file with weights in f32, f16 or bf16 and writes one whose matrices take fewer bits. The KV"
                    + " plan and all other metadata stay. Common types: q8_0 (nearly lossless), q6_k, q5_k_m, q4_k_m (a"
                    + " good middle), q4_0, q3_k_m, q2_k.",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {"  kvfold quantize model-f16.gguf model-q4_k_m.gguf --type q4_k_m"})
final class QuantizeCommand implements Callable<Integer> {

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Parameters(
            index = "0",
            paramLabel = "SOURCE",
            converter = ModelFile.Converter.class,
            description = "The GGUF file to read, or hf:owner/name[:quant|/file][@revision] on a hub.")
    @SuppressWarnings("NullAway.Init")
    private ModelFile source;

    @Parameters(index = "1", paramLabel = "TARGET", description = "The GGUF file to write; replaced if it exists.")
    @SuppressWarnings("NullAway.Init")
    private Path target;

    @Option(
            names = "--type",
            paramLabel = "TYPE",
            defaultValue = "q4_k_m",
            description = "What matrices are stored in. Default: ${DEFAULT-VALUE}.")
    @SuppressWarnings("NullAway.Init")
    private String type;

    @Option(
            names = {"-t", "--threads"},
            paramLabel = "N",
            description = "CPU threads. Default: all.")
    private @Nullable Integer threads;

    @Option(
            names = "--allow-requantize",
            description = "Accept a source that is quantised already; it loses more than one made from full weights.")
    private boolean allowRequantize;

    @Override
    public Integer call() {
        GgufFile before = source.header();
        ObjectNode options = JsonNodeFactory.instance.objectNode().put("type", type.toLowerCase(Locale.ROOT));
        if (threads != null) {
            options.put("threads", threads);
        }
        options.put("allow_requantize", allowRequantize);
        NativeLibrary.quantize(before.path(), target, options);
        GgufFile after = GgufFile.open(target);
        spec.commandLine()
                .getOut()
                .println(Values.format(
                        "%s: %s, was %s", target, Values.bytes(after.fileBytes()), Values.bytes(before.fileBytes())));
        return ExitCode.OK;
    }
}
