package io.kvfold.langchain4j;

import dev.langchain4j.exception.InvalidRequestException;
import dev.langchain4j.model.chat.StreamingChatModel;
import dev.langchain4j.model.chat.common.AbstractStreamingChatModelListenerIT;
import dev.langchain4j.model.chat.listener.ChatModelListener;
import io.kvfold.Engine;
import org.junit.jupiter.api.AfterEach;

/** LangChain4j's suite for the listeners of a streaming chat model. Nothing is switched off. */
class KvfoldStreamingChatModelListenerConformanceTest extends AbstractStreamingChatModelListenerIT {

    private final Engine engine = ConformanceEngine.open();

    @AfterEach
    void closeEngine() {
        engine.close();
    }

    @Override
    protected StreamingChatModel createModel(ChatModelListener listener) {
        return builder(listener).build();
    }

    private KvfoldStreamingChatModel.Builder builder(ChatModelListener listener) {
        return KvfoldStreamingChatModel.builder()
                .engine(engine)
                .modelName(modelName())
                .temperature(temperature())
                .topP(topP())
                .maxOutputTokens(maxTokens())
                .listeners(listener);
    }

    @Override
    protected String modelName() {
        return ModelFacts.of(engine).name();
    }

    /** The scripted server fails over the question already, a real model over the grammar. */
    @Override
    protected StreamingChatModel createFailingModel(ChatModelListener listener) {
        return builder(listener)
                .defaultRequestParameters(KvfoldChatRequestParameters.builder()
                        .grammar("root ::= undefined")
                        .build())
                .build();
    }

    @Override
    protected Class<? extends Exception> expectedExceptionClass() {
        return InvalidRequestException.class;
    }
}
