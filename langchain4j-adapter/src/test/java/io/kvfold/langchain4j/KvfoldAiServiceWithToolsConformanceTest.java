package io.kvfold.langchain4j;

import dev.langchain4j.data.image.Image;
import dev.langchain4j.model.chat.ChatModel;
import dev.langchain4j.service.common.AbstractAiServiceWithToolsIT;
import io.kvfold.Engine;
import java.util.Base64;
import java.util.List;
import org.junit.jupiter.api.AfterAll;

/**
 * LangChain4j's suite for AI services with tools, against the {@link ConformanceEngine}.
 *
 * <p>Nothing is switched off; {@code supportsRecursion} and {@code supportsMultimodalToolResults}, off by default, are on.
 */
class KvfoldAiServiceWithToolsConformanceTest extends AbstractAiServiceWithToolsIT {

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

    @Override
    protected boolean verifyModelInteractions() {
        return true;
    }

    /** Instead of one from the network. */
    @Override
    protected Image catImage() {
        return Image.builder()
                .base64Data(Base64.getEncoder().encodeToString(ScriptedModel.image("cat")))
                .mimeType("image/jpeg")
                .build();
    }

    @Override
    protected boolean supportsMultimodalToolResults() {
        return ConformanceEngine.seesImages();
    }
}
