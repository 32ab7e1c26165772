package io.kvfold.benchmarks;

import io.kvfold.Engine;
import io.kvfold.bench.Timeline;
import io.kvfold.langchain4j.KvfoldStreamingChatModel;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Random;
import java.util.function.LongFunction;

/**
 * Users of one application at once, whose prompts begin with the same document: throughput of all and time to the first
 * token, with the option {@code prefix-sharing} and without, in turn. Each round has a document of its own.
 */
public final class SharedPrefix {

    private static final List<String> WORDS = List.of(
            "once", "upon", "a", "time", "there", "was", "little", "girl", "who", "loved", "her", "red", "ball");

    private SharedPrefix() {}

    private record Round(double tokensPerSecond, double median, double worst, long computed) {}

    /** Arguments: a GGUF file, words of the document, users, tokens of an answer, rounds, threads. */
    public static void main(String[] args) throws InterruptedException {
        if (args.length != 6) {
            throw new IllegalArgumentException(
                    "arguments: <model.gguf> <document words> <users> <tokens> <rounds> <threads>");
        }
        int words = Integer.parseInt(args[1]);
        int users = Integer.parseInt(args[2]);
        int tokens = Integer.parseInt(args[3]);
        int rounds = Integer.parseInt(args[4]);
        List<List<Round>> measured = List.of(new ArrayList<>(), new ArrayList<>());
        for (int round = 0; round < rounds; round++) {
            for (boolean shares : round % 2 == 0 ? new boolean[] {true, false} : new boolean[] {false, true}) {
                try (Engine engine = Engine.builder()
                                .model(Path.of(args[0]))
                                .slots(users)
                                .contextSize(3 * words + 256 + tokens)
                                .threads(Integer.parseInt(args[5]))
                                .option("ignore-eos", true)
                                .option("prefix-sharing", shares)
                                .open();
                        KvfoldStreamingChatModel model = KvfoldStreamingChatModel.builder()
                                .engine(engine)
                                .temperature(0.0)
                                .build()) {
                    measured.get(shares ? 0 : 1).add(measure(engine, model, document(words, round), users, tokens));
                }
            }
        }
        List<Round> with = measured.get(0);
        List<Round> without = measured.get(1);
        print("shared", with);
        print("each its own", without);
        double[] ratios = new double[rounds];
        Arrays.setAll(
                ratios, i -> with.get(i).tokensPerSecond() / without.get(i).tokensPerSecond());
        Arrays.sort(ratios);
        System.out.printf(
                Locale.ROOT,
                "throughput: %.2f times (%.2f to %.2f)%n",
                ratios[rounds / 2],
                ratios[0],
                ratios[rounds - 1]);
    }

    private static Round measure(Engine engine, KvfoldStreamingChatModel model, String document, int users, int tokens)
            throws InterruptedException {
        List<LongFunction<Timeline>> chats = new ArrayList<>();
        for (int i = 0; i < users; i++) {
            String prompt = document + " Question " + i + ": what happened then?";
            chats.add(start -> StreamedAnswer.of(model, prompt, tokens, start));
        }
        List<Timeline> timelines = Timeline.atOnce(chats);
        double[] first =
                timelines.stream().mapToDouble(Timeline::first).sorted().toArray();
        double last = timelines.stream().mapToDouble(Timeline::last).max().orElseThrow();
        return new Round(
                users * tokens / last,
                first[users / 2],
                first[(99 * users - 1) / 100],
                engine.tokenStats().promptTokens());
    }

    private static void print(String what, List<Round> rounds) {
        Round median = rounds.stream()
                .sorted((a, b) -> Double.compare(a.tokensPerSecond(), b.tokensPerSecond()))
                .toList()
                .get(rounds.size() / 2);
        System.out.printf(
                Locale.ROOT,
                "%-14s %8.1f tok/s  first token p50 %.2f s, p99 %.2f s  %d prompt tokens computed%n",
                what,
                median.tokensPerSecond(),
                median.median(),
                median.worst(),
                median.computed());
    }

    private static String document(int words, long seed) {
        StringBuilder document = new StringBuilder("Story " + seed + ":");
        new Random(seed)
                .ints(words, 0, WORDS.size())
                .forEach(word -> document.append(' ').append(WORDS.get(word)));
        return document.append('.').toString();
    }
}
