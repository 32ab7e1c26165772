package io.kvfold.langchain4j.spring;

import io.kvfold.Engine;
import io.micrometer.core.instrument.binder.MeterBinder;
import org.springframework.beans.factory.config.ConfigurableListableBeanFactory;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.boot.autoconfigure.condition.ConditionalOnSingleCandidate;
import org.springframework.context.annotation.Bean;

/** Meters of the engine, where Micrometer is present; see {@link KvfoldMetrics}. */
@AutoConfiguration(after = KvfoldAutoConfiguration.class)
@ConditionalOnClass(MeterBinder.class)
@ConditionalOnSingleCandidate(Engine.class)
public class KvfoldMetricsAutoConfiguration {

    @Bean
    @ConditionalOnMissingBean
    KvfoldMetrics kvfoldMetrics(ConfigurableListableBeanFactory beans) {
        return new KvfoldMetrics(new LoadedEngine(beans)::get);
    }
}
