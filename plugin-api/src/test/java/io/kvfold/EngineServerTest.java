package io.kvfold;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.StandardProtocolFamily;
import java.net.URI;
import java.net.UnixDomainSocketAddress;
import java.nio.channels.ServerSocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.condition.DisabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** The server against clients that are slow, many, greedy, or somebody else's. */
@Timeout(120)
class EngineServerTest {

    private static final String SHORT = "{\"prompt\": \"a\", \"n_predict\": 2, \"ignore_eos\": true}";

    /** Each chunk is a kilobyte and more, so that the buffers of a connection are soon full. */
    private static final String ENDLESS =
            "{\"prompt\": \"a\", \"n_predict\": 3500, \"ignore_eos\": true, \"stream\": true, \"n_probs\": 10}";

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path folder;

    private final List<Socket> sockets = new ArrayList<>();

    @SuppressWarnings("NullAway.Init") // by open()
    private Engine engine;

    @BeforeEach
    void open() throws IOException {
        RealLibrary.require();
        engine = Engine.builder()
                .model(TinyModel.write(folder.resolve("tiny.gguf"), 1))
                .contextSize(4096)
                .slots(1)
                .threads(1)
                .open();
    }

    @AfterEach
    void close() throws IOException {
        for (Socket socket : sockets) {
            socket.close();
        }
        engine.close();
    }

    private EngineServer.Builder builder() {
        return engine.server().port(0);
    }

    private Socket connect(EngineServer server) throws IOException {
        Socket socket = new Socket();
        socket.setReceiveBufferSize(4096);
        socket.setSoTimeout(120_000);
        URI address = server.addresses().get(0);
        socket.connect(new InetSocketAddress(InetAddress.getByName(address.getHost()), address.getPort()));
        sockets.add(socket);
        return socket;
    }

    private static void send(Socket socket, String text) throws IOException {
        socket.getOutputStream().write(text.getBytes(StandardCharsets.UTF_8));
    }

    private static String request(String method, String path, String body, String... headers) {
        StringBuilder text = new StringBuilder(method + " " + path + " HTTP/1.1\r\nConnection: close\r\n");
        List<String> all = new ArrayList<>(List.of(headers));
        for (String usual : List.of("Host: 127.0.0.1", "Content-Type: application/json")) {
            String name = usual.substring(0, usual.indexOf(':') + 1);
            if (all.stream().noneMatch(header -> header.startsWith(name))) {
                all.add(usual);
            }
        }
        all.forEach(header -> text.append(header).append("\r\n"));
        return text + "Content-Length: " + body.length() + "\r\n\r\n" + body;
    }

    /** The whole answer to one request. */
    private String ask(EngineServer server, String method, String path, String body, String... headers)
            throws IOException {
        try (Socket socket = connect(server)) {
            send(socket, request(method, path, body, headers));
            return new String(socket.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        }
    }

    private static int status(String answer) {
        return Integer.parseInt(answer.split(" ", 3)[1]);
    }

    @Test
    void refusesToBeOpenToAllWhereAKeyWasMeant() throws IOException {
        assertThatThrownBy(() -> builder().apiKey("").start())
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("\"api-key\"");
        for (String content : List.of("", "\r\n", "# none yet\n", " \n")) {
            Path keys = Files.writeString(folder.resolve("keys"), content);
            assertThatThrownBy(() ->
                            builder().option("api-key-file", keys.toString()).start())
                    .isInstanceOf(InvalidRequestException.class)
                    .hasMessageContaining("hold no key");
        }
    }

    @Test
    void takesKeysFromAFileOfWindows() throws IOException {
        Path keys = Files.writeString(folder.resolve("keys"), "# keys\r\nfirst\r\nsecond\r\n");
        try (EngineServer server =
                builder().option("api-key-file", keys.toString()).start()) {
            assertThat(status(ask(server, "GET", "/props", "", "Authorization: Bearer second")))
                    .isEqualTo(200);
            assertThat(status(ask(server, "GET", "/props", "", "Authorization: Bearer third")))
                    .isEqualTo(401);
        }
    }

    @ParameterizedTest
    @CsvSource({
        "Host: evil.example, 403",
        "Host: evil.example:8080, 403",
        "Host: 127.0.0.1.evil.example, 403",
        "Host: localhost, 200",
        "Host: [::1]:8080, 200",
        "host: evil.example, 403",
        "Origin: https://evil.example, 403",
        "origin: null, 403",
        "Origin: http://localhost.evil.example, 403",
        "Origin: http://localhost:3000, 200",
        "Content-Type: text/plain, 415",
        "Content-Type: application/x-www-form-urlencoded, 415",
        "Content-Type: , 415",
        "Content-Type: application/json; charset=utf-8, 200",
        "content-type: Application/JSON, 200",
    })
    void answersThisMachineOnly(String header, int status) throws IOException {
        try (EngineServer server = builder().start()) {
            String own = header.toLowerCase(Locale.ROOT).startsWith("content-type") ? "Content-Type: " : "";
            String given = own
                    + header.substring(own.isEmpty() ? 0 : header.indexOf(':') + 1)
                            .strip();
            String answer = ask(server, "POST", "/completion", SHORT, own.isEmpty() ? header : given);

            assertThat(status(answer)).isEqualTo(status);
            assertThat(answer).contains(status == 200 ? "tokens_predicted" : "error");
        }
    }

    @Test
    void letsInTheOriginsThatItWasGiven() throws IOException {
        try (EngineServer server =
                builder().option("cors-origins", "https://app.example").start()) {
            assertThat(status(ask(server, "POST", "/completion", SHORT, "Origin: https://app.example")))
                    .isEqualTo(200);
            assertThat(status(ask(server, "POST", "/completion", SHORT, "Origin: https://evil.example")))
                    .isEqualTo(403);
        }
    }

    @Test
    void answersBesideConnectionsThatAreHalfOpen() throws IOException {
        try (EngineServer server = builder().start()) {
            for (int i = 0; i < 600; i++) {
                send(connect(server), "POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le");
            }
            assertThat(status(ask(server, "GET", "/health", ""))).isEqualTo(200);
            assertThat(status(ask(server, "POST", "/completion", SHORT))).isEqualTo(200);
        }
    }

    @Test
    void endsConnectionsThatDoNotSendTheirRequest() throws IOException {
        try (EngineServer server = builder().option("timeout", 1).start()) {
            Socket stalls = connect(server);
            send(stalls, "POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{");
            InputStream in = stalls.getInputStream();

            assertThat(in.readAllBytes())
                    .satisfiesAnyOf(
                            nothing -> assertThat(nothing).isEmpty(),
                            refusal -> assertThat(new String(refusal, StandardCharsets.UTF_8))
                                    .startsWith("HTTP/1.1 4"));
        }
    }

    /** A request that comes while its connection is closed is lost: Java's client sends no POST twice. */
    @Test
    void keepsConnectionsThatAreIdleUntilOthersNeedTheirPlace() throws Exception {
        String request = request("POST", "/completion", SHORT).replace("Connection: close\r\n", "");
        try (EngineServer server = builder().option("threads-http", 2).start()) {
            Socket first = connect(server);
            Socket second = connect(server);
            for (Socket each : List.of(first, second)) {
                send(each, request);
                assertThat(answerOnOpen(each)).startsWith("HTTP/1.1 200").contains("Keep-Alive: timeout=1800, max=100");
            }
            Thread.sleep(6_000); // upstream's server ends them after five seconds
            for (Socket each : List.of(first, second)) {
                send(each, request);
                assertThat(answerOnOpen(each)).startsWith("HTTP/1.1 200");
            }

            assertThat(status(ask(server, "POST", "/completion", SHORT))).isEqualTo(200);
        }
    }

    /** Upstream's server ends the connection of a stream, which it told nobody: the next request is lost. */
    @ParameterizedTest
    @CsvSource({
        "/completion, \"prompt\": \"a\"",
        "/v1/chat/completions, '\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]'",
    })
    void asksAgainOnTheConnectionOfAStream(String path, String prompt) throws IOException {
        String body = "{" + prompt + ", \"n_predict\": 2, \"ignore_eos\": true, \"stream\": true}";
        String request = request("POST", path, body).replace("Connection: close\r\n", "");
        try (EngineServer server = builder().start()) {
            Socket socket = connect(server);
            for (int i = 0; i < 3; i++) {
                send(socket, request);
                StringBuilder answer = new StringBuilder();
                while (!answer.toString().endsWith("\r\n0\r\n\r\n")) {
                    int next = socket.getInputStream().read();
                    assertThat(next).as("after " + answer).isNotNegative();
                    answer.append((char) next);
                }
                assertThat(answer).startsWith("HTTP/1.1 200").contains("data: ");
            }
        }
    }

    /** One answer, of a connection that stays open. */
    private static String answerOnOpen(Socket socket) throws IOException {
        StringBuilder answer = new StringBuilder();
        int end = Integer.MAX_VALUE;
        while (answer.length() < end) {
            int next = socket.getInputStream().read();
            if (next < 0) {
                break;
            }
            answer.append((char) next);
            if (end == Integer.MAX_VALUE && answer.indexOf("\r\n\r\n") >= 0) {
                String length = answer.substring(answer.indexOf("Content-Length: ") + "Content-Length: ".length());
                end = answer.length() + Integer.parseInt(length.substring(0, length.indexOf('\r')));
            }
        }
        return answer.toString();
    }

    @Test
    void answersOnceWhatIsNotHttp() throws IOException {
        try (EngineServer server = builder().start()) {
            for (String first : List.of(
                    "EHLO there", "GET / HTTP/1.1\r\nno header", "GET /health HTTP/1.1\r\nX: " + "a".repeat(100_000))) {
                Socket socket = connect(server);
                send(socket, first + "\r\n\r\n" + request("GET", "/health", "").repeat(3));
                String answers = new String(socket.getInputStream().readAllBytes(), StandardCharsets.UTF_8);

                assertThat(answers.split("HTTP/1.1 ", -1)).as(answers).hasSize(2);
                assertThat(status(answers)).isEqualTo(400);
                assertThat(answers).contains("application/json", "invalid_request_error");
            }
        }
    }

    @Test
    void takesAFormWithFilesWhereFilesAreMeantOnly() throws IOException {
        String form = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nb\r\n--x--\r\n";
        String type = "Content-Type: multipart/form-data; boundary=x";
        try (EngineServer server = builder().start()) {
            assertThat(status(ask(server, "POST", "/completion", form, type))).isEqualTo(415);
            assertThat(ask(server, "POST", "/v1/audio/transcriptions", form, type))
                    .contains("audio");
        }
    }

    @Test
    void closesBesideALongTextThatBecomesTokens() throws IOException {
        EngineServer server = builder().option("timeout", 300).start();
        for (String text : List.of("\\n".repeat(8_000_000), "<s>".repeat(3_000_000))) {
            send(connect(server), request("POST", "/tokenize", "{\"content\": \"" + text + "\"}"));
        }
        assertThat(ask(server, "GET", "/health", "")).contains("ok");

        long start = System.nanoTime();
        server.close();
        assertThat(System.nanoTime() - start).isLessThan(15_000_000_000L); // 5 s, if this were alone
    }

    @Test
    void freesTheSlotOfAReaderThatHasStopped() throws IOException {
        try (EngineServer server = builder().option("timeout", 1).start()) {
            Socket stopped = connect(server);
            send(stopped, request("POST", "/completion", ENDLESS));
            assertThat(stopped.getInputStream().read()).isEqualTo('H');

            assertThat(ask(server, "POST", "/completion", SHORT)).contains("tokens_predicted");
        }
    }

    @Test
    void closesWhateverItsClientsDo() throws IOException {
        EngineServer server = builder().start();
        connect(server);
        send(connect(server), "POST /completion HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n");
        Socket stopped = connect(server);
        send(stopped, request("POST", "/completion", ENDLESS));
        assertThat(stopped.getInputStream().read()).isEqualTo('H');
        send(connect(server), request("POST", "/completion", ENDLESS)); // waits for the slot

        long start = System.nanoTime();
        server.close();
        assertThat(System.nanoTime() - start).isLessThan(20_000_000_000L); // 30 s is what a client may take for each
    }

    @Test
    void letsOthersInBeforeARequestWithManyPrompts() throws Exception {
        try (EngineServer server = builder().start()) {
            String prompts = String.join(",", Collections.nCopies(2_000, "\"a\""));
            Socket greedy = connect(server);
            send(
                    greedy,
                    request(
                            "POST",
                            "/completion",
                            "{\"n_predict\": 100, \"ignore_eos\": true, \"prompt\": [" + prompts + "]}"));
            while (engine.tokenStats().generatedTokens() == 0) {
                Thread.sleep(10);
            }

            assertThat(ask(server, "POST", "/completion", SHORT)).contains("tokens_predicted");
            long generated = engine.tokenStats().generatedTokens();
            assertThat(generated).isLessThan(100_000); // of 200,000

            greedy.close();
            do {
                generated = engine.tokenStats().generatedTokens();
                Thread.sleep(1000);
            } while (generated != engine.tokenStats().generatedTokens());
            assertThat(generated).as("tokens once nothing is computed any more").isLessThan(150_000);
        }
    }

    @Test
    void refusesTooManyPrompts() throws IOException {
        try (EngineServer server = builder().start()) {
            String prompts = String.join(",", Collections.nCopies(20_000, "\"a\""));
            String answer = ask(server, "POST", "/completion", "{\"prompt\": [" + prompts + "]}");

            assertThat(status(answer)).isEqualTo(400);
            assertThat(answer).contains("20000 prompts or inputs, the limit is 2048");
        }
    }

    /** Each answer has 6 tokens. */
    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "/v1/chat/completions | \"messages\": [{\"role\": \"user\", \"content\": \"a\"}]  | 4 | 1",
                "/v1/chat/completions | \"messages\": [{\"role\": \"user\", \"content\": \"a\"}]  | 1 | 1",
                "/v1/completions      | \"prompt\": \"a\"                                             | 3 | 1",
                "/v1/completions      | \"prompt\": [\"a\", \"a\"]                                  | 2 | 2",
            })
    void countsTheTokensOfAllAnswers(String path, String fields, int answers, int prompts) throws IOException {
        String body = "{\"max_tokens\": 6, \"ignore_eos\": true, \"n\": " + answers + ", " + fields;
        try (Engine large = Engine.builder()
                        .model(folder.resolve("tiny.gguf"))
                        .contextSize(512)
                        .slots(4)
                        .threads(1)
                        .open();
                EngineServer server = large.server().port(0).start()) {
            JsonNode usage = Json.MAPPER
                    .readTree(bodyOf(ask(server, "POST", path, body + "}")))
                    .path("usage");
            int promptTokens = usage.path("prompt_tokens").asInt();
            assertThat(usage.path("completion_tokens").asInt()).isEqualTo(6 * answers * prompts);
            assertThat(usage.path("total_tokens").asInt()).isEqualTo(promptTokens + 6 * answers * prompts);
            assertThat(promptTokens % prompts).isZero();

            String events = ask(
                    server, "POST", path, body + ", \"stream\": true, \"stream_options\": {\"include_usage\": true}}");
            List<JsonNode> told = new ArrayList<>();
            int finished = 0;
            for (String line : events.split("\r?\n")) {
                if (line.startsWith("data: {")) {
                    JsonNode chunk = Json.MAPPER.readTree(line.substring(6));
                    if (chunk.has("usage")) {
                        assertThat(finished
                                        + (chunk.at("/choices/0/finish_reason").isTextual() ? 1 : 0))
                                .as("answers that have ended")
                                .isEqualTo(answers * prompts);
                        told.add(chunk.path("usage"));
                    }
                    finished += chunk.at("/choices/0/finish_reason").isTextual() ? 1 : 0;
                }
            }
            assertThat(finished).isEqualTo(answers * prompts);
            assertThat(events).contains("data: [DONE]");
            assertThat(told).hasSize(1);
            assertThat(told.get(0).path("completion_tokens").asInt()).isEqualTo(6 * answers * prompts);
            assertThat(told.get(0).path("prompt_tokens").asInt()).isEqualTo(promptTokens);

            if (path.contains("chat")) {
                JsonNode inProcess = large.call(path, (ObjectNode) Json.MAPPER.readTree(body + "}"));
                assertThat(inProcess.path("choices")).hasSize(answers);
                assertThat(inProcess.at("/usage/completion_tokens").asInt()).isEqualTo(6 * answers);
            }
        }
    }

    private static String bodyOf(String answer) {
        return answer.substring(answer.indexOf("\r\n\r\n") + 4);
    }

    /** A client asks again after any status from 500 on. */
    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "/v1/chat/completions | \"messages\": [M], \"response_format\": {\"type\": \"json_schema\","
                        + " \"json_schema\": {\"schema\": S}}",
                "/v1/responses | \"input\": [M], \"text\": {\"format\": {\"type\": \"json_schema\", \"name\": \"s\","
                        + " \"schema\": S}}",
                "/v1/messages | \"messages\": [M], \"output_config\": {\"format\": {\"type\": \"json_schema\","
                        + " \"schema\": S}}",
                "/completion | \"prompt\": \"a\", \"json_schema\": S",
            })
    void refusesASchemaThatNoGrammarHolds(String path, String fields) throws IOException {
        String schema = "{\"type\": \"object\", \"properties\": {\"n\": {\"type\": \"array\", \"uniqueItems\": true}}}";
        String body = "{\"max_tokens\": 4, "
                + fields.replace("M", "{\"role\": \"user\", \"content\": \"a\"}")
                        .replace("S", schema) + "}";
        try (EngineServer server = builder().start()) {
            String answer = ask(server, "POST", path, body);

            assertThat(status(answer)).isEqualTo(400);
            assertThat(answer).contains("invalid_request_error", "uniqueItems", "properties/n");
        }
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "{\"type\": \"document\", \"source\": {}}",
                "{\"type\": \"image\", \"source\": {\"type\": \"file\"}}",
                "{\"type\": \"tool_result\", \"tool_use_id\": \"1\", \"content\": 5}",
                "{\"type\": \"tool_result\", \"tool_use_id\": \"1\", \"content\": [{\"type\": \"document\"}]}",
                "{\"type\": \"text\"}",
                "{}",
            })
    void refusesPartsThatTheModelWouldNotSee(String part) throws IOException {
        String body = "{\"max_tokens\": 1, \"messages\": [{\"role\": \"user\", \"content\": [" + part + "]}]}";
        try (EngineServer server = builder().start()) {
            String answer = ask(server, "POST", "/v1/messages", body);

            assertThat(status(answer)).isEqualTo(400);
            assertThat(answer).contains("message 0");
        }
    }

    @ParameterizedTest
    @CsvSource({
        "/v1/responses, input, n, false",
        "/v1/responses, input, n, true",
        "/responses, input, n_cmpl, true",
        "/v1/messages, messages, n, true"
    })
    void refusesAnswersThatItHasNoPlaceFor(String path, String list, String name, boolean stream) throws IOException {
        String body = "{\"" + list + "\": [{\"role\": \"user\", \"content\": \"a\"}], \"max_tokens\": 1,"
                + " \"stream\": " + stream + ", \"" + name + "\": ";
        try (EngineServer server = builder().start()) {
            String answer = ask(server, "POST", path, body + "2}");

            assertThat(status(answer)).isEqualTo(400);
            assertThat(answer).contains("\\\"" + name + "\\\" is 2, but " + path + " gives one answer");
            assertThat(status(ask(server, "POST", path, body + "1}"))).isEqualTo(200);
        }
    }

    @Test
    void refusesARoleThatNobodyHas() throws IOException {
        try (EngineServer server = builder().start()) {
            for (String list : List.of("messages", "input")) {
                String path = list.equals("input") ? "/v1/responses" : "/v1/chat/completions";
                String body = "{\"" + list + "\": [{\"role\": \"wizard\", \"content\": \"a\"}]}";
                String answer = ask(server, "POST", path, body);

                assertThat(status(answer)).isEqualTo(400);
                assertThat(answer).contains("the role of message 0 is \\\"wizard\\\"");
            }
        }
    }

    @Test
    void refusesWhatTheEngineWasNotOpenedForInItsOwnWords() throws IOException {
        try (EngineServer server = builder().start()) {
            String answer = ask(server, "POST", "/v1/embeddings", "{\"input\": \"a\"}");

            assertThat(status(answer)).isEqualTo(400);
            assertThat(answer)
                    .contains("invalid_request_error", "the engine was opened without option \\\"embeddings\\\"");
        }
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "/v1/chat/completions | messages | \"content\":\"",
                "/v1/responses | input | \"text\":\"",
                "/v1/messages | messages | \"text\":\"",
            })
    void answersWithWhatIsNewOfAnAnswerThatWasBegun(String path, String messages, String key) throws IOException {
        String body = "{\"max_tokens\": 4, \"temperature\": 0, \"" + messages
                + "\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"It begins"
                + " \"}]}";
        try (EngineServer server = builder().start()) {
            assertThat(ask(server, "POST", path, body)).contains(key).doesNotContain("It begins");
            assertThat(ask(server, "POST", path, body.replaceFirst("\\{", "{\"stream\": true, ")))
                    .contains("data: ")
                    .doesNotContain("It begins");
        }
    }

    @Test
    @DisabledOnOs(value = OS.WINDOWS, disabledReason = "llama-server listens on no Unix socket there")
    void takesOverASocketFileThatNobodyListensOn() throws IOException {
        Path file = folder.resolve("a socket.sock");
        try (ServerSocketChannel left = ServerSocketChannel.open(StandardProtocolFamily.UNIX)) {
            left.bind(UnixDomainSocketAddress.of(file));
            assertThatThrownBy(() -> engine.server().host(file.toString()).start())
                    .isInstanceOf(ServerAddressException.class)
                    .hasMessageContainingAll("cannot listen on " + file + ":", "does another server listen there?");
        }
        assertThat(file).exists();

        try (EngineServer server = engine.server().host(file.toString()).start()) {
            assertThat(server.addresses())
                    .singleElement()
                    .satisfies(address -> assertThat(address.getPath()).isEqualTo(file.toString()));
        }
        assertThat(file).doesNotExist();
    }
}
