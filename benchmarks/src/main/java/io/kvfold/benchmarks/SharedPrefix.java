package io.kvfold.benchmarks;

import static java.util.Objects.requireNonNull;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.bench.Spread;
import io.kvfold.bench.Timeline;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.atomic.LongAdder;
import java.util.function.LongFunction;
import java.util.function.ToDoubleFunction;
import java.util.stream.Stream;

/**
 * Users of one server at once, whose conversations begin with the same document or list of tools: throughput of all, and time
 * to the first token. The servers are started in turn, each for one measurement, and asked by {@code /v1/chat/completions}.
 * Each round has a document of its own. Without a document, and with long questions, it tells what looking for common beginnings
 * costs where there are none.
 */
public final class SharedPrefix {

    private static final List<String> WORDS = List.of(
            "once", "upon", "a", "time", "there", "was", "little", "girl", "who", "loved", "her", "red", "ball");

    private static final ObjectMapper JSON = new ObjectMapper();

    private final HttpClient client =
            HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    private final URI server;
    private final int users;
    private final int questionWords;
    private final int tokens;
    private final int turns;

    private SharedPrefix(int port, int users, int questionWords, int tokens, int turns) {
        this.server = URI.create("http://127.0.0.1:" + port);
        this.users = users;
        this.questionWords = questionWords;
        this.tokens = tokens;
        this.turns = turns;
    }

    private record Round(double tokensPerSecond, double median, double worst, long computed) {}

    /**
     * Arguments: words of the document, words that each question begins with, users, tokens of an answer, turns of a
     * conversation, rounds, a port; then servers as {@code name=command}, which listen on that port of the loopback interface.
     * The first one is compared with the others.
     */
    public static void main(String[] args) throws IOException, InterruptedException {
        if (args.length < 8 || !Stream.of(args).skip(7).allMatch(each -> each.contains("="))) {
            throw new IllegalArgumentException(
                    "arguments: <document words> <question words> <users> <tokens> <turns> <rounds> <port> name=command ...");
        }
        int[] numbers = Stream.of(args).limit(7).mapToInt(Integer::parseInt).toArray();
        SharedPrefix workload = new SharedPrefix(numbers[6], numbers[2], numbers[1], numbers[3], numbers[4]);
        Map<String, List<String>> commands = new LinkedHashMap<>();
        for (String peer : List.of(args).subList(7, args.length)) {
            String[] parts = peer.split("=", 2);
            commands.put(parts[0], List.of(parts[1].trim().split("\\s+")));
        }
        List<String> names = List.copyOf(commands.keySet());
        Map<String, List<Round>> measured = new LinkedHashMap<>();
        names.forEach(name -> measured.put(name, new ArrayList<>()));
        for (int round = 0; round < numbers[5]; round++) {
            for (int k = 0; k < names.size(); k++) {
                String name = names.get((k + round) % names.size());
                requireNonNull(measured.get(name))
                        .add(workload.measure(requireNonNull(commands.get(name)), words("Story", numbers[0], round)));
            }
        }
        System.out.println("| | tokens/s | first token p50, s | p99, s | prompt tokens computed | ratio of tokens/s |\n"
                + "|---|---|---|---|---|---|");
        List<Round> first = requireNonNull(measured.get(names.get(0)));
        measured.forEach((name, rounds) -> System.out.printf(
                Locale.ROOT,
                "| %s | %s | %s | %s | %d | %s |%n",
                name,
                text(spread(rounds, Round::tokensPerSecond)),
                text(spread(rounds, Round::median)),
                text(spread(rounds, Round::worst)),
                rounds.get(rounds.size() - 1).computed(),
                rounds == first ? "" : text(ratios(first, rounds))));
    }

    private static Spread spread(List<Round> rounds, ToDoubleFunction<Round> figure) {
        return Spread.of(rounds.stream().mapToDouble(figure).toArray());
    }

    private static Spread ratios(List<Round> first, List<Round> others) {
        double[] ratios = new double[others.size()];
        for (int i = 0; i < ratios.length; i++) {
            ratios[i] = first.get(i).tokensPerSecond() / others.get(i).tokensPerSecond();
        }
        return Spread.of(ratios);
    }

    private static String text(Spread spread) {
        return String.format(Locale.ROOT, "%.2f (%.2f - %.2f)", spread.median(), spread.lowest(), spread.highest());
    }

    private Round measure(List<String> command, String document) throws IOException, InterruptedException {
        Process process = new ProcessBuilder(command)
                .redirectErrorStream(true)
                .redirectOutput(ProcessBuilder.Redirect.DISCARD)
                .start();
        try {
            waitFor(process, command);
            ask(
                    JSON.createArrayNode().add(message("user", "Hello")),
                    System.nanoTime(),
                    new ArrayList<>(),
                    new LongAdder());
            List<Double> firsts = new ArrayList<>();
            LongAdder computed = new LongAdder();
            List<LongFunction<Timeline>> conversations = new ArrayList<>();
            for (int i = 0; i < users; i++) {
                String question = words("Question", questionWords, i) + " What happened then?";
                conversations.add(start -> converse(document + " " + question, start, firsts, computed));
            }
            List<Timeline> timelines = Timeline.atOnce(conversations);
            double last = timelines.stream().mapToDouble(Timeline::last).max().orElseThrow();
            double[] sorted = firsts.stream().mapToDouble(each -> each).sorted().toArray();
            return new Round(
                    users * turns * tokens / last,
                    sorted[sorted.length / 2],
                    sorted[(99 * sorted.length - 1) / 100],
                    computed.sum());
        } finally {
            process.destroyForcibly().waitFor();
        }
    }

    private void waitFor(Process process, List<String> command) throws IOException, InterruptedException {
        HttpRequest health = HttpRequest.newBuilder(server.resolve("/health")).build();
        while (process.isAlive()) {
            try {
                if (client.send(health, HttpResponse.BodyHandlers.discarding()).statusCode() == 200) {
                    return;
                }
            } catch (IOException notYet) {
                // it does not listen
            }
            Thread.sleep(100);
        }
        throw new IOException("exit code " + process.exitValue() + ": " + String.join(" ", command));
    }

    /** Adds the seconds that each turn waited for its first token. */
    private Timeline converse(String question, long start, List<Double> firsts, LongAdder computed) {
        ArrayNode messages = JSON.createArrayNode().add(message("user", question));
        List<Double> seconds = new ArrayList<>();
        for (int turn = 0; turn < turns; turn++) {
            double asked = 1e-9 * (System.nanoTime() - start);
            int before = seconds.size();
            String answer = ask(messages, start, seconds, computed);
            synchronized (firsts) {
                firsts.add(seconds.get(before) - asked);
            }
            messages.add(message("assistant", answer)).add(message("user", "And what came of turn " + turn + "?"));
        }
        return new Timeline(seconds);
    }

    private String ask(ArrayNode messages, long start, List<Double> seconds, LongAdder computed) {
        ObjectNode body = JSON.createObjectNode()
                .put("stream", true)
                .put("temperature", 0.0)
                .put("ignore_eos", true)
                .put("timings_per_token", true)
                .put("max_tokens", tokens);
        body.set("messages", messages);
        HttpRequest request = HttpRequest.newBuilder(server.resolve("/v1/chat/completions"))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body.toString()))
                .build();
        StringBuilder answer = new StringBuilder();
        JsonNode timings = JSON.nullNode();
        try (Stream<String> lines =
                client.send(request, HttpResponse.BodyHandlers.ofLines()).body()) {
            for (String line : (Iterable<String>) lines::iterator) {
                if (!line.startsWith("data: {")) {
                    continue;
                }
                JsonNode event = JSON.readTree(line.substring("data: ".length()));
                String text = event.at("/choices/0/delta/content").asText("");
                if (!text.isEmpty() && !text.equals("null")) {
                    seconds.add(1e-9 * (System.nanoTime() - start));
                    answer.append(text);
                }
                timings = event.has("timings") ? event.get("timings") : timings;
            }
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
        if (timings.path("predicted_n").asInt() != tokens) {
            throw new IllegalStateException(
                    "the answer has " + timings.path("predicted_n") + " tokens instead of " + tokens);
        }
        computed.add(timings.path("prompt_n").asLong());
        return answer.toString();
    }

    private static ObjectNode message(String role, String text) {
        return JSON.createObjectNode().put("role", role).put("content", text);
    }

    private static String words(String title, int count, long number) {
        StringBuilder text = new StringBuilder(title + " " + number + ":");
        new Random(number)
                .ints(count, 0, WORDS.size())
                .forEach(word -> text.append(' ').append(WORDS.get(word)));
        return text.append('.').toString();
    }
}
