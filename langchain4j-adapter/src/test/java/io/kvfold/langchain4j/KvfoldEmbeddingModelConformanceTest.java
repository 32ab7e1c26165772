package io.kvfold.langchain4j;

import dev.langchain4j.model.embedding.EmbeddingModel;
import dev.langchain4j.model.embedding.common.AbstractEmbeddingModelIT;
import dev.langchain4j.model.embedding.listener.EmbeddingModelListener;
import io.kvfold.Engine;
import io.kvfold.ScriptedEngine;
import java.util.List;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.TestInstance;

/**
 * LangChain4j's suite for embedding models, against the {@link ConformanceEngine}.
 *
 * <p>Switched off: {@code supportsDimensionsParameter}, because llama.cpp gives a model's own dimension;
 * {@code supportsImageInput}, because llama.cpp embeds text. The tests that both are refused run instead.
 */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class KvfoldEmbeddingModelConformanceTest extends AbstractEmbeddingModelIT {

    private static final int ERROR_UNSUPPORTED = -11;

    private final Engine engine = ConformanceEngine.openForEmbeddings();

    private final Engine failingEngine = FakeLlamaServer.scripted(
                    (route, body) -> List.of(ScriptedEngine.fail(ERROR_UNSUPPORTED, "embeddings are off")))
            .open();

    @AfterAll
    void closeEngines() {
        engine.close();
        failingEngine.close();
    }

    @Override
    protected List<EmbeddingModel> models() {
        return List.of(builder(engine).build());
    }

    @Override
    protected EmbeddingModel modelWith(EmbeddingModelListener listener) {
        return builder(engine).listeners(List.of(listener)).build();
    }

    @Override
    protected EmbeddingModel failingModelWith(EmbeddingModelListener listener) {
        return builder(failingEngine).listeners(List.of(listener)).build();
    }

    private static KvfoldEmbeddingModel.Builder builder(Engine engine) {
        return KvfoldEmbeddingModel.builder()
                .engine(engine)
                .queryPrefix("query: ")
                .documentPrefix("passage: ");
    }

    @Override
    protected boolean supportsDimensionsParameter() {
        return false;
    }

    @Override
    protected boolean supportsImageInput() {
        return false;
    }
}
