package io.kvfold.langchain4j;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.langchain4j.agent.tool.ToolSpecification;
import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.exception.AuthenticationException;
import dev.langchain4j.exception.InvalidRequestException;
import dev.langchain4j.exception.RateLimitException;
import dev.langchain4j.model.chat.TestStreamingChatResponseHandler;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.request.ResponseFormat;
import dev.langchain4j.model.chat.request.ResponseFormatType;
import dev.langchain4j.model.chat.request.json.JsonObjectSchema;
import dev.langchain4j.model.chat.request.json.JsonSchema;
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import dev.langchain4j.model.openai.OpenAiChatModel;
import dev.langchain4j.model.openai.OpenAiStreamingChatModel;
import dev.langchain4j.model.openai.OpenAiTokenUsage;
import dev.langchain4j.model.output.FinishReason;
import io.kvfold.Engine;
import io.kvfold.EngineServer;
import io.kvfold.KvPlan;
import io.kvfold.ServerAddressException;
import java.io.IOException;
import java.io.InputStream;
import java.net.ConnectException;
import java.net.Inet4Address;
import java.net.InetAddress;
import java.net.NetworkInterface;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;
import org.junit.jupiter.api.Timeout;

/** LangChain4j's own client of OpenAI, and plain HTTP, served by an engine whose layers share keys and values. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
@Timeout(60)
class OpenAiClientTest {

    private static final String KEY = "secret";

    private static final String TEMPLATE_WITH_TOOLS = """
            {%- if tools %}<|im_start|>system
            You may call functions:
            <tools>
            {%- for tool in tools %}
            {{ tool | tojson }}
            {%- endfor %}
            </tools>
            Return a call as:
            <tool_call>
            {"name": <name>, "arguments": <arguments>}
            </tool_call><|im_end|>
            {% endif %}
            {%- for message in messages %}<|im_start|>{{ message.role }}
            {{ message.content }}
            {%- for call in message.tool_calls or [] %}
            <tool_call>
            {"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
            </tool_call>
            {%- endfor %}<|im_end|>
            {% endfor %}
            {%- if add_generation_prompt %}<|im_start|>assistant
            {% endif %}""";

    @SuppressWarnings("NullAway.Init") // by startServer()
    private Engine engine;

    @SuppressWarnings("NullAway.Init")
    private EngineServer server;

    @BeforeAll
    void startServer() {
        engine = StoriesModel.engine()
                .kvPlan(KvPlan.parse("0_0_2_2_4", 5))
                .maxQueue(0)
                .open();
        server = engine.server().port(0).apiKey(KEY).start();
    }

    @AfterAll
    void stopServer() {
        if (server != null) { // there was no model to serve
            server.close();
            engine.close();
        }
    }

    private URI address() {
        return server.addresses().get(0);
    }

    private OpenAiChatModel.OpenAiChatModelBuilder client() {
        return OpenAiChatModel.builder()
                .baseUrl(address() + "/v1")
                .apiKey(KEY)
                .modelName("stories260K")
                .temperature(0.0)
                .maxTokens(40)
                .maxRetries(0);
    }

    @Test
    void answersAsTheModelInThisProcessDoes() {
        String question = "Tell me about a dog";
        ChatResponse answer = client().build().chat(UserMessage.from(question));

        try (KvfoldChatModel inProcess = KvfoldChatModel.builder()
                .engine(engine)
                .temperature(0.0)
                .maxOutputTokens(40)
                .build()) {
            ChatResponse expected = inProcess.chat(UserMessage.from(question));
            assertThat(answer.aiMessage().text()).isEqualTo(expected.aiMessage().text());
            assertThat(answer.finishReason()).isEqualTo(FinishReason.LENGTH);
            assertThat(answer.tokenUsage().inputTokenCount())
                    .isEqualTo(expected.tokenUsage().inputTokenCount());
            assertThat(answer.tokenUsage().outputTokenCount()).isEqualTo(40);
        }
    }

    @Test
    void streamsTheSameAnswer() {
        TestStreamingChatResponseHandler handler = new TestStreamingChatResponseHandler();
        OpenAiStreamingChatModel.builder()
                .baseUrl(address() + "/v1")
                .apiKey(KEY)
                .modelName("stories260K")
                .temperature(0.0)
                .maxTokens(40)
                .build()
                .chat(List.of(UserMessage.from("Tell me about a cat")), handler);

        assertThat(handler.get().aiMessage().text()).isEqualTo(client().build().chat("Tell me about a cat"));
    }

    @Test
    void saysWhatWasFoundInTheCache() {
        String document = "The little girl went to the park with her mom and her dog. ".repeat(6);
        OpenAiChatModel model = client().maxTokens(2).build();
        model.chat(document + "Who?");
        OpenAiTokenUsage usage = (OpenAiTokenUsage)
                model.chat(UserMessage.from(document + "Why?")).tokenUsage();

        assertThat(usage.inputTokenCount() - usage.inputTokensDetails().cachedTokens())
                .isBetween(1, 40);
    }

    @Test
    void holdsAnAnswerToASchema() {
        ResponseFormat format = ResponseFormat.builder()
                .type(ResponseFormatType.JSON)
                .jsonSchema(JsonSchema.builder()
                        .name("answer")
                        .rootElement(JsonObjectSchema.builder()
                                .addBooleanProperty("yes")
                                .required("yes")
                                .build())
                        .build())
                .build();
        ChatResponse answer = client().build()
                .chat(ChatRequest.builder()
                        .messages(UserMessage.from("Is it so?"))
                        .responseFormat(format)
                        .build());

        assertThat(answer.aiMessage().text()).matches("(?s)\\{\\s*\"yes\"\\s*:\\s*(true|false)\\s*}\\s*");
    }

    /** The model is too small to call one. */
    @Test
    void tellsTheModelOfTools() throws Exception {
        ToolSpecification tool = ToolSpecification.builder()
                .name("light")
                .description("Switches the light")
                .parameters(JsonObjectSchema.builder()
                        .addBooleanProperty("on")
                        .required("on")
                        .build())
                .build();
        ChatRequest.Builder request = ChatRequest.builder().messages(UserMessage.from("Switch it on"));
        try (Engine own = StoriesModel.engine()
                        .slots(1)
                        .option("chat-template", TEMPLATE_WITH_TOOLS)
                        .open();
                EngineServer tools = own.server().port(0).start()) {
            URI address = tools.addresses().get(0);
            OpenAiChatModel model = client().baseUrl(address + "/v1").build();
            ChatResponse without = model.chat(request.build());
            ChatResponse with = model.chat(request.toolSpecifications(tool).build());

            assertThat(with.tokenUsage().inputTokenCount())
                    .isGreaterThan(without.tokenUsage().inputTokenCount() + 100);
            String nameless = """
                    {"messages": [{"role": "user", "content": "Hi"}],
                     "tools": [{"type": "function", "function": {"parameters": {"type": "object"}}}]}""";
            HttpResponse<String> refused = send(address, "/v1/chat/completions", nameless);
            assertThat(refused.statusCode()).isEqualTo(400);
            assertThat(refused.body()).contains("invalid_request_error", "tools");
        }
    }

    @Test
    void asksForItsKey() {
        assertThatThrownBy(() -> client().apiKey("wrong").build().chat("Hello"))
                .isInstanceOf(AuthenticationException.class)
                .hasMessageContaining("Invalid API Key");
    }

    @Test
    void refusesAPromptThatDoesNotFit() {
        assertThatThrownBy(() -> client().build().chat("word ".repeat(3000)))
                .isInstanceOf(InvalidRequestException.class)
                .hasMessageContaining("context size");
    }

    @Test
    void tellsAClientToComeBackWhenTheQueueIsFull() {
        List<CompletableFuture<?>> running = new ArrayList<>();
        KvfoldStreamingChatModel busy = KvfoldStreamingChatModel.builder()
                .engine(engine)
                .maxOutputTokens(400)
                .build();
        for (int i = 0; i < 4; i++) {
            CompletableFuture<Void> first = new CompletableFuture<>();
            CompletableFuture<Void> release = new CompletableFuture<>();
            busy.chat("Once upon a time", new Holding(first, release));
            first.join();
            running.add(release);
        }
        try {
            assertThatThrownBy(() -> client().build().chat("Hello")).isInstanceOf(RateLimitException.class);
        } finally {
            running.forEach(release -> release.complete(null));
        }
    }

    /** Keeps a slot from its first token on until it is released. */
    private record Holding(CompletableFuture<Void> first, CompletableFuture<?> release)
            implements StreamingChatResponseHandler {
        @Override
        public void onPartialResponse(String part) {
            first.complete(null);
            release.join();
        }

        @Override
        public void onCompleteResponse(ChatResponse response) {}

        @Override
        public void onError(Throwable error) {
            first.completeExceptionally(error);
        }
    }

    private HttpResponse<String> send(String path, String body) throws Exception {
        return send(address(), path, body);
    }

    private static HttpResponse<String> send(URI address, String path, String body) throws Exception {
        HttpRequest.Builder request = HttpRequest.newBuilder(address.resolve(path))
                .header("Authorization", "Bearer " + KEY)
                .header("Content-Type", "application/json");
        return HttpClient.newHttpClient()
                .send(
                        (body.isEmpty() ? request.GET() : request.POST(HttpRequest.BodyPublishers.ofString(body)))
                                .build(),
                        BodyHandlers.ofString());
    }

    @Test
    void answersWhatIsNoRequestWithAnError() throws Exception {
        assertThat(send("/v1/chat/completions", "{").statusCode()).isEqualTo(400);
        assertThat(send("/v1/chat/completions", "{}").body()).contains("\"error\":", "messages");
        assertThat(send("/v1/chat/completions", "{\"messages\":" + "[".repeat(500) + "]".repeat(500) + "}")
                        .statusCode())
                .isEqualTo(400);
        assertThat(send("/v1/embeddings", "{\"input\": \"a\"}").statusCode()).isEqualTo(400);
        assertThat(send("/no/such/route", "{}").statusCode()).isEqualTo(404);
        assertThat(send("/slots/0?action=save", "{\"filename\": \"x\"}").statusCode())
                .isEqualTo(404);
        assertThat(send("/health", "").body()).contains("ok");
        assertThat(send("/v1/models", "").body()).contains("stories260K");
    }

    @Test
    void freesTheSlotOfAClientThatGoesAway() throws Exception {
        String body =
                "{\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}],\"stream\":true,\"max_tokens\":2000,\"ignore_eos\":true}";
        try (Socket socket = new Socket(address().getHost(), address().getPort())) {
            socket.getOutputStream()
                    .write(("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + KEY
                                    + "\r\nContent-Type: application/json\r\nContent-Length: " + body.length()
                                    + "\r\n\r\n"
                                    + body)
                            .getBytes(StandardCharsets.UTF_8));
            InputStream in = socket.getInputStream();
            assertThat(in.read()).isEqualTo('H');
        }
        for (int i = 0; engine.kvCacheStats().slotsBusy() > 0; i++) {
            assertThat(i).isLessThan(100);
            Thread.sleep(100);
        }
    }

    @Test
    void letsOnlyPagesOfThisMachineIn() throws Exception {
        HttpRequest.Builder request =
                HttpRequest.newBuilder(address().resolve("/health")).header("Origin", "http://example.com");
        HttpResponse<String> response = HttpClient.newHttpClient().send(request.build(), BodyHandlers.ofString());
        assertThat(response.headers().firstValue("Access-Control-Allow-Origin")).isEmpty();
    }

    @Test
    void listensOnLoopbackOnlyUnlessToldOtherwise() throws Exception {
        assertThat(address().getHost()).isEqualTo("127.0.0.1");
        for (InetAddress other : NetworkInterface.networkInterfaces()
                .flatMap(NetworkInterface::inetAddresses)
                .filter(address -> address instanceof Inet4Address && !address.isLoopbackAddress())
                .toList()) {
            assertThatThrownBy(() -> new Socket(other, address().getPort()).close())
                    .isInstanceOf(ConnectException.class);
        }
        try (EngineServer open = engine.server().host("0.0.0.0").port(0).start()) {
            assertThat(open.addresses().get(0).getHost()).isEqualTo("0.0.0.0");
        }
    }

    @Test
    void refusesAPortThatIsInUse() {
        assertThatThrownBy(() -> engine.server().port(address().getPort()).start())
                .isInstanceOf(ServerAddressException.class)
                .hasMessageContaining(String.valueOf(address().getPort()));
    }

    @Test
    void endsRunningRequestsWhenItIsClosed() throws Exception {
        String body = """
                {"messages": [{"role": "user", "content": "Hi"}], "stream": true, "max_tokens": 15000,
                 "ignore_eos": true}""";
        try (Engine own = StoriesModel.engine()
                .contextSize(16384)
                .slots(1)
                .option("override-kv", "llama.context_length=int:16384")
                .open()) {
            EngineServer other = own.server().port(0).start();
            URI address = other.addresses().get(0);
            HttpResponse<InputStream> response = HttpClient.newHttpClient()
                    .send(
                            HttpRequest.newBuilder(address.resolve("/v1/chat/completions"))
                                    .header("Content-Type", "application/json")
                                    .POST(HttpRequest.BodyPublishers.ofString(body))
                                    .build(),
                            BodyHandlers.ofInputStream());
            assertThat(response.body().read()).isEqualTo('d');
            other.close();
            other.close();

            assertThat(own.kvCacheStats().requestsWaiting()).isZero();
            assertThat(rest(response.body())).doesNotContain("[DONE]");
            assertThatThrownBy(() -> new Socket("127.0.0.1", address.getPort()).close())
                    .isInstanceOf(ConnectException.class);
            assertThat(own.tokenize("still open", false, false)).isNotEmpty();
        }
    }

    /** What still comes, if the connection is not cut off. */
    private static String rest(InputStream body) {
        try (body) {
            return new String(body.readAllBytes(), StandardCharsets.UTF_8);
        } catch (IOException e) {
            return "";
        }
    }

    @Test
    void keepsTheEngineOpen() {
        Engine own = StoriesModel.engine().open();
        EngineServer last = own.server().port(0).start();
        own.close();
        assertThat(client().baseUrl(last.addresses().get(0) + "/v1").build().chat("Hello"))
                .isNotEmpty();
        last.close();
        assertThatThrownBy(() -> new Socket("127.0.0.1", last.addresses().get(0).getPort()).close())
                .isInstanceOf(ConnectException.class);
    }
}
