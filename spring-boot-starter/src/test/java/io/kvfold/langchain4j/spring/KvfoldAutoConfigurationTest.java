package io.kvfold.langchain4j.spring;

import static org.assertj.core.api.Assertions.assertThat;

import dev.langchain4j.model.chat.Capability;
import dev.langchain4j.model.chat.listener.ChatModelListener;
import dev.langchain4j.model.chat.listener.ChatModelResponseContext;
import dev.langchain4j.model.chat.request.ResponseFormatType;
import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.KvType;
import io.kvfold.ModelNotFoundException;
import io.kvfold.RealLibrary;
import io.kvfold.ScriptedEngine;
import io.kvfold.TinyModel;
import io.kvfold.hub.LocalHub;
import io.kvfold.hub.Models;
import io.kvfold.langchain4j.KvfoldChatModel;
import io.kvfold.langchain4j.KvfoldChatRequestParameters;
import io.kvfold.langchain4j.KvfoldEmbeddingModel;
import io.kvfold.langchain4j.KvfoldLanguageModel;
import io.kvfold.langchain4j.KvfoldScoringModel;
import io.kvfold.langchain4j.KvfoldStreamingChatModel;
import io.kvfold.langchain4j.KvfoldTokenCountEstimator;
import io.micrometer.core.instrument.MeterRegistry;
import io.micrometer.core.instrument.simple.SimpleMeterRegistry;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.assertj.core.api.InstanceOfAssertFactories;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.springframework.boot.actuate.health.Health;
import org.springframework.boot.actuate.health.HealthIndicator;
import org.springframework.boot.actuate.health.Status;
import org.springframework.boot.autoconfigure.AutoConfigurations;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.boot.test.context.FilteredClassLoader;
import org.springframework.boot.test.context.runner.ApplicationContextRunner;

class KvfoldAutoConfigurationTest {

    private static final String ANSWER = """
        {"id": "1", "model": "scripted", "choices": [{"index": 0, "finish_reason": "stop",
         "message": {"role": "assistant", "content": "Hi."}}],
         "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}}\
        """;

    private final ApplicationContextRunner runner = new ApplicationContextRunner()
            .withConfiguration(AutoConfigurations.of(
                    KvfoldAutoConfiguration.class,
                    KvfoldHealthAutoConfiguration.class,
                    KvfoldMetricsAutoConfiguration.class));

    private ApplicationContextRunner withEngine(ScriptedEngine scripted) {
        return runner.withBean("engine", Engine.class, scripted::open);
    }

    @TempDir
    Path directory;

    @Test
    void doesNothingUnlessAModelIsGiven() {
        runner.run(context -> assertThat(context)
                .hasNotFailed()
                .doesNotHaveBean(Engine.class)
                .doesNotHaveBean(KvfoldChatModel.class)
                .doesNotHaveBean(KvfoldEmbeddingModel.class)
                .doesNotHaveBean(HealthIndicator.class)
                .doesNotHaveBean(KvfoldMetrics.class));
    }

    @Test
    void takesModelsByTheirNamesOnAHub() throws Exception {
        RealLibrary.require();
        byte[] model = Files.readAllBytes(TinyModel.write(directory.resolve("tiny.gguf"), 1));
        try (LocalHub hub = LocalHub.start().put("a/tiny", "tiny-F32.gguf", model)) {
            Models models = Models.builder()
                    .endpoint(hub.endpoint())
                    .cacheDirectory(directory.resolve("hub"))
                    .build();
            runner.withBean(Models.class, () -> models)
                    .withPropertyValues(
                            "langchain4j.kvfold.engine.model-name=hf:a/tiny",
                            "langchain4j.kvfold.engine.context-size=256",
                            "langchain4j.kvfold.embedding-model.model-name=hf:a/tiny:F32",
                            "langchain4j.kvfold.embedding-model.pooling=last")
                    .run(context -> assertThat(context)
                            .hasNotFailed()
                            .hasSingleBean(KvfoldChatModel.class)
                            .hasSingleBean(KvfoldEmbeddingModel.class));
            assertThat(models.list()).hasSize(1);
            runner.withBean(Models.class, () -> models)
                    .withPropertyValues("langchain4j.kvfold.scoring-model.model-name=hf:a/tiny")
                    .run(context -> assertThat(context)
                            .getFailure()
                            .rootCause()
                            .hasMessageContaining("models--a--tiny")
                            .hasMessageContaining("is no reranker"));
            runner.withPropertyValues(
                            "langchain4j.kvfold.engine.model-name=hf:a/tiny",
                            "langchain4j.kvfold.engine.model-path=tiny.gguf")
                    .run(context -> assertThat(context)
                            .getFailure()
                            .rootCause()
                            .hasMessageContaining("hf:a/tiny")
                            .hasMessageContaining("not both"));
        }
    }

    @Test
    void opensOneEngineForAllModelsAndClosesItWithTheContext() throws Exception {
        RealLibrary.require();
        Path model = TinyModel.write(directory.resolve("tiny.gguf"), 1);
        List<Engine> engines = new ArrayList<>();
        runner.withPropertyValues(
                        "langchain4j.kvfold.engine.model-path=" + model,
                        "langchain4j.kvfold.engine.context-size=1024",
                        "langchain4j.kvfold.engine.slots=2",
                        "langchain4j.kvfold.engine.threads=1",
                        "langchain4j.kvfold.engine.ubatch-size=64",
                        "langchain4j.kvfold.engine.flash-attention=on",
                        "langchain4j.kvfold.engine.kv-cache-type-k=bf16",
                        "langchain4j.kvfold.engine.kv-plan=0_0_2",
                        "langchain4j.kvfold.engine.kv-budget=64MB",
                        "langchain4j.kvfold.engine.options.rope-freq-base=20000",
                        "langchain4j.kvfold.embedding-model.enabled=true",
                        "langchain4j.kvfold.embedding-model.pooling=mean",
                        "langchain4j.kvfold.chat-model.max-output-tokens=5")
                .run(context -> {
                    assertThat(context)
                            .hasSingleBean(Engine.class)
                            .hasSingleBean(KvfoldChatModel.class)
                            .hasSingleBean(KvfoldStreamingChatModel.class)
                            .hasSingleBean(KvfoldEmbeddingModel.class)
                            .hasSingleBean(KvfoldTokenCountEstimator.class)
                            .doesNotHaveBean(KvfoldScoringModel.class);
                    Engine opened = context.getBean(Engine.class);
                    engines.add(opened);
                    assertThat(opened.info().context().sizePerSlot()).isEqualTo(1024);
                    assertThat(opened.info().context().slots()).isEqualTo(2);
                    assertThat(opened.info().context().ubatchSize()).isEqualTo(64);
                    assertThat(opened.info().context().flashAttention()).isTrue();
                    assertThat(opened.info().context().kvTypeK()).isEqualTo(KvType.BF16);
                    assertThat(opened.info().context().kvTypeV()).isEqualTo(KvType.F16);
                    assertThat(opened.info().context().kvPlan()).isEqualTo("0_0_2");
                    assertThat(opened.kvCacheStats().bytesBudget()).isEqualTo(64L << 20);
                    assertThat(context.getBean(KvfoldChatModel.class).chat("hello"))
                            .isNotNull();
                    assertThat(context.getBean(KvfoldEmbeddingModel.class)
                                    .embed("hello")
                                    .content()
                                    .dimension())
                            .isEqualTo(64);
                    assertThat(context.getBean(KvfoldTokenCountEstimator.class).estimateTokenCountInText("ab"))
                            .isPositive();
                });
        assertThat(engines).singleElement().matches(engine -> !engine.isOpen());
    }

    @Test
    void opensAnEngineOfItsOwnForAnEmbeddingModel() throws Exception {
        RealLibrary.require();
        Path model = TinyModel.write(directory.resolve("tiny.gguf"), 1);
        runner.withPropertyValues(
                        "langchain4j.kvfold.embedding-model.model-path=" + model,
                        "langchain4j.kvfold.embedding-model.context-size=256",
                        "langchain4j.kvfold.embedding-model.threads=1",
                        "langchain4j.kvfold.embedding-model.pooling=last")
                .run(context -> {
                    assertThat(context).doesNotHaveBean(Engine.class).doesNotHaveBean(KvfoldChatModel.class);
                    KvfoldEmbeddingModel embeddings = context.getBean(KvfoldEmbeddingModel.class);
                    assertThat(embeddings.embed("hello").content().dimension()).isEqualTo(64);

                    MeterRegistry registry = new SimpleMeterRegistry();
                    context.getBean(KvfoldMetrics.class).bindTo(registry);
                    assertThat(registry.get("kvfold.kv.cells")
                                    .tag("engine", "embedding")
                                    .gauge()
                                    .value())
                            .isEqualTo(4 * 256); // a pool for the four slots
                    HealthIndicator indicator = context.getBean(HealthIndicator.class);
                    assertThat(indicator.health().getStatus()).isEqualTo(Status.UP);
                    assertThat(indicator.health().getDetails().get("embedding"))
                            .asInstanceOf(InstanceOfAssertFactories.MAP)
                            .containsEntry("contextSize", 256);
                    embeddings.engine().close();
                    assertThat(indicator.health().getStatus()).isEqualTo(Status.DOWN);
                });
    }

    @Test
    void watchesTheSharedEngineAndTheOneOfTheEmbeddingModel() throws Exception {
        RealLibrary.require();
        Path model = TinyModel.write(directory.resolve("tiny.gguf"), 1);
        withEngine(ScriptedEngine.answering(ANSWER))
                .withPropertyValues(
                        "langchain4j.kvfold.embedding-model.model-path=" + model,
                        "langchain4j.kvfold.embedding-model.pooling=mean")
                .run(context -> {
                    MeterRegistry registry = new SimpleMeterRegistry();
                    context.getBeansOfType(KvfoldMetrics.class).values().forEach(metrics -> metrics.bindTo(registry));
                    assertThat(registry.get("kvfold.slots").gauges())
                            .extracting(gauge -> gauge.getId().getTag("engine"))
                            .containsExactlyInAnyOrder("shared", "embedding");
                    assertThat(context.getBean(HealthIndicator.class).health().getDetails())
                            .containsEntry("model", "scripted.gguf")
                            .hasEntrySatisfying(
                                    "embedding",
                                    own -> assertThat(own.toString()).contains("tiny.gguf"));
                });
    }

    @Test
    void continuesTextsWhereALanguageModelIsWanted() {
        ScriptedEngine scripted = ScriptedEngine.answering(
                "{\"content\":\" there\",\"stop\":true,\"stop_type\":\"limit\",\"tokens_evaluated\":1,"
                        + "\"tokens_predicted\":1,\"timings\":{\"cache_n\":0}}");
        withEngine(ScriptedEngine.answering(ANSWER))
                .run(context -> assertThat(context).doesNotHaveBean(KvfoldLanguageModel.class));
        withEngine(scripted)
                .withPropertyValues(
                        "langchain4j.kvfold.language-model.enabled=true",
                        "langchain4j.kvfold.language-model.temperature=0.25",
                        "langchain4j.kvfold.language-model.max-output-tokens=9")
                .run(context -> {
                    assertThat(context.getBean(KvfoldLanguageModel.class)
                                    .generate("Hello")
                                    .content())
                            .isEqualTo(" there");
                    assertThat(scripted.lastRequest().body().path("temperature").asDouble())
                            .isEqualTo(0.25);
                    assertThat(scripted.lastRequest().body().path("prompt").asText())
                            .isEqualTo("Hello");
                });
    }

    @Test
    void saysWhichModelIsMissing() {
        runner.withPropertyValues("langchain4j.kvfold.engine.model-path=missing.gguf")
                .run(context -> assertThat(context)
                        .getFailure()
                        .rootCause()
                        .isInstanceOf(ModelNotFoundException.class)
                        .hasMessageContaining("missing.gguf"));
    }

    @Test
    void bindsEveryProperty() {
        new ApplicationContextRunner()
                .withUserConfiguration(PropertiesOnly.class)
                .withPropertyValues(
                        "langchain4j.kvfold.engine.flash-attention=off",
                        "langchain4j.kvfold.engine.rpc-servers=a:1,b:2",
                        "langchain4j.kvfold.engine.options.rope-scaling=yarn",
                        "langchain4j.kvfold.embedding-model.options.flash-attn=off",
                        "langchain4j.kvfold.scoring-model.options.flash-attn=on",
                        "langchain4j.kvfold.streaming-chat-model.grammar=root ::= [a-z]",
                        "langchain4j.kvfold.streaming-chat-model.request-options.cache_prompt=false",
                        "langchain4j.kvfold.streaming-chat-model.request-options.logit_bias=[[5, -1]]",
                        "langchain4j.kvfold.streaming-chat-model.request-options.reasoning_format=none",
                        "langchain4j.kvfold.streaming-chat-model.temperature=0.5",
                        "langchain4j.kvfold.streaming-chat-model.top-p=0.9",
                        "langchain4j.kvfold.streaming-chat-model.top-k=3",
                        "langchain4j.kvfold.streaming-chat-model.min-p=0.1",
                        "langchain4j.kvfold.streaming-chat-model.frequency-penalty=0.2",
                        "langchain4j.kvfold.streaming-chat-model.presence-penalty=0.3",
                        "langchain4j.kvfold.streaming-chat-model.repeat-penalty=1.1",
                        "langchain4j.kvfold.streaming-chat-model.seed=7",
                        "langchain4j.kvfold.streaming-chat-model.max-output-tokens=9",
                        "langchain4j.kvfold.streaming-chat-model.stop-sequences=a,b",
                        "langchain4j.kvfold.streaming-chat-model.response-format=json",
                        "langchain4j.kvfold.streaming-chat-model.parallel-tool-calls=true",
                        "langchain4j.kvfold.streaming-chat-model.enable-thinking=false",
                        "langchain4j.kvfold.streaming-chat-model.timeout=30s")
                .run(context -> {
                    KvfoldProperties properties = context.getBean(KvfoldProperties.class);
                    assertThat(properties.engine().flashAttention()).isEqualTo(FlashAttention.OFF);
                    assertThat(properties.engine().options()).containsEntry("rope-scaling", "yarn");
                    assertThat(properties.engine().rpcServers()).containsExactly("a:1", "b:2");
                    assertThat(properties.embeddingModel().options()).containsEntry("flash-attn", "off");
                    assertThat(properties.scoringModel().options()).containsEntry("flash-attn", "on");
                    assertThat(properties.streamingChatModel().timeout()).isEqualTo(Duration.ofSeconds(30));
                    assertThat(properties.chatModel().enabled()).isTrue();
                    assertThat(properties.chatModel().temperature()).isNull();
                    KvfoldChatRequestParameters parameters =
                            properties.streamingChatModel().requestParameters();
                    assertThat(parameters.grammar()).isEqualTo("root ::= [a-z]");
                    assertThat(parameters.options())
                            .isEqualTo(Map.of(
                                    "cache_prompt",
                                    false,
                                    "logit_bias",
                                    List.of(List.of(5, -1)),
                                    "reasoning_format",
                                    "none"));
                    assertThat(parameters.temperature()).isEqualTo(0.5);
                    assertThat(parameters.topP()).isEqualTo(0.9);
                    assertThat(parameters.topK()).isEqualTo(3);
                    assertThat(parameters.minP()).isEqualTo(0.1);
                    assertThat(parameters.frequencyPenalty()).isEqualTo(0.2);
                    assertThat(parameters.presencePenalty()).isEqualTo(0.3);
                    assertThat(parameters.repeatPenalty()).isEqualTo(1.1);
                    assertThat(parameters.seed()).isEqualTo(7);
                    assertThat(parameters.maxOutputTokens()).isEqualTo(9);
                    assertThat(parameters.stopSequences()).containsExactly("a", "b");
                    assertThat(parameters.responseFormat().type()).isEqualTo(ResponseFormatType.JSON);
                    assertThat(parameters.parallelToolCalls()).isTrue();
                    assertThat(parameters.enableThinking()).isFalse();
                });
    }

    @EnableConfigurationProperties(KvfoldProperties.class)
    static class PropertiesOnly {}

    @Test
    void takesAnEngineOfTheApplicationAndItsListeners() {
        ScriptedEngine scripted = ScriptedEngine.answering(ANSWER);
        List<String> heard = new ArrayList<>();
        ChatModelListener listener = new ChatModelListener() {
            @Override
            public void onResponse(ChatModelResponseContext response) {
                heard.add(response.chatResponse().aiMessage().text());
            }
        };
        withEngine(scripted)
                .withBean(ChatModelListener.class, () -> listener)
                .withPropertyValues(
                        "langchain4j.kvfold.chat-model.temperature=0.25",
                        "langchain4j.kvfold.streaming-chat-model.enabled=false")
                .run(context -> {
                    assertThat(context).doesNotHaveBean(KvfoldStreamingChatModel.class);
                    KvfoldChatModel model = context.getBean(KvfoldChatModel.class);
                    assertThat(model.chat("hello")).isEqualTo("Hi.");
                    assertThat(model.supportedCapabilities()).contains(Capability.RESPONSE_FORMAT_JSON_SCHEMA);
                    assertThat(scripted.lastRequest().body().path("temperature").asDouble())
                            .isEqualTo(0.25);
                    assertThat(heard).containsExactly("Hi.");
                });
        assertThat(scripted.closes()).isEqualTo(1);
    }

    @Test
    void keepsAChatModelOfTheApplication() {
        KvfoldChatModel own = KvfoldChatModel.builder()
                .engine(ScriptedEngine.answering(ANSWER).open())
                .build();
        withEngine(ScriptedEngine.answering(ANSWER))
                .withBean("own", KvfoldChatModel.class, () -> own)
                .run(context ->
                        assertThat(context.getBean(KvfoldChatModel.class)).isSameAs(own));
    }

    @Test
    void reportsHealth() {
        withEngine(ScriptedEngine.answering(ANSWER)).run(context -> {
            HealthIndicator indicator = context.getBean(HealthIndicator.class);
            Health up = indicator.health();
            assertThat(up.getStatus()).isEqualTo(Status.UP);
            assertThat(up.getDetails())
                    .containsEntry("model", "scripted.gguf")
                    .containsEntry("kvCacheBytes", 131072L)
                    .containsEntry("slots", 4)
                    .containsEntry("slotsBusy", 1)
                    .containsEntry("requestsWaiting", 0);
            context.getBean(Engine.class).close();
            assertThat(indicator.health().getStatus()).isEqualTo(Status.DOWN);
            assertThat(indicator.health().getDetails()).containsKey("error");
        });
        withEngine(ScriptedEngine.answering(ANSWER))
                .withPropertyValues("management.health.kvfold.enabled=false")
                .run(context -> assertThat(context).doesNotHaveBean(HealthIndicator.class));
    }

    @Test
    void metersTheEngine() {
        withEngine(ScriptedEngine.answering(ANSWER)).run(context -> {
            MeterRegistry registry = new SimpleMeterRegistry();
            context.getBean(KvfoldMetrics.class).bindTo(registry);
            assertThat(registry.get("kvfold.kv.allocated").gauge().value()).isEqualTo(131072);
            assertThat(registry.get("kvfold.kv.committed").gauge().value()).isEqualTo(8192);
            assertThat(registry.get("kvfold.kv.used").gauge().value()).isEqualTo(12 * 256);
            assertThat(registry.get("kvfold.kv.budget").gauge().value()).isEqualTo(65536);
            assertThat(registry.get("kvfold.kv.promised").gauge().value()).isEqualTo(4096);
            for (var held : Map.of("pages", 8192, "checkpoints", 512, "swapped", 256, "states", 128)
                    .entrySet()) {
                assertThat(registry.get("kvfold.kv.held")
                                .tag("type", held.getKey())
                                .gauge()
                                .value())
                        .isEqualTo((double) held.getValue());
            }
            assertThat(registry.get("kvfold.slots").gauge().value()).isEqualTo(4);
            assertThat(registry.get("kvfold.slots.busy").gauge().value()).isEqualTo(1);
            assertThat(registry.get("kvfold.requests.waiting").gauge().value()).isZero();
            assertThat(registry.get("kvfold.requests.suspended").gauge().value())
                    .isZero();
            assertThat(registry.get("kvfold.preemptions").functionCounter().count())
                    .isZero();
            assertThat(registry.get("kvfold.prefix.prompts").functionCounter().count())
                    .isEqualTo(8);
            assertThat(registry.get("kvfold.prefix.hits").functionCounter().count())
                    .isEqualTo(6);
            assertThat(registry.get("kvfold.prefix.tokens").functionCounter().count())
                    .isEqualTo(300);
            assertThat(registry.get("kvfold.kv.saved").gauge().value()).isEqualTo(10240);
            assertThat(registry.get("kvfold.tokens.recomputed")
                            .functionCounter()
                            .count())
                    .isZero();
            assertThat(registry.get("kvfold.tokens")
                            .tag("type", "prompt.cached")
                            .functionCounter()
                            .count())
                    .isEqualTo(10);
            assertThat(registry.get("kvfold.tokens.per.second")
                            .tag("type", "prompt")
                            .gauge()
                            .value())
                    .isEqualTo(60);
            assertThat(registry.get("kvfold.tokens.per.second")
                            .tag("type", "generated")
                            .gauge()
                            .value())
                    .isEqualTo(32);
        });
    }

    @Test
    void loadsALazyEngineForAUserOnly() {
        ScriptedEngine scripted = ScriptedEngine.answering(ANSWER);
        runner.withBean("engine", Engine.class, scripted::open, definition -> definition.setLazyInit(true))
                .withInitializer(context -> context.addBeanFactoryPostProcessor(beans -> {
                    for (String name : beans.getBeanDefinitionNames()) {
                        beans.getBeanDefinition(name).setLazyInit(true);
                    }
                }))
                .run(context -> {
                    MeterRegistry registry = new SimpleMeterRegistry();
                    context.getBean(KvfoldMetrics.class).bindTo(registry);
                    assertThat(registry.get("kvfold.slots").gauge().value()).isNaN();
                    assertThat(context.getBean(HealthIndicator.class).health().getStatus())
                            .isEqualTo(Status.UNKNOWN);
                    assertThat(scripted.openedWith()).isEmpty();
                    context.getBean(KvfoldChatModel.class);
                    assertThat(context.getBean(HealthIndicator.class).health().getStatus())
                            .isEqualTo(Status.UP);
                });
    }

    @Test
    void doesWithoutActuatorAndMicrometer() {
        withEngine(ScriptedEngine.answering(ANSWER))
                .withClassLoader(new FilteredClassLoader(
                        "org.springframework.boot.actuate", "org.springframework.boot.health", "io.micrometer"))
                .run(context -> assertThat(context)
                        .hasNotFailed()
                        .hasSingleBean(KvfoldChatModel.class)
                        .doesNotHaveBean("kvfoldHealthIndicator")
                        .doesNotHaveBean("kvfoldMetrics"));
    }
}
