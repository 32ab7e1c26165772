package io.kvfold.examples;

import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import io.kvfold.demo.DemoModel;
import io.kvfold.langchain4j.KvfoldChatResponseMetadata;
import io.kvfold.langchain4j.KvfoldStreamingChatModel;
import java.nio.file.Path;
import java.util.concurrent.CompletableFuture;

/**
 * Prints an answer while it is generated. Arguments: none, or a GGUF file and a question; without, the demonstration model
 * greets.
 */
public final class ChatExample {

    private ChatExample() {}

    public static void main(String[] args) {
        if (args.length != 0 && args.length != 2) {
            throw new IllegalArgumentException("arguments: none, or <model.gguf> <question>");
        }
        Path file = args.length == 0 ? DemoModel.FOLDED.file() : Path.of(args[0]);
        String question = args.length == 0 ? "Hello, how are you?" : args[1];
        try (KvfoldStreamingChatModel model = KvfoldStreamingChatModel.builder()
                .modelPath(file)
                .slots(1)
                .maxOutputTokens(256)
                .build()) {
            CompletableFuture<ChatResponse> answer = new CompletableFuture<>();
            model.chat(question, new StreamingChatResponseHandler() {
                @Override
                public void onPartialResponse(String text) {
                    System.out.print(text);
                    System.out.flush();
                }

                @Override
                public void onCompleteResponse(ChatResponse response) {
                    answer.complete(response);
                }

                @Override
                public void onError(Throwable error) {
                    answer.completeExceptionally(error);
                }
            });

            KvfoldChatResponseMetadata cost =
                    (KvfoldChatResponseMetadata) answer.join().metadata();
            System.out.printf(
                    "%n[%d tokens in, %d out, %.0f tokens/s, %d KiB of KV cache]%n",
                    cost.tokenUsage().inputTokenCount(),
                    cost.tokenUsage().outputTokenCount(),
                    cost.outputTokensPerSecond(),
                    cost.kvCacheBytes() / 1024);
        }
    }
}
