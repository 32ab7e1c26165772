package io.kvfold.langchain4j.spring;

import io.kvfold.Engine;
import io.kvfold.langchain4j.KvfoldEmbeddingModel;
import io.kvfold.langchain4j.KvfoldScoringModel;
import io.micrometer.core.instrument.binder.MeterBinder;
import org.springframework.beans.factory.config.ConfigurableListableBeanFactory;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnProperty;
import org.springframework.boot.autoconfigure.condition.ConditionalOnSingleCandidate;
import org.springframework.context.annotation.Bean;

/** Meters of the engines, where Micrometer is present; see {@link KvfoldMetrics}. */
@AutoConfiguration(after = KvfoldAutoConfiguration.class)
@ConditionalOnClass(MeterBinder.class)
public class KvfoldMetricsAutoConfiguration {

    @Bean
    @ConditionalOnSingleCandidate(Engine.class)
    @ConditionalOnMissingBean(name = "kvfoldMetrics")
    KvfoldMetrics kvfoldMetrics(ConfigurableListableBeanFactory beans) {
        return metrics(beans, LoadedEngines.SHARED);
    }

    @Bean
    @ConditionalOnBean(KvfoldEmbeddingModel.class)
    @ConditionalOnMissingBean(name = "kvfoldEmbeddingMetrics")
    @ConditionalOnProperty(prefix = KvfoldProperties.PREFIX + ".embedding-model", name = "model-path")
    KvfoldMetrics kvfoldEmbeddingMetrics(ConfigurableListableBeanFactory beans) {
        return metrics(beans, LoadedEngines.EMBEDDING);
    }

    @Bean
    @ConditionalOnBean(KvfoldScoringModel.class)
    @ConditionalOnMissingBean(name = "kvfoldScoringMetrics")
    @ConditionalOnProperty(prefix = KvfoldProperties.PREFIX + ".scoring-model", name = "model-path")
    KvfoldMetrics kvfoldScoringMetrics(ConfigurableListableBeanFactory beans) {
        return metrics(beans, LoadedEngines.SCORING);
    }

    private static KvfoldMetrics metrics(ConfigurableListableBeanFactory beans, String name) {
        LoadedEngines engines = new LoadedEngines(beans);
        return new KvfoldMetrics(() -> engines.get(name), name);
    }
}
