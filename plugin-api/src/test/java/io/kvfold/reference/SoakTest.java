package io.kvfold.reference;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.EngineServer;
import io.kvfold.FlashAttention;
import io.kvfold.Generation;
import io.kvfold.KvCacheStats;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.RealLibrary;
import io.kvfold.reference.Shape.Architecture;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.Random;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/**
 * Forty clients at once, half of them over HTTP, for {@code -Dkvfold.soak.minutes} minutes (10) on a cache of one and a half
 * of the longest request: some cancel, one reads nothing for a while, and each answer is that of the request alone.
 */
@Tag("slow")
@Timeout(value = 60, unit = TimeUnit.MINUTES)
final class SoakTest {
    private static final int CLIENTS = 40;
    private static final int LONGEST = 170;
    private static final int LAYERS = 4;
    private static final double GAP = 1e-3;

    private static final Shape SHAPE = new Shape(Architecture.LLAMA, 96, 48, 80, 8, 4, 64, 1e-5, 10000);
    private static final ComparedModel MODEL = ComparedModel.forAnyPlan(SHAPE, LAYERS, 1);
    private static final ObjectMapper JSON = new ObjectMapper();

    @TempDir
    private static Path folder;

    private final AtomicInteger answers = new AtomicInteger();
    private final AtomicInteger cancelled = new AtomicInteger();
    private final AtomicLong longestWait = new AtomicLong();

    @BeforeAll
    static void needsTheLibrary() {
        RealLibrary.require();
    }

    @Test
    void everyAnswerOfEveryClientIsRight() throws Exception {
        Duration time =
                Duration.ofSeconds((long) (60 * Double.parseDouble(System.getProperty("kvfold.soak.minutes", "10"))));
        try (Engine engine = open();
                EngineServer server = engine.server().port(0).start()) {
            List<ObjectNode> bodies = new ArrayList<>();
            List<JsonNode> alone = new ArrayList<>();
            Random random = new Random(1);
            for (int i = 0; i < 32; i++) {
                int prompt = 5 + random.nextInt(100);
                bodies.add(request(prompt, 5 + random.nextInt(LONGEST - prompt - 5), i));
                alone.add(engine.call("/completion", bodies.get(i)));
            }
            long end = System.nanoTime() + time.toNanos();
            ExecutorService clients = Executors.newCachedThreadPool();
            List<Future<?>> running = new ArrayList<>();
            for (int i = 0; i < CLIENTS; i++) {
                Random own = new Random(i);
                URI address = server.addresses().get(0);
                boolean http = i % 2 == 0;
                running.add(clients.submit(() -> {
                    while (System.nanoTime() < end) {
                        int which = own.nextInt(bodies.size());
                        long from = System.nanoTime();
                        if (!http && own.nextInt(5) == 0) {
                            cancel(engine, bodies.get(which), own);
                            continue;
                        }
                        JsonNode answer =
                                http ? post(address, bodies.get(which)) : engine.call("/completion", bodies.get(which));
                        assertSame(alone.get(which), answer);
                        answers.incrementAndGet();
                        longestWait.accumulateAndGet(System.nanoTime() - from, Math::max);
                    }
                    return null;
                }));
            }
            running.add(clients.submit(() -> {
                while (System.nanoTime() < end) {
                    stall(engine, bodies.get(3));
                }
                return null;
            }));
            for (Future<?> each : running) {
                each.get();
            }
            clients.shutdown();
            KvCacheStats stats = engine.kvCacheStats();
            System.out.printf(
                    "%d answers, %d cancelled, %d preemptions, %d tokens computed again, longest answer %.1f s%n",
                    answers.get(),
                    cancelled.get(),
                    stats.preemptions(),
                    stats.tokensRecomputed(),
                    longestWait.get() / 1e9);
            assertThat(answers).hasPositiveValue();
            assertThat(stats.preemptions()).isPositive();
            assertThat(stats.requestsSuspended()).isZero();
            assertThat(stats.requestsWaiting()).isZero();
            assertThat(stats.slotsBusy()).isZero();
        }
    }

    private void cancel(Engine engine, ObjectNode body, Random random) throws InterruptedException {
        try (Generation generation = engine.complete(body.deepCopy().put("stream", true))) {
            Thread.sleep(random.nextInt(50));
            generation.cancel();
            cancelled.incrementAndGet();
        }
    }

    /** Reads one part, nothing for two seconds, and then the rest. */
    private static void stall(Engine engine, ObjectNode body) throws InterruptedException {
        try (Generation generation = engine.complete(body.deepCopy().put("stream", true))) {
            assertThat(generation.next()).isNotNull();
            Thread.sleep(2000);
            while (generation.next() != null) {
                continue;
            }
        }
    }

    private static JsonNode post(URI address, ObjectNode body) throws IOException, InterruptedException {
        HttpRequest request = HttpRequest.newBuilder(address.resolve("/completion"))
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body.toString()))
                .build();
        HttpResponse<String> response = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        assertThat(response.statusCode()).as(response.body()).isEqualTo(200);
        return JSON.readTree(response.body());
    }

    private static void assertSame(JsonNode alone, JsonNode loaded) {
        JsonNode expected = alone.path("tokens");
        for (int i = 0; i < expected.size(); i++) {
            JsonNode top = alone.path("completion_probabilities").path(i).path("top_logprobs");
            double gap = top.path(0).path("logprob").asDouble()
                    - top.path(1).path("logprob").asDouble();
            int actual = loaded.path("tokens").path(i).asInt(-1);
            if (gap <= GAP && actual != expected.path(i).asInt()) {
                return;
            }
            assertThat(actual)
                    .as("token %d, gap %f", i, gap)
                    .isEqualTo(expected.path(i).asInt());
        }
        assertThat(loaded.path("tokens").size()).isEqualTo(expected.size());
    }

    private static ObjectNode request(int prompt, int answer, int seed) {
        ObjectNode body = JSON.createObjectNode()
                .put("n_predict", answer)
                .put("ignore_eos", true)
                .put("temperature", 0.0)
                .put("n_probs", 2)
                .put("return_tokens", true);
        for (int token : MODEL.tokens(prompt, seed)) {
            body.withArray("prompt").add(token);
        }
        return Objects.requireNonNull(body);
    }

    private static Engine open() throws IOException {
        KvPlan plan = KvPlan.parse("standard", LAYERS);
        return Engine.builder()
                .model(MODEL.writeForText(folder.resolve("soak.gguf"), plan))
                .contextSize(256)
                .slots(6)
                .option("kv-unified-per-slot", 256) // so that all slots together have no more
                .threads(1)
                .ubatchSize(64)
                .maxQueue(1000)
                .kvCacheTypes(KvType.F32, KvType.F32)
                .flashAttention(FlashAttention.OFF)
                .open();
    }
}
