package io.kvfold.examples.spring;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.kvfold.Engine;
import io.kvfold.RealLibrary;
import io.kvfold.TinyModel;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.ConnectException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandler;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.SpringBootVersion;
import org.springframework.context.ConfigurableApplicationContext;

/** The application as it runs, over HTTP, with a model of random weights. */
class ChatApplicationTest {

    private static final ObjectMapper JSON = new ObjectMapper();

    private static final HttpClient CLIENT = HttpClient.newHttpClient();

    @TempDir
    static Path directory;

    private static ConfigurableApplicationContext application;

    @BeforeAll
    static void start() throws Exception {
        RealLibrary.require();
        application = start(TinyModel.write(directory.resolve("tiny.gguf"), 1));
    }

    @AfterAll
    static void stop() {
        if (application != null) {
            application.close();
        }
    }

    private static ConfigurableApplicationContext start(Path model) {
        return SpringApplication.run(
                ChatApplication.class,
                "--server.port=0",
                "--langchain4j.kvfold.engine.model-path=" + model,
                "--langchain4j.kvfold.engine.context-size=4096",
                "--langchain4j.kvfold.engine.slots=2",
                "--langchain4j.kvfold.engine.threads=1",
                "--langchain4j.kvfold.chat-model.max-output-tokens=8",
                "--langchain4j.kvfold.chat-model.temperature=0",
                "--langchain4j.kvfold.streaming-chat-model.max-output-tokens=1500");
    }

    private static URI uri(ConfigurableApplicationContext application, String path) {
        return URI.create("http://localhost:" + application.getEnvironment().getProperty("local.server.port") + path);
    }

    private static <T> HttpResponse<T> get(String path, BodyHandler<T> handler)
            throws IOException, InterruptedException {
        HttpRequest request = HttpRequest.newBuilder(uri(application, path))
                .timeout(Duration.ofSeconds(60))
                .build();
        return CLIENT.send(request, handler);
    }

    private static JsonNode json(String path) throws Exception {
        HttpResponse<String> response = get(path, BodyHandlers.ofString());
        assertThat(response.statusCode()).as(response.body()).isEqualTo(200);
        return JSON.readTree(response.body());
    }

    private static double meter(String name) throws Exception {
        return json("/actuator/metrics/" + name)
                .path("measurements")
                .path(0)
                .path("value")
                .asDouble();
    }

    @Test
    void runsOnTheVersionOfSpringBootThatIsToBeTested() {
        assertThat(SpringBootVersion.getVersion()).startsWith(System.getProperty("spring-boot.major") + ".");
    }

    @Test
    void answersAndCountsIt() throws Exception {
        double before = meter("kvfold.tokens?tag=type:generated");
        assertThat(json("/chat?message=hello").path("answer").asText()).isNotEmpty();
        Thread.sleep(1100); // meters are as old as a second
        assertThat(meter("kvfold.tokens?tag=type:generated")).isBetween(before + 1, before + 8 + 1500);
        assertThat(meter("kvfold.tokens.per.second?tag=type:generated")).isPositive();
        assertThat(meter("kvfold.kv.used")).isBetween(1.0, meter("kvfold.kv.allocated"));
        assertThat(meter("kvfold.slots")).isEqualTo(2);
        assertThat(meter("kvfold.requests.waiting")).isZero();
    }

    @Test
    void reportsHealth() throws Exception {
        JsonNode health = json("/actuator/health").path("components").path("kvfold");
        assertThat(health.path("status").asText()).isEqualTo("UP");
        assertThat(health.path("details").path("slots").asInt()).isEqualTo(2);
        assertThat(health.path("details").path("contextSize").asInt()).isEqualTo(4096);
    }

    @Test
    void stopsGeneratingWhenTheClientGoesAway() throws Exception {
        HttpResponse<InputStream> response = get("/stream?message=hello", BodyHandlers.ofInputStream());
        try (BufferedReader events =
                new BufferedReader(new InputStreamReader(response.body(), StandardCharsets.UTF_8))) {
            assertThat(events.readLine()).startsWith("data:{\"text\":");
        }
        Engine engine = application.getBean(Engine.class);
        long deadline = System.nanoTime() + Duration.ofSeconds(30).toNanos();
        while (engine.kvCacheStats().slotsBusy() > 0 && System.nanoTime() < deadline) {
            Thread.sleep(20);
        }
        assertThat(engine.kvCacheStats().slotsBusy()).isZero();
    }

    @Test
    void closesItsEngineWithTheContext() throws Exception {
        ConfigurableApplicationContext other = start(directory.resolve("tiny.gguf"));
        Engine engine = other.getBean(Engine.class);
        URI uri = uri(other, "/stream?message=hello");
        HttpResponse<InputStream> running =
                CLIENT.send(HttpRequest.newBuilder(uri).build(), BodyHandlers.ofInputStream());
        assertThat(running.body().read()).isPositive();
        other.close();
        assertThat(engine.isOpen()).isFalse();
        assertThatThrownBy(() -> CLIENT.send(HttpRequest.newBuilder(uri).build(), BodyHandlers.ofString()))
                .isInstanceOf(ConnectException.class);
        running.body().close();
    }
}
