package io.kvfold.langchain4j;

import static io.kvfold.ScriptedEngine.chunk;
import static io.kvfold.ScriptedEngine.pause;

import dev.langchain4j.model.chat.StreamingChatModel;
import dev.langchain4j.model.chat.common.AbstractStreamingChatModelPublisherListenerTest;
import dev.langchain4j.model.chat.listener.ChatModelListener;
import io.kvfold.Engine;
import io.kvfold.ScriptedEngine;
import io.kvfold.ScriptedEngine.Step;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterEach;

/** LangChain4j's suite for the listeners of a publisher. Nothing is switched off. */
class KvfoldPublisherListenerConformanceTest extends AbstractStreamingChatModelPublisherListenerTest {

    private static final int ERROR_INTERNAL = -100;

    private @Nullable Engine engine;

    @AfterEach
    void closeEngine() {
        if (engine != null) {
            engine.close();
        }
    }

    @Override
    protected StreamingChatModel createModel(ChatModelListener listener, StreamScenario scenario) {
        engine = FakeLlamaServer.scripted((route, body) -> steps(scenario)).open();
        return KvfoldStreamingChatModel.builder()
                .engine(engine)
                .listeners(listener)
                .build();
    }

    private static List<Step> steps(StreamScenario scenario) {
        List<Step> steps = new ArrayList<>();
        if (scenario.fail()) {
            steps.add(ScriptedEngine.fail(ERROR_INTERNAL, "llama_decode failed"));
            return steps;
        }
        for (int i = 0; i < scenario.contentChunks(); i++) {
            steps.add(pause(Duration.ofMillis(scenario.spreadOverMillis() / scenario.contentChunks())));
            steps.add(chunk("""
                    {"id": "chatcmpl-1", "choices": [{"index": 0, "finish_reason": null, "delta": {"content": "word "}}]}"""));
        }
        steps.add(chunk(
                "{\"id\": \"chatcmpl-1\", \"choices\": [{\"index\": 0, \"finish_reason\": \"stop\", \"delta\": {}}]}"));
        steps.add(
                chunk(
                        "{\"id\": \"chatcmpl-1\", \"choices\": [], \"usage\": {\"prompt_tokens\": 3, \"completion_tokens\": 4}}"));
        return steps;
    }
}
