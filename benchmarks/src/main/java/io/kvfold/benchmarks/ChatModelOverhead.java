package io.kvfold.benchmarks;

import io.kvfold.bench.Spread;
import io.kvfold.bench.Timeline;
import io.kvfold.langchain4j.KvfoldStreamingChatModel;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/**
 * What Java costs per token: greedy decoding of one sequence through the streaming ChatModel against the same through
 * kvfold.h from C (native/tools/decode_rate.c), in turn. The ChatModel stays open and has answered before, as in an
 * application that runs: in its first seconds the JVM's compiler takes the processor from llama.cpp's threads.
 */
public final class ChatModelOverhead {

    private static final int WARM_UP_TOKENS = 512;

    private ChatModelOverhead() {}

    /** Arguments: a GGUF file, the decode_rate program, tokens per answer, rounds, threads. */
    public static void main(String[] args) throws Exception {
        if (args.length != 5) {
            throw new IllegalArgumentException("arguments: <model.gguf> <decode_rate> <tokens> <rounds> <threads>");
        }
        int tokens = Integer.parseInt(args[2]);
        int rounds = Integer.parseInt(args[3]);
        int threads = Integer.parseInt(args[4]);
        List<Double> fromC = new ArrayList<>();
        List<Double> fromJava = new ArrayList<>();
        List<Double> ratios = new ArrayList<>();
        System.out.println("| round | C, tokens/s | Java, tokens/s | ratio |\n|---|---|---|---|");
        try (KvfoldStreamingChatModel model = open(args[0], Math.max(tokens, WARM_UP_TOKENS), threads)) {
            answer(model, WARM_UP_TOKENS);
            for (int round = 0; round < rounds; round++) {
                boolean javaFirst = round % 2 == 1;
                double java = javaFirst ? answer(model, tokens) : 0;
                double c = throughC(args[1], args[0], tokens, threads);
                java = javaFirst ? java : answer(model, tokens);
                fromC.add(c);
                fromJava.add(java);
                ratios.add(java / c);
                System.out.printf(Locale.ROOT, "| %d | %.2f | %.2f | %.3f |%n", round + 1, c, java, java / c);
            }
        }
        System.out.println("\n| | median | lowest - highest |\n|---|---|---|");
        print("C, tokens/s", fromC);
        print("Java, tokens/s", fromJava);
        print("ratio", ratios);
    }

    private static void print(String name, List<Double> values) {
        Spread spread = Spread.of(values.stream().mapToDouble(v -> v).toArray());
        System.out.printf(
                Locale.ROOT, "| %s | %.3f | %.3f - %.3f |%n", name, spread.median(), spread.lowest(), spread.highest());
    }

    private static double throughC(String program, String model, int tokens, int threads)
            throws IOException, InterruptedException {
        Process process = new ProcessBuilder(program, model, String.valueOf(tokens), "1", String.valueOf(threads))
                .redirectError(ProcessBuilder.Redirect.INHERIT)
                .start();
        double rate = Double.NaN;
        try (BufferedReader lines = process.inputReader(StandardCharsets.UTF_8)) {
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                if (line.startsWith("median ")) {
                    rate = Double.parseDouble(line.split(" ")[1]);
                }
            }
        }
        if (process.waitFor() != 0 || Double.isNaN(rate)) {
            throw new IOException(program + " failed with exit code " + process.exitValue());
        }
        return rate;
    }

    private static KvfoldStreamingChatModel open(String path, int tokens, int threads) {
        return KvfoldStreamingChatModel.builder()
                .modelPath(path)
                .contextSize(tokens + 64)
                .slots(1)
                .threads(threads)
                .engineOption("ignore-eos", true)
                .temperature(0.0)
                .build();
    }

    /** Tokens per second from the first text to the last, as decode_rate counts. */
    private static double answer(KvfoldStreamingChatModel model, int tokens) {
        Timeline answer = StreamedAnswer.of(model, "Once upon a time", tokens, System.nanoTime());
        return (tokens - 1) / (answer.last() - answer.first());
    }
}
