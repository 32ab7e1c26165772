package io.kvfold.benchmarks;

import de.kherud.llama.InferenceParameters;
import de.kherud.llama.LlamaOutput;
import de.kherud.llama.ModelParameters;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.function.Function;

/** One answer of java-llama.cpp, or of its twin: the same code for both. */
final class JavaLlamaSubject {

    static final String PEER = "java-llama.cpp";

    private JavaLlamaSubject() {}

    /** The command that runs {@link #main} in a JVM of its own. */
    static List<String> command(String subject, String model, List<String> numbers) {
        List<String> command = new ArrayList<>(List.of(
                ProcessHandle.current().info().command().orElse("java"),
                "-cp",
                System.getProperty("java.class.path"),
                JavaLlamaSubject.class.getName(),
                subject,
                model));
        command.addAll(numbers);
        return command;
    }

    /** Arguments: who answers, a GGUF file, prompt words, tokens, threads. */
    public static void main(String[] args) {
        int words = Integer.parseInt(args[2]);
        int tokens = Integer.parseInt(args[3]);
        int threads = Integer.parseInt(args[4]);
        ModelParameters parameters = new ModelParameters()
                .setModel(args[1])
                .setThreads(threads)
                .setThreadsBatch(threads)
                .setParallel(1)
                .setCtxSize(8 * (words + tokens) + 256);
        if (args[0].equals(PEER)) {
            try (var model = new de.kherud.llama.LlamaModel(parameters)) {
                measure(model::generate, words, tokens);
            }
        } else {
            try (var model = new io.kvfold.javallama.LlamaModel(parameters)) {
                measure(model::generate, words, tokens);
            }
        }
    }

    private static void measure(
            Function<InferenceParameters, ? extends Iterable<LlamaOutput>> generate, int words, int tokens) {
        answer(generate, 4, 64);
        System.out.println(answer(generate, words, tokens));
    }

    private static String answer(
            Function<InferenceParameters, ? extends Iterable<LlamaOutput>> generate, int words, int tokens) {
        InferenceParameters parameters = new InferenceParameters("once upon a time ".repeat(words / 4))
                .setNPredict(tokens)
                .setTemperature(0)
                .setIgnoreEos(true);
        long start = System.nanoTime();
        long first = 0;
        long last = 0;
        int count = 0;
        for (LlamaOutput output : generate.apply(parameters)) {
            if (!output.text.isEmpty()) {
                last = System.nanoTime();
                first = count++ == 0 ? last : first;
            }
        }
        return String.format(
                Locale.ROOT, "rates %f %f", words / (1e-9 * (first - start)), (count - 1) / (1e-9 * (last - first)));
    }
}
