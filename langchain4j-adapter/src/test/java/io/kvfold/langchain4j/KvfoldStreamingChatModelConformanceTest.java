package io.kvfold.langchain4j;

import dev.langchain4j.model.chat.StreamingChatModel;
import dev.langchain4j.model.chat.common.AbstractStreamingChatModelIT;
import dev.langchain4j.model.chat.common.StreamingMode;
import dev.langchain4j.model.chat.listener.ChatModelListener;
import dev.langchain4j.model.chat.request.ChatRequestParameters;
import dev.langchain4j.model.chat.response.ChatResponseMetadata;
import dev.langchain4j.model.output.TokenUsage;
import io.kvfold.Engine;
import java.util.List;
import org.junit.jupiter.api.AfterAll;

/**
 * LangChain4j's suite for streaming chat models, with a handler and with a publisher, against the {@link ConformanceEngine}.
 *
 * <p>Switched off: as in {@link KvfoldChatModelConformanceTest}, for the same reasons. That one thread calls a handler is
 * asserted in spite of the publisher mode, which the suite would take as a reason not to.
 */
class KvfoldStreamingChatModelConformanceTest extends AbstractStreamingChatModelIT {

    private final Engine engine = ConformanceEngine.open();

    @AfterAll
    void closeEngine() {
        engine.close();
    }

    @Override
    protected List<StreamingMode> streamingModes() {
        return List.of(StreamingMode.HANDLER, StreamingMode.PUBLISHER);
    }

    @Override
    protected List<StreamingChatModel> baseModels() {
        return List.of(KvfoldStreamingChatModel.builder().engine(engine).build());
    }

    @Override
    protected StreamingChatModel createModelWith(ChatRequestParameters parameters) {
        return KvfoldStreamingChatModel.builder()
                .engine(engine)
                .defaultRequestParameters(parameters)
                .build();
    }

    @Override
    public StreamingChatModel createModelWith(ChatModelListener listener) {
        return KvfoldStreamingChatModel.builder()
                .engine(engine)
                .listeners(listener)
                .build();
    }

    @Override
    protected ChatRequestParameters createIntegrationSpecificParameters(int maxOutputTokens) {
        return KvfoldChatRequestParameters.builder()
                .maxOutputTokens(maxOutputTokens)
                .build();
    }

    @Override
    protected Class<? extends ChatResponseMetadata> chatResponseMetadataType(StreamingChatModel model) {
        return KvfoldChatResponseMetadata.class;
    }

    @Override
    protected Class<? extends TokenUsage> tokenUsageType(StreamingChatModel model) {
        return KvfoldTokenUsage.class;
    }

    @Override
    protected boolean assertThreads() {
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
