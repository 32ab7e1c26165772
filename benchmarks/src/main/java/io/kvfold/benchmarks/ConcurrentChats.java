package io.kvfold.benchmarks;

import static java.util.Objects.requireNonNull;

import com.fasterxml.jackson.databind.ObjectMapper;
import io.kvfold.Engine;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.bench.Bench;
import io.kvfold.bench.Plots;
import io.kvfold.bench.Report;
import io.kvfold.bench.Result;
import io.kvfold.bench.Sample;
import io.kvfold.bench.Subject;
import io.kvfold.bench.Timeline;
import io.kvfold.bench.Workload;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKeys;
import io.kvfold.langchain4j.KvfoldStreamingChatModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.function.LongFunction;

/**
 * Chats side by side through the streaming ChatModel, as users of one application: throughput of all and time to the
 * first token, under several plans. Every plan has an engine with as many slots as the most chats; a round measures all
 * plans and numbers once, and the order of the plans turns. Prompts differ from the first word on, so that none shares
 * the beginning of another.
 */
public final class ConcurrentChats {

    private static final List<String> WORDS = List.of(
            "once", "upon", "a", "time", "there", "was", "little", "girl", "who", "loved", "her", "red", "ball");

    private ConcurrentChats() {}

    private record Settings(Path model, int words, int tokens, int rounds, int threads, int[] chats) {

        int mostChats() {
            return Arrays.stream(chats).max().orElseThrow();
        }

        /** Room for a word of a few tokens, the chat template and the answer. */
        int contextPerChat() {
            return 256 * ((4 * words + 64 + tokens + 255) / 256);
        }
    }

    private record Case(Subject subject, int chats) {}

    /**
     * Arguments: a GGUF file, plans, numbers of chats, words of a prompt, tokens of an answer, rounds, threads, a folder
     * for {@code results.json} and plots.
     */
    public static void main(String[] args) throws IOException, InterruptedException {
        if (args.length != 8) {
            throw new IllegalArgumentException(
                    "arguments: <model.gguf> <plan,plan...> <chats,chats...> <prompt words> <tokens> <rounds> <threads> <folder>");
        }
        Path model = Path.of(args[0]);
        GgufFile header = GgufFile.open(model);
        long layers = header.integer(GgufKeys.blockCount(header.architecture())).orElseThrow();
        List<Subject> subjects = Arrays.stream(args[1].split(","))
                .map(plan -> new Subject(model, plan, KvPlan.parse(plan, (int) layers), KvType.F16))
                .toList();
        Settings settings = new Settings(
                model,
                Integer.parseInt(args[3]),
                Integer.parseInt(args[4]),
                Integer.parseInt(args[5]),
                Integer.parseInt(args[6]),
                Arrays.stream(args[2].split(",")).mapToInt(Integer::parseInt).toArray());
        List<Result> results = measure(settings, subjects);

        System.out.print(Report.markdown(results));
        Path folder = Path.of(args[7]);
        Files.createDirectories(folder);
        Files.writeString(
                folder.resolve("results.json"),
                new ObjectMapper().writerWithDefaultPrettyPrinter().writeValueAsString(Report.json(results)) + "\n");
        Plots.write(results, folder).forEach(file -> System.out.println("wrote " + file));
    }

    private static List<Result> measure(Settings settings, List<Subject> subjects) throws InterruptedException {
        Map<Case, List<Sample>> samples =
                new TreeMap<>(Comparator.comparing(Case::chats).thenComparing(one -> subjects.indexOf(one.subject())));
        int promptTokens = 0;
        for (int round = 0; round < settings.rounds(); round++) {
            for (int k = 0; k < subjects.size(); k++) {
                Subject subject = subjects.get((k + round) % subjects.size());
                double before = Bench.residentBytes();
                try (Engine engine = open(settings, subject);
                        KvfoldStreamingChatModel chatModel = KvfoldStreamingChatModel.builder()
                                .engine(engine)
                                .temperature(0.0)
                                .build()) {
                    promptTokens = engine.tokenize(prompt(settings.words(), 0), true, false).length;
                    StreamedAnswer.of(chatModel, prompt(settings.words(), -1), settings.tokens(), 0); // warms up
                    for (int chats : settings.chats()) {
                        Workload workload = new Workload(promptTokens, settings.tokens());
                        List<Timeline> timelines = Timeline.atOnce(chats(settings, chatModel, chats, round));
                        long kvBytes = engine.kvCacheStats().bytesAllocated();
                        samples.computeIfAbsent(new Case(subject, chats), one -> new ArrayList<>())
                                .add(Sample.of(workload, timelines, kvBytes, Bench.residentBytes() - before));
                    }
                }
            }
        }
        Workload workload = new Workload(promptTokens, settings.tokens());
        return samples.entrySet().stream()
                .map(entry -> new Result(
                        entry.getKey().subject(), workload, entry.getKey().chats(), entry.getValue()))
                .toList();
    }

    private static Engine open(Settings settings, Subject subject) {
        return Engine.builder()
                .model(settings.model())
                .kvPlan(requireNonNull(subject.plan()))
                .slots(settings.mostChats())
                .contextSize(settings.contextPerChat())
                .option("kv-unified", false)
                .threads(settings.threads())
                .option("ignore-eos", true)
                .open();
    }

    private static List<LongFunction<Timeline>> chats(
            Settings settings, KvfoldStreamingChatModel model, int chats, int round) {
        List<LongFunction<Timeline>> all = new ArrayList<>();
        for (int i = 0; i < chats; i++) {
            String prompt = prompt(settings.words(), ((long) round * 1000 + chats) * 1000 + i);
            all.add(start -> StreamedAnswer.of(model, prompt, settings.tokens(), start));
        }
        return all;
    }

    private static String prompt(int words, long seed) {
        StringBuilder prompt = new StringBuilder("Story " + seed + ":");
        new Random(seed)
                .ints(words, 0, WORDS.size())
                .forEach(word -> prompt.append(' ').append(WORDS.get(word)));
        return prompt.toString();
    }
}
