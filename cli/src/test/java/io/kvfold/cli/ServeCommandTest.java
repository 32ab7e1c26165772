package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;

import io.kvfold.Engine;
import io.kvfold.RealLibrary;
import io.kvfold.TinyModel;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.condition.DisabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;

@Timeout(60)
final class ServeCommandTest {

    private static final String QUESTION =
            "{\"messages\": [{\"role\": \"user\", \"content\": \"who\"}], \"max_tokens\": 4, \"stream\": %s}";

    private static final String TWO_ANSWERS = QUESTION.replace("{\"messages\"", "{\"n\": 2, \"messages\"");

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path folder;

    @SuppressWarnings("NullAway.Init")
    private Path model;

    @BeforeEach
    void writeModel() throws IOException {
        RealLibrary.require();
        model = TinyModel.write(folder.resolve("tiny.gguf"), 1);
    }

    private CommandRun serve(String... arguments) {
        List<String> all = new ArrayList<>(List.of("serve", "-m", model.toString(), "-t", "1"));
        all.addAll(List.of(arguments));
        return CommandRun.of(Engine::builder, all.toArray(String[]::new));
    }

    @Test
    void saysThatAPortIsInUse() throws IOException {
        try (ServerSocket taken = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            CommandRun run = serve("--port", String.valueOf(taken.getLocalPort()));

            assertThat(run.exitCode()).isEqualTo(ExitCode.ERROR);
            assertThat(run.err())
                    .contains("kvfold: cannot listen on 127.0.0.1 port " + taken.getLocalPort())
                    .contains("is the port in use?");
        }
    }

    @Test
    void saysThatAPortIsNone() {
        CommandRun run = serve("--port", "70000");

        assertThat(run.exitCode()).isEqualTo(ExitCode.ERROR);
        assertThat(run.err()).contains("\"port\" is 70000 but must be in [0, 65535]");
    }

    @Test
    void doesNotServeEverybodyForAKeyThatIsEmpty() throws IOException {
        Path none = Files.writeString(folder.resolve("none"), "# none\n");
        for (CommandRun run : List.of(
                serve("--host", "0.0.0.0", "--port", "0", "--api-key", ""),
                serve("--port", "0", "--api-key-file", none.toString()))) {
            assertThat(run.exitCode()).isEqualTo(ExitCode.ERROR);
            assertThat(run.err()).contains("hold no key");
        }
    }

    @Test
    void saysThatAKeyFileIsMissing() {
        CommandRun run = serve("--api-key-file", folder.resolve("none").toString());

        assertThat(run.exitCode()).isEqualTo(ExitCode.ERROR);
        assertThat(run.err()).contains("api-key-file").contains("none");
    }

    @Test
    @DisabledOnOs(value = OS.WINDOWS, disabledReason = "there is no SIGINT to send")
    void answersUntilItIsInterrupted() throws Exception {
        Path keys = Files.writeString(folder.resolve("keys"), "# for the test\nsecret\n");
        Process process = new ProcessBuilder(
                        Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                        "-cp",
                        System.getProperty("java.class.path"),
                        "-Dkvfold.library.path=" + RealLibrary.file(),
                        Main.class.getName(),
                        "serve",
                        "-m",
                        model.toString(),
                        "-t",
                        "1",
                        "--port",
                        "0",
                        "--api-key-file",
                        keys.toString())
                .redirectErrorStream(true)
                .start();
        try (BufferedReader printed =
                new BufferedReader(new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8))) {
            String line = printed.readLine();
            assertThat(line).matches("listening on http://127\\.0\\.0\\.1:\\d+");
            URI address = URI.create(line.substring("listening on ".length()));

            assertThat(post(address, "", QUESTION.formatted("false")).statusCode())
                    .isEqualTo(401);
            HttpResponse<String> answer = post(address, "secret", QUESTION.formatted("false"));
            assertThat(answer.statusCode()).isEqualTo(200);
            assertThat(answer.body()).contains("\"object\":\"chat.completion\"", "\"completion_tokens\":4");
            assertThat(post(address, "secret", QUESTION.formatted("true")).body())
                    .endsWith("data: [DONE]\n\n");
            assertThat(post(address, "secret", TWO_ANSWERS.formatted("false")).body())
                    .contains("\"index\":1");

            sendsATextOfManyMegabytes(address);
            boolean interrupt = !ignoresInterrupts();
            new ProcessBuilder("kill", interrupt ? "-INT" : "-TERM", String.valueOf(process.pid()))
                    .start()
                    .waitFor();
            assertThat(process.waitFor(20, TimeUnit.SECONDS)).isTrue();
            assertThat(process.exitValue()).isEqualTo(interrupt ? ExitCode.CANCELLED : 128 + 15);
            assertThat(printed.readLine()).isNull();
        } finally {
            process.destroyForcibly();
        }
    }

    /** Nothing interrupts the tokeniser, which takes half a minute for it. */
    private static void sendsATextOfManyMegabytes(URI address) throws IOException {
        String body = "{\"content\": \"" + "lorem ipsum dolor ".repeat(3_000_000) + "\"}";
        Socket client = new Socket(address.getHost(), address.getPort()); // goes with this process
        client.getOutputStream()
                .write(("POST /tokenize HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer secret\r\n"
                                + "Content-Type: application/json\r\nContent-Length: " + body.length() + "\r\n\r\n"
                                + body)
                        .getBytes(StandardCharsets.US_ASCII));
    }

    /** Whoever starts a job in the background of a script ignores SIGINT for it, and what it starts inherits that. */
    private static boolean ignoresInterrupts() throws IOException {
        Path status = Path.of("/proc/self/status");
        return Files.isReadable(status)
                && Files.readAllLines(status).stream()
                        .filter(line -> line.startsWith("SigIgn:"))
                        .anyMatch(line ->
                                (Long.parseUnsignedLong(line.substring(7).strip(), 16) & 1 << (2 - 1)) != 0);
    }

    private static HttpResponse<String> post(URI address, String key, String body) throws Exception {
        return HttpClient.newHttpClient()
                .send(
                        HttpRequest.newBuilder(address.resolve("/v1/chat/completions"))
                                .header("Authorization", "Bearer " + key)
                                .header("Content-Type", "application/json")
                                .POST(HttpRequest.BodyPublishers.ofString(body))
                                .build(),
                        BodyHandlers.ofString());
    }
}
