package io.kvfold.cli;

import io.kvfold.KvPlan;
import io.kvfold.convert.ConversionListener;
import io.kvfold.convert.Converter;
import io.kvfold.convert.OutputType;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import org.jspecify.annotations.Nullable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;

/** {@code kvfold convert}. */
@Command(
        name = "convert",
        header = "Makes a model file (GGUF) from a Hugging Face folder.",
        description = {
            "",
            "For model_type llama, mistral, qwen2, qwen3, lckv-llama, opt-llama and cla-llama, with weights in safetensors"
                    + " files. A model whose layers read other layers' keys and values keeps its KV plan in the file."
                    + " What the folder says and this command does not know is an error that names it. Then see what came"
                    + " out with 'kvfold inspect', or make it smaller with 'kvfold quantize'.",
            ""
        },
        footerHeading = "%nExamples:%n",
        footer = {
            "  kvfold convert TinyLlama-1.1B-Chat-v1.0 tinyllama.gguf",
            "  kvfold convert tinyllama-lckv-w10-100b lckv.gguf --type q8_0",
            "  kvfold convert llama3-8b-instruct-CLA-2 cla2.gguf --kv-plan cla:2"
        })
final class ConvertCommand implements Callable<Integer> {

    @Spec
    @SuppressWarnings("NullAway.Init")
    private CommandSpec spec;

    @Parameters(index = "0", paramLabel = "FOLDER", description = "With config.json and model.safetensors.")
    @SuppressWarnings("NullAway.Init")
    private Path folder;

    @Parameters(index = "1", paramLabel = "FILE", description = "The GGUF file to write; replaced if it exists.")
    @SuppressWarnings("NullAway.Init")
    private Path target;

    @Option(
            names = "--type",
            paramLabel = "TYPE",
            defaultValue = "f16",
            description = "What matrices are stored in: ${COMPLETION-CANDIDATES}. Default: ${DEFAULT-VALUE}.")
    @SuppressWarnings("NullAway.Init")
    private OutputType type;

    @Option(
            names = {"--kv-plan", "--plan"},
            paramLabel = "PLAN",
            description = "Who reads whose keys and values, where the folder does not say it: such as cla:2, or a map"
                    + " like 0_0_2_2. Keys and values that nobody reads are left out.")
    private @Nullable String plan;

    @Override
    public Integer call() throws IOException {
        Converter.Report report;
        try (Listener listener = new Listener(spec.commandLine().getErr())) {
            report = Converter.convert(folder, target, type, plan, listener);
        }
        PrintWriter out = spec.commandLine().getOut();
        KvPlan plan = report.plan();
        out.println(Values.format(
                "%s: %s, %d tensors, %s",
                target, report.architecture(), report.tensors(), Values.bytes(report.bytes())));
        if (!plan.isStandard()) {
            out.println(Values.format(
                    "KV plan %s: %d of %d layers keep keys and values", plan, plan.kvLayerCount(), plan.layers()));
        }
        return ExitCode.OK;
    }

    private static final class Listener implements ConversionListener, AutoCloseable {
        private final PrintWriter err;
        private @Nullable Progress progress;

        Listener(PrintWriter err) {
            this.err = err;
        }

        @Override
        public void onProgress(long done, long total) {
            if (progress == null) {
                progress = new Progress("converting", total >> 20, " MiB");
            }
            progress.stepTo(done >> 20);
        }

        @Override
        public void onWarning(String message) {
            err.println("kvfold: " + message);
        }

        @Override
        public void close() {
            if (progress != null) {
                progress.close();
            }
        }
    }
}
