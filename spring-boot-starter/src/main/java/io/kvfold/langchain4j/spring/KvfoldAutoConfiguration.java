package io.kvfold.langchain4j.spring;

import dev.langchain4j.model.chat.listener.ChatModelListener;
import dev.langchain4j.model.embedding.listener.EmbeddingModelListener;
import io.kvfold.Engine;
import io.kvfold.hub.Models;
import io.kvfold.langchain4j.KvfoldChatModel;
import io.kvfold.langchain4j.KvfoldEmbeddingModel;
import io.kvfold.langchain4j.KvfoldLanguageModel;
import io.kvfold.langchain4j.KvfoldScoringModel;
import io.kvfold.langchain4j.KvfoldStreamingChatModel;
import io.kvfold.langchain4j.KvfoldTokenCountEstimator;
import java.nio.file.Path;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;
import org.springframework.beans.factory.ObjectProvider;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.boot.autoconfigure.condition.ConditionalOnSingleCandidate;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Conditional;

/**
 * One engine per application, closed with its context, and LangChain4j's models over it. An application that declares an
 * {@link Engine} of its own gets the models over that one. A bean of type {@link Models} says where models by name are looked
 * up; else the environment does.
 *
 * <p>The model is loaded when the context starts, or with {@code spring.main.lazy-initialization=true} when it is first used.
 */
@AutoConfiguration
@EnableConfigurationProperties(KvfoldProperties.class)
public class KvfoldAutoConfiguration {

    @Bean(destroyMethod = "close")
    @ConditionalOnMissingBean
    @Conditional(OnModel.OfEngine.class)
    Engine kvfoldEngine(KvfoldProperties properties, ObjectProvider<Models> models) {
        KvfoldProperties.Engine engine = properties.engine();
        Engine.Builder builder = Engine.builder();
        if (engine.modelPath() != null && engine.modelName() != null) {
            throw new IllegalArgumentException("Set engine.model-path " + engine.modelPath() + " or engine.model-name "
                    + engine.modelName() + ", not both");
        }
        set(engine.modelPath(), path -> builder.model(Path.of(path)));
        set(engine.modelName(), builder::modelName);
        models.ifAvailable(builder::models);
        set(engine.contextSize(), builder::contextSize);
        set(engine.slots(), builder::slots);
        set(engine.maxQueue(), builder::maxQueue);
        set(engine.threads(), builder::threads);
        set(engine.gpuLayers(), builder::gpuLayers);
        set(engine.ubatchSize(), builder::ubatchSize);
        set(engine.batchSize(), builder::batchSize);
        set(engine.flashAttention(), builder::flashAttention);
        set(engine.kvCacheTypeK(), type -> builder.option("cache-type-k", type.text()));
        set(engine.kvCacheTypeV(), type -> builder.option("cache-type-v", type.text()));
        set(engine.kvPlan(), plan -> builder.option("kv-plan", plan));
        if (!engine.rpcServers().isEmpty()) {
            builder.rpcServers(engine.rpcServers().toArray(String[]::new));
        }
        set(engine.describeTools(), builder::describeTools);
        set(engine.describeSchema(), builder::describeSchema);
        set(engine.kvBudget(), budget -> builder.kvBudget(budget.toBytes()));
        set(engine.memoryReserve(), reserve -> builder.memoryReserve(reserve.toBytes()));
        KvfoldProperties.EmbeddingModel embedding = properties.embeddingModel();
        if (embedding.onSharedEngine()) {
            builder.option("embedding", true);
            set(embedding.pooling(), pooling -> builder.option("pooling", pooling));
        }
        engine.options().forEach(builder::option);
        return builder.open();
    }

    @Bean
    @ConditionalOnSingleCandidate(Engine.class)
    @ConditionalOnMissingBean
    @ConditionalOnProperty(
            prefix = KvfoldProperties.PREFIX + ".chat-model",
            name = "enabled",
            havingValue = "true",
            matchIfMissing = true)
    KvfoldChatModel kvfoldChatModel(
            Engine engine, KvfoldProperties properties, ObjectProvider<ChatModelListener> listeners) {
        KvfoldProperties.ChatModel chatModel = properties.chatModel();
        return KvfoldChatModel.builder()
                .engine(engine)
                .defaultRequestParameters(chatModel.requestParameters())
                .returnThinking(chatModel.returnThinking())
                .sendThinking(chatModel.sendThinking())
                .timeout(chatModel.timeout())
                .logRequests(chatModel.logRequests())
                .logResponses(chatModel.logResponses())
                .listeners(listeners.orderedStream().toList())
                .build();
    }

    @Bean
    @ConditionalOnSingleCandidate(Engine.class)
    @ConditionalOnMissingBean
    @ConditionalOnProperty(
            prefix = KvfoldProperties.PREFIX + ".streaming-chat-model",
            name = "enabled",
            havingValue = "true",
            matchIfMissing = true)
    KvfoldStreamingChatModel kvfoldStreamingChatModel(
            Engine engine, KvfoldProperties properties, ObjectProvider<ChatModelListener> listeners) {
        KvfoldProperties.ChatModel chatModel = properties.streamingChatModel();
        return KvfoldStreamingChatModel.builder()
                .engine(engine)
                .defaultRequestParameters(chatModel.requestParameters())
                .returnThinking(chatModel.returnThinking())
                .sendThinking(chatModel.sendThinking())
                .timeout(chatModel.timeout())
                .logRequests(chatModel.logRequests())
                .logResponses(chatModel.logResponses())
                .listeners(listeners.orderedStream().toList())
                .build();
    }

    @Bean
    @ConditionalOnSingleCandidate(Engine.class)
    @ConditionalOnMissingBean
    @ConditionalOnProperty(prefix = KvfoldProperties.PREFIX + ".language-model", name = "enabled", havingValue = "true")
    KvfoldLanguageModel kvfoldLanguageModel(Engine engine, KvfoldProperties properties) {
        KvfoldProperties.LanguageModel languageModel = properties.languageModel();
        return KvfoldLanguageModel.builder()
                .engine(engine)
                .temperature(languageModel.temperature())
                .topP(languageModel.topP())
                .topK(languageModel.topK())
                .minP(languageModel.minP())
                .repeatPenalty(languageModel.repeatPenalty())
                .seed(languageModel.seed())
                .maxOutputTokens(languageModel.maxOutputTokens())
                .stopSequences(languageModel.stopSequences())
                .build();
    }

    @Bean
    @ConditionalOnSingleCandidate(Engine.class)
    @ConditionalOnMissingBean
    KvfoldTokenCountEstimator kvfoldTokenCountEstimator(Engine engine) {
        return new KvfoldTokenCountEstimator(engine);
    }

    /** Over an engine of its own, which the model closes. */
    @Bean
    @ConditionalOnMissingBean
    @Conditional(OnModel.OfEmbeddingModel.class)
    KvfoldEmbeddingModel kvfoldEmbeddingModel(
            KvfoldProperties properties,
            ObjectProvider<Models> models,
            ObjectProvider<EmbeddingModelListener> listeners) {
        KvfoldProperties.EmbeddingModel embeddingModel = properties.embeddingModel();
        KvfoldEmbeddingModel.Builder builder = embeddingModel(embeddingModel, listeners)
                .modelPath(embeddingModel.modelPath())
                .modelName(embeddingModel.modelName())
                .models(models.getIfAvailable())
                .contextSize(embeddingModel.contextSize())
                .threads(embeddingModel.threads())
                .gpuLayers(embeddingModel.gpuLayers())
                .ubatchSize(embeddingModel.ubatchSize())
                .pooling(embeddingModel.pooling());
        embeddingModel.options().forEach(builder::option);
        return builder.build();
    }

    @Bean
    @ConditionalOnSingleCandidate(Engine.class)
    @ConditionalOnMissingBean
    @ConditionalOnProperty(
            prefix = KvfoldProperties.PREFIX + ".embedding-model",
            name = "enabled",
            havingValue = "true")
    KvfoldEmbeddingModel kvfoldSharedEmbeddingModel(
            Engine engine, KvfoldProperties properties, ObjectProvider<EmbeddingModelListener> listeners) {
        return embeddingModel(properties.embeddingModel(), listeners)
                .engine(engine)
                .build();
    }

    private static KvfoldEmbeddingModel.Builder embeddingModel(
            KvfoldProperties.EmbeddingModel properties, ObjectProvider<EmbeddingModelListener> listeners) {
        return KvfoldEmbeddingModel.builder()
                .queryPrefix(properties.queryPrefix())
                .documentPrefix(properties.documentPrefix())
                .listeners(listeners.orderedStream().toList());
    }

    /** Over an engine of its own, which the model closes. */
    @Bean
    @ConditionalOnMissingBean
    @Conditional(OnModel.OfScoringModel.class)
    KvfoldScoringModel kvfoldScoringModel(KvfoldProperties properties, ObjectProvider<Models> models) {
        KvfoldProperties.ScoringModel scoringModel = properties.scoringModel();
        KvfoldScoringModel.Builder builder = KvfoldScoringModel.builder()
                .modelPath(scoringModel.modelPath())
                .modelName(scoringModel.modelName())
                .models(models.getIfAvailable())
                .contextSize(scoringModel.contextSize())
                .threads(scoringModel.threads())
                .gpuLayers(scoringModel.gpuLayers())
                .ubatchSize(scoringModel.ubatchSize());
        scoringModel.options().forEach(builder::option);
        return builder.build();
    }

    private static <T> void set(@Nullable T value, Consumer<T> setter) {
        if (value != null) {
            setter.accept(value);
        }
    }
}
