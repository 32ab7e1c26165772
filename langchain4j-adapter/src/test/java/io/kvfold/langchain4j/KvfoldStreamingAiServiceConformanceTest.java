package io.kvfold.langchain4j;

import dev.langchain4j.model.chat.StreamingChatModel;
import dev.langchain4j.model.chat.response.ChatResponseMetadata;
import dev.langchain4j.model.output.TokenUsage;
import dev.langchain4j.service.common.AbstractStreamingAiServiceIT;
import io.kvfold.Engine;
import java.util.List;
import org.junit.jupiter.api.AfterAll;

/** LangChain4j's suite for streaming AI services, against the {@link ConformanceEngine}. Nothing is switched off. */
class KvfoldStreamingAiServiceConformanceTest extends AbstractStreamingAiServiceIT {

    private final Engine engine = ConformanceEngine.open();

    @AfterAll
    void closeEngine() {
        engine.close();
    }

    @Override
    protected List<StreamingChatModel> models() {
        return List.of(KvfoldStreamingChatModel.builder().engine(engine).build());
    }

    @Override
    protected Class<? extends ChatResponseMetadata> chatResponseMetadataType(StreamingChatModel model) {
        return KvfoldChatResponseMetadata.class;
    }

    @Override
    protected Class<? extends TokenUsage> tokenUsageType(StreamingChatModel model) {
        return KvfoldTokenUsage.class;
    }
}
