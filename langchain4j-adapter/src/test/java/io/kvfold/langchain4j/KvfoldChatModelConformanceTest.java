package io.kvfold.langchain4j;

import dev.langchain4j.model.chat.ChatModel;
import dev.langchain4j.model.chat.common.AbstractChatModelIT;
import dev.langchain4j.model.chat.request.ChatRequestParameters;
import dev.langchain4j.model.chat.response.ChatResponseMetadata;
import dev.langchain4j.model.output.TokenUsage;
import io.kvfold.Engine;
import java.util.List;
import org.junit.jupiter.api.AfterAll;

/**
 * LangChain4j's suite for chat models, against the {@link ConformanceEngine}.
 *
 * <p>Switched off: {@code supportsModelNameParameter}, because an engine holds one model and accepts its own name only;
 * {@code supportsSingleImageInputAsPublicURL}, because an in-process model does not read from the network. The tests that
 * both are refused run instead.
 */
class KvfoldChatModelConformanceTest extends AbstractChatModelIT {

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
    protected ChatModel createModelWith(ChatRequestParameters parameters) {
        return KvfoldChatModel.builder()
                .engine(engine)
                .defaultRequestParameters(parameters)
                .build();
    }

    @Override
    protected ChatRequestParameters createIntegrationSpecificParameters(int maxOutputTokens) {
        return KvfoldChatRequestParameters.builder()
                .maxOutputTokens(maxOutputTokens)
                .build();
    }

    @Override
    protected Class<? extends ChatResponseMetadata> chatResponseMetadataType(ChatModel model) {
        return KvfoldChatResponseMetadata.class;
    }

    @Override
    protected Class<? extends TokenUsage> tokenUsageType(ChatModel model) {
        return KvfoldTokenUsage.class;
    }

    @Override
    protected boolean supportsChatAsync() {
        return true;
    }

    @Override
    protected boolean supportsModelNameParameter() {
        return false;
    }

    @Override
    protected boolean supportsSingleImageInputAsBase64EncodedString() {
        return ConformanceEngine.seesImages();
    }

    @Override
    protected boolean supportsSingleImageInputAsPublicURL() {
        return false;
    }
}
