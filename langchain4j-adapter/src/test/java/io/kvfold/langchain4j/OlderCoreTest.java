package io.kvfold.langchain4j;

import static org.assertj.core.api.Assertions.assertThat;

import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import io.kvfold.Engine;
import io.kvfold.ForkedJvm;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

/** The core that LangChain4j's BOM names is one release behind the one that this project is compiled with. */
class OlderCoreTest {

    @Test
    void chatsAndStreamsWithTheCoreOfTheBom() throws IOException {
        Path older;
        try (Stream<Path> copied = Files.list(Path.of("target", "older-core"))) {
            older = copied.filter(file -> file.toString().endsWith(".jar"))
                    .findFirst()
                    .orElseThrow();
        }
        ForkedJvm.Result result = new ForkedJvm()
                .withClassPath(all -> Arrays.stream(all.split(File.pathSeparator))
                        .map(entry -> isCore(entry) ? older.toString() : entry)
                        .collect(Collectors.joining(File.pathSeparator)))
                .run(Chat.class);

        assertThat(result.outputOfSuccess()).contains("chat: ", "Berlin", "stream: ");
    }

    private static boolean isCore(String entry) {
        return entry.matches(".*langchain4j-core-[0-9.]+\\.jar");
    }

    static final class Chat {
        private static final String QUESTION = "What is the capital of Germany?";

        public static void main(String... arguments) throws Exception {
            try (Engine engine = FakeLlamaServer.engine();
                    KvfoldChatModel model =
                            KvfoldChatModel.builder().engine(engine).build();
                    KvfoldStreamingChatModel streaming =
                            KvfoldStreamingChatModel.builder().engine(engine).build()) {
                System.out.println("chat: " + model.chat(QUESTION));
                CompletableFuture<String> answer = new CompletableFuture<>();
                streaming.chat(
                        ChatRequest.builder()
                                .messages(UserMessage.from(QUESTION))
                                .build(),
                        new Handler(answer));
                System.out.println("stream: " + answer.get());
            }
        }
    }

    private record Handler(CompletableFuture<String> answer) implements StreamingChatResponseHandler {
        @Override
        public void onPartialResponse(String partialResponse) {}

        @Override
        public void onCompleteResponse(ChatResponse response) {
            answer.complete(response.aiMessage().text());
        }

        @Override
        public void onError(Throwable error) {
            answer.completeExceptionally(error);
        }
    }
}
