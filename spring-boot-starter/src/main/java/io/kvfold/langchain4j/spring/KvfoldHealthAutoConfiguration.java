package io.kvfold.langchain4j.spring;

import io.kvfold.Engine;
import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.boot.autoconfigure.condition.ConditionalOnSingleCandidate;
import org.springframework.context.annotation.Import;

/**
 * The health indicator {@code kvfold}: up while the engine answers. {@code management.health.kvfold.enabled=false} switches it
 * off.
 */
@AutoConfiguration(after = KvfoldAutoConfiguration.class)
@ConditionalOnSingleCandidate(Engine.class)
@Import({SpringBoot3HealthConfiguration.class, SpringBoot4HealthConfiguration.class})
public class KvfoldHealthAutoConfiguration {}
