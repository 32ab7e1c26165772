package io.kvfold.langchain4j;

import dev.langchain4j.model.chat.ChatModel;
import dev.langchain4j.model.output.TokenUsage;
import dev.langchain4j.service.common.AbstractAiServiceIT;
import io.kvfold.Engine;
import java.util.List;
import org.junit.jupiter.api.AfterAll;

/**
 * LangChain4j's suite for AI services, against the {@link ConformanceEngine}.
 *
 * <p>Nothing is switched off.
 */
class KvfoldAiServiceConformanceTest extends AbstractAiServiceIT {

    private final Engine engine = ConformanceEngine.open();

    @AfterAll
    void closeEngine() {
        engine.close();
    }

    @Override
    protected List<ChatModel> models() {
        return List.of(KvfoldChatModel.builder().engine(engine).build());
    }

    @Override
    protected Class<? extends TokenUsage> tokenUsageType(ChatModel model) {
        return KvfoldTokenUsage.class;
    }
}
