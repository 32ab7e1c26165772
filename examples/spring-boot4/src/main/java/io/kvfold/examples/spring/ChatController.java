package io.kvfold.examples.spring;

import dev.langchain4j.model.chat.ChatModel;
import dev.langchain4j.model.chat.StreamingChatModel;
import dev.langchain4j.model.chat.response.ChatResponse;
import dev.langchain4j.model.chat.response.PartialResponse;
import dev.langchain4j.model.chat.response.PartialResponseContext;
import dev.langchain4j.model.chat.response.StreamingChatResponseHandler;
import java.io.IOException;
import java.util.Map;
import org.springframework.http.MediaType;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.servlet.mvc.method.annotation.SseEmitter;

/** Knows LangChain4j's interfaces only; the starter provides the models. */
@RestController
class ChatController {

    private static final long NO_TIMEOUT = 0;

    private final ChatModel model;
    private final StreamingChatModel streamingModel;

    ChatController(ChatModel model, StreamingChatModel streamingModel) {
        this.model = model;
        this.streamingModel = streamingModel;
    }

    @GetMapping("/chat")
    Map<String, String> chat(@RequestParam("message") String message) {
        return Map.of("answer", model.chat(message));
    }

    /** One event per piece of the answer; the generation ends when the client goes away. */
    @GetMapping(path = "/stream", produces = MediaType.TEXT_EVENT_STREAM_VALUE)
    SseEmitter stream(@RequestParam("message") String message) {
        SseEmitter events = new SseEmitter(NO_TIMEOUT);
        streamingModel.chat(message, new StreamingChatResponseHandler() {
            @Override
            public void onPartialResponse(PartialResponse piece, PartialResponseContext context) {
                try {
                    events.send(Map.of("text", piece.text()), MediaType.APPLICATION_JSON);
                } catch (IOException | IllegalStateException e) {
                    context.streamingHandle().cancel();
                }
            }

            @Override
            public void onCompleteResponse(ChatResponse response) {
                events.complete();
            }

            @Override
            public void onError(Throwable error) {
                events.completeWithError(error);
            }
        });
        return events;
    }
}
