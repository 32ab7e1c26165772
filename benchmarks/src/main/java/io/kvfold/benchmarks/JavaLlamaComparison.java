package io.kvfold.benchmarks;

import static java.util.Objects.requireNonNull;

import de.kherud.llama.InferenceParameters;
import de.kherud.llama.LlamaOutput;
import de.kherud.llama.ModelParameters;
import io.kvfold.bench.Spread;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Function;

/**
 * java-llama.cpp and its twin on the same file, threads and prompt, in turn: the same code, each in a JVM of its own. Both
 * are taken as they come: java-llama.cpp with the library in its jar, built for many processors, Kvfold with the one that
 * was built for this machine.
 */
public final class JavaLlamaComparison {

    private static final List<String> SUBJECTS = List.of("java-llama.cpp", "kvfold");

    private JavaLlamaComparison() {}

    /** One answer: prompt tokens per second until the first token, and tokens per second after it. */
    private record Rates(double prefill, double decode) {}

    /** Arguments: a GGUF file, prompt words, tokens per answer, rounds, threads. */
    public static void main(String[] args) throws Exception {
        if (args.length == 6) {
            Rates rates = measure(args[5], args[0], number(args[1]), number(args[2]), number(args[4]));
            System.out.printf(Locale.ROOT, "rates %f %f%n", rates.prefill(), rates.decode());
            return;
        }
        if (args.length != 5) {
            throw new IllegalArgumentException("arguments: <model.gguf> <prompt words> <tokens> <rounds> <threads>");
        }
        Map<String, List<Rates>> all = new TreeMap<>();
        SUBJECTS.forEach(subject -> all.put(subject, new ArrayList<>()));
        for (int round = 0; round < number(args[3]); round++) {
            for (int k = 0; k < SUBJECTS.size(); k++) {
                String subject = SUBJECTS.get((k + round) % SUBJECTS.size());
                requireNonNull(all.get(subject)).add(inItsOwnJvm(args, subject));
            }
        }
        System.out.println(
                "| | prompt words/s | lowest - highest | decode, tokens/s | lowest - highest |\n|---|---|---|---|---|");
        all.forEach((subject, rates) -> print(subject, rates, rates));
        print("ratio", requireNonNull(all.get("kvfold")), requireNonNull(all.get("java-llama.cpp")));
    }

    private static int number(String text) {
        return Integer.parseInt(text);
    }

    private static void print(String name, List<Rates> rates, List<Rates> base) {
        Spread prefill = spread(rates, base, Rates::prefill);
        Spread decode = spread(rates, base, Rates::decode);
        System.out.printf(
                Locale.ROOT,
                "| %s | %.3f | %.3f - %.3f | %.3f | %.3f - %.3f |%n",
                name,
                prefill.median(),
                prefill.lowest(),
                prefill.highest(),
                decode.median(),
                decode.lowest(),
                decode.highest());
    }

    /** Of the rates themselves, or of their ratios to others round by round. */
    private static Spread spread(List<Rates> rates, List<Rates> base, Function<Rates, Double> figure) {
        double[] values = new double[rates.size()];
        for (int i = 0; i < values.length; i++) {
            values[i] = figure.apply(rates.get(i)) / (rates == base ? 1 : figure.apply(base.get(i)));
        }
        return Spread.of(values);
    }

    private static Rates inItsOwnJvm(String[] args, String subject) throws IOException, InterruptedException {
        List<String> command = new ArrayList<>(List.of(
                ProcessHandle.current().info().command().orElse("java"),
                "-cp",
                System.getProperty("java.class.path"),
                JavaLlamaComparison.class.getName()));
        command.addAll(List.of(args));
        command.add(subject);
        Process process = new ProcessBuilder(command)
                .redirectError(ProcessBuilder.Redirect.DISCARD)
                .start();
        Rates rates = null;
        try (BufferedReader lines = process.inputReader(StandardCharsets.UTF_8)) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                if (line.startsWith("rates ")) {
                    String[] words = line.split(" ");
                    rates = new Rates(Double.parseDouble(words[1]), Double.parseDouble(words[2]));
                    break;
                }
            }
        }
        process.destroyForcibly(); // java-llama.cpp does not end by itself
        process.waitFor();
        if (rates == null) {
            throw new IOException(subject + " ended without a result, exit code " + process.exitValue());
        }
        return rates;
    }

    private static Rates measure(String subject, String path, int words, int tokens, int threads) {
        ModelParameters parameters = new ModelParameters()
                .setModel(path)
                .setThreads(threads)
                .setThreadsBatch(threads)
                .setParallel(1)
                .setCtxSize(8 * (words + tokens) + 256);
        if (subject.equals("kvfold")) {
            try (var model = new io.kvfold.javallama.LlamaModel(parameters)) {
                return measure(model::generate, words, tokens);
            }
        }
        try (var model = new de.kherud.llama.LlamaModel(parameters)) {
            return measure(model::generate, words, tokens);
        }
    }

    private static Rates measure(
            Function<InferenceParameters, ? extends Iterable<LlamaOutput>> generate, int words, int tokens) {
        answer(generate, 4, 64);
        return answer(generate, words, tokens);
    }

    private static Rates answer(
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
        return new Rates(words / (1e-9 * (first - start)), (count - 1) / (1e-9 * (last - first)));
    }
}
