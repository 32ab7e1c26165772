package io.kvfold.langchain4j;

import static io.kvfold.ScriptedEngine.chunk;
import static io.kvfold.ScriptedEngine.fail;
import static org.assertj.core.api.Assertions.assertThat;

import dev.langchain4j.data.message.AiMessage;
import dev.langchain4j.data.message.ChatMessage;
import dev.langchain4j.data.message.SystemMessage;
import dev.langchain4j.data.message.UserMessage;
import io.kvfold.Engine;
import io.kvfold.internal.NativeStatus;
import java.util.List;
import org.junit.jupiter.api.Test;

class KvfoldTokenCountEstimatorTest {

    @Test
    void countsThePromptThatARequestWouldHave() {
        try (Engine engine = FakeLlamaServer.engine()) {
            KvfoldTokenCountEstimator estimator = new KvfoldTokenCountEstimator(engine);
            List<ChatMessage> messages =
                    List.of(SystemMessage.from("Be brief"), UserMessage.from("What is the capital of Germany?"));

            assertThat(estimator.estimateTokenCountInMessages(messages))
                    .isEqualTo(KvfoldChatModel.builder()
                            .engine(engine)
                            .build()
                            .chat(messages)
                            .tokenUsage()
                            .inputTokenCount());
            assertThat(estimator.estimateTokenCountInMessage(messages.get(0)))
                    .isLessThan(estimator.estimateTokenCountInMessages(messages));
            assertThat(estimator.estimateTokenCountInText("Be brief")).isEqualTo(2);
            assertThat(estimator.estimateTokenCountInMessages(List.of())).isZero();
        }
    }

    @Test
    void countsWhatATemplateRefuses() {
        try (Engine engine = FakeLlamaServer.scripted((route, body) -> List.of(
                        route.equals("/tokenize")
                                ? chunk("{\"tokens\": [1, 2, 3]}")
                                : fail(NativeStatus.ERROR_INVALID_ARGUMENT, "roles must alternate")))
                .open()) {
            assertThat(new KvfoldTokenCountEstimator(engine).estimateTokenCountInMessage(AiMessage.from("hi")))
                    .isEqualTo(3);
        }
    }
}
