package io.kvfold.benchmarks;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import de.kherud.llama.InferenceParameters;
import de.kherud.llama.LlamaOutput;
import de.kherud.llama.ModelParameters;
import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.Generation;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.function.Function;

/** Answers of java-llama.cpp or of its twin, by the same code, or of an engine with an option that both lack. */
final class JavaLlamaSubject {

    static final String PEER = "java-llama.cpp";
    static final String WITHOUT_FLASH_ATTENTION = "kvfold, flash attention off";

    /** For the JVM's compilers: on a model of a few megabytes their time would be most of what is measured. */
    private static final long WARM_UP_NANOS = 3_000_000_000L;

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
        int context = 8 * (words + tokens) + 256;
        if (args[0].equals(WITHOUT_FLASH_ATTENTION)) {
            try (Engine engine = Engine.builder()
                    .model(Path.of(args[1]))
                    .threads(threads)
                    .slots(1)
                    .contextSize(context)
                    .flashAttention(FlashAttention.OFF)
                    .open()) {
                measure((prompt, count) -> complete(engine, prompt, count), words, tokens);
            }
            return;
        }
        ModelParameters parameters = new ModelParameters()
                .setModel(args[1])
                .setThreads(threads)
                .setThreadsBatch(threads)
                .setParallel(1)
                .setCtxSize(context);
        if (args[0].equals(PEER)) {
            try (var model = new de.kherud.llama.LlamaModel(parameters)) {
                measure((prompt, count) -> generate(model::generate, prompt, count), words, tokens);
            }
        } else {
            try (var model = new io.kvfold.javallama.LlamaModel(parameters)) {
                measure((prompt, count) -> generate(model::generate, prompt, count), words, tokens);
            }
        }
    }

    /** Waits for an answer of so many tokens. */
    private interface Answers {
        void await(String prompt, int tokens);
    }

    /**
     * The prompt is timed by an answer of one token, decode by a second answer to the same prompt, which is then in the KV
     * cache. The time between the first and the last token of one answer would not do: a reader that is scheduled late finds
     * several tokens waiting, on a small model all of them.
     */
    private static void measure(Answers answers, int words, int tokens) {
        long start = System.nanoTime();
        for (int i = 0; System.nanoTime() - start < WARM_UP_NANOS; i++) {
            answers.await("warm " + i + " " + prompt(4), 64); // no beginning that is in the KV cache
        }
        String prompt = prompt(words);
        double prefill = seconds(answers, prompt, 1);
        double decode = seconds(answers, prompt, tokens);
        System.out.printf(Locale.ROOT, "rates %f %f%n", words / prefill, tokens / decode);
    }

    private static String prompt(int words) {
        return "once upon a time ".repeat(words / 4);
    }

    private static double seconds(Answers answers, String prompt, int tokens) {
        long start = System.nanoTime();
        answers.await(prompt, tokens);
        return 1e-9 * (System.nanoTime() - start);
    }

    private static void generate(
            Function<InferenceParameters, ? extends Iterable<LlamaOutput>> generate, String prompt, int tokens) {
        InferenceParameters parameters = new InferenceParameters(prompt)
                .setNPredict(tokens)
                .setTemperature(0)
                .setCachePrompt(true)
                .setIgnoreEos(true);
        generate.apply(parameters).forEach(output -> {});
    }

    private static void complete(Engine engine, String prompt, int tokens) {
        ObjectNode body = JsonNodeFactory.instance
                .objectNode()
                .put("prompt", prompt)
                .put("n_predict", tokens)
                .put("temperature", 0)
                .put("ignore_eos", true)
                .put("stream", true);
        try (Generation generation = engine.complete(body)) {
            JsonNode chunk = generation.next();
            while (chunk != null) {
                chunk = generation.next();
            }
        }
    }
}
