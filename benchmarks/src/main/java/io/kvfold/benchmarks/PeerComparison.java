package io.kvfold.benchmarks;

import static java.util.Objects.requireNonNull;

import io.kvfold.bench.Spread;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.Function;

/**
 * Kvfold and its peers on the same weights, threads and prompt, in turn, each in a process of its own that warms up, answers
 * and prints {@code rates PREFILL DECODE}. All are taken as they come: java-llama.cpp with the library in its jar, built
 * for many processors, Kvfold with the one that was built for this machine.
 */
public final class PeerComparison {

    private static final String OURS = "kvfold";

    private PeerComparison() {}

    /** Words of a prompt per second until the first token, and tokens per second of an answer after it. */
    private record Rates(double prefill, double decode) {}

    /**
     * Arguments: a GGUF file, prompt words, tokens per answer, rounds, threads; then further peers as
     * {@code name=command}, a command that takes prompt words, tokens and threads after its own arguments.
     */
    public static void main(String[] args) throws IOException, InterruptedException {
        if (args.length < 5) {
            throw new IllegalArgumentException(
                    "arguments: <model.gguf> <prompt words> <tokens> <rounds> <threads> [name=command ...]");
        }
        List<String> numbers = List.of(args[1], args[2], args[4]);
        Map<String, List<String>> commands = new LinkedHashMap<>();
        for (String subject : List.of(OURS, JavaLlamaSubject.WITHOUT_FLASH_ATTENTION, JavaLlamaSubject.PEER)) {
            commands.put(subject, JavaLlamaSubject.command(subject, args[0], numbers));
        }
        for (String peer : List.of(args).subList(5, args.length)) {
            String[] parts = peer.split("=", 2);
            if (parts.length < 2) {
                throw new IllegalArgumentException("a peer is name=command, not " + peer);
            }
            List<String> command = new ArrayList<>(List.of(parts[1].trim().split("\\s+")));
            command.addAll(numbers);
            commands.put(parts[0], command);
        }

        List<String> subjects = List.copyOf(commands.keySet());
        Map<String, List<Rates>> all = new LinkedHashMap<>();
        subjects.forEach(subject -> all.put(subject, new ArrayList<>()));
        for (int round = 0; round < Integer.parseInt(args[3]); round++) {
            for (int k = 0; k < subjects.size(); k++) {
                String subject = subjects.get((k + round) % subjects.size());
                requireNonNull(all.get(subject)).add(run(subject, requireNonNull(commands.get(subject))));
            }
        }
        System.out.println(
                "| | prompt words/s | lowest - highest | decode, tokens/s | lowest - highest |\n|---|---|---|---|---|");
        List<Rates> ours = requireNonNull(all.get(OURS));
        all.forEach((subject, rates) -> print(subject, rates, rates));
        all.forEach((subject, rates) -> {
            if (rates != ours) {
                print(OURS + " / " + subject, ours, rates);
            }
        });
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

    private static Rates run(String subject, List<String> command) throws IOException, InterruptedException {
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
            throw new IOException(subject + " ended without a result, exit code " + process.exitValue() + ": "
                    + String.join(" ", command));
        }
        return rates;
    }
}
