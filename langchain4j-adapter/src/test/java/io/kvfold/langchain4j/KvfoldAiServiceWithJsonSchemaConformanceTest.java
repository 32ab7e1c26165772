package io.kvfold.langchain4j;

import dev.langchain4j.model.chat.ChatModel;
import dev.langchain4j.service.common.AbstractAiServiceWithJsonSchemaIT;
import io.kvfold.Engine;
import java.util.List;
import org.junit.jupiter.api.AfterAll;

/**
 * LangChain4j's suite for AI services that extract objects by JSON schema, against the {@link ConformanceEngine}.
 *
 * <p>Nothing is switched off; {@code supportsRecursion}, off by default, is on.
 */
class KvfoldAiServiceWithJsonSchemaConformanceTest extends AbstractAiServiceWithJsonSchemaIT {

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
    protected boolean supportsRecursion() {
        return true;
    }
}
