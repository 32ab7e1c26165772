package io.kvfold.langchain4j.spring;

import org.springframework.beans.factory.config.ConfigurableListableBeanFactory;
import org.springframework.boot.actuate.autoconfigure.health.ConditionalOnEnabledHealthIndicator;
import org.springframework.boot.actuate.health.Health;
import org.springframework.boot.actuate.health.HealthIndicator;
import org.springframework.boot.autoconfigure.condition.ConditionalOnClass;
import org.springframework.boot.autoconfigure.condition.ConditionalOnMissingBean;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Configuration;

/** With Spring Boot 3's types, which Spring Boot 4 has in other packages. */
@Configuration(proxyBeanMethods = false)
@ConditionalOnClass(ConditionalOnEnabledHealthIndicator.class)
class SpringBoot3HealthConfiguration {

    @Bean
    @ConditionalOnMissingBean(name = "kvfoldHealthIndicator")
    @ConditionalOnEnabledHealthIndicator("kvfold")
    HealthIndicator kvfoldHealthIndicator(ConfigurableListableBeanFactory beans) {
        LoadedEngines engines = new LoadedEngines(beans);
        return () -> {
            EngineHealth health = EngineHealth.of(engines);
            return builder(health).withDetails(health.details()).build();
        };
    }

    private static Health.Builder builder(EngineHealth health) {
        if (health.failure() != null) {
            return Health.down(health.failure());
        }
        return health.loaded() ? Health.up() : Health.unknown();
    }
}
