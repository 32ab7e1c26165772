package io.kvfold.benchmarks;

import dev.langchain4j.data.message.UserMessage;
import dev.langchain4j.model.chat.StreamingChatModel;
import dev.langchain4j.model.chat.request.ChatRequest;
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import io.kvfold.bench.Timeline;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;

/** Answers of any streaming ChatModel, and when they came. */
final class StreamedAnswer {

    private StreamedAnswer() {}

    /**
     * Waits for an answer.
     *
     * @param tokens that the model is asked for, and must give
     * @param start the {@link System#nanoTime()} from which on the timeline counts; an entry for each partial response
     */
    static Timeline of(StreamingChatModel model, String prompt, int tokens, long start) {
        List<Double> seconds = new ArrayList<>();
        CompletableFuture<ChatResponse> done = new CompletableFuture<>();
        ChatRequest request = ChatRequest.builder()
                .messages(UserMessage.from(prompt))
                .maxOutputTokens(tokens)
                .build();
        model.chat(request, new StreamingChatResponseHandler() {
            @Override
            public void onPartialResponse(String text) {
                seconds.add(1e-9 * (System.nanoTime() - start));
            }

            @Override
            public void onCompleteResponse(ChatResponse response) {
                done.complete(response);
            }

            @Override
            public void onError(Throwable error) {
                done.completeExceptionally(error);
            }
        });
        int generated = done.join().tokenUsage().outputTokenCount();
        if (generated != tokens) {
            throw new IllegalStateException("the answer has " + generated + " tokens instead of " + tokens);
        }
        return new Timeline(seconds);
    }
}
