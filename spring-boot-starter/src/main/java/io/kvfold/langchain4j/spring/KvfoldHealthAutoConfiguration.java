package io.kvfold.langchain4j.spring;

import org.springframework.boot.autoconfigure.AutoConfiguration;
import org.springframework.context.annotation.Conditional;
import org.springframework.context.annotation.Import;

/**
 * The health indicator {@code kvfold}: up while every engine answers. The details are those of the shared engine, and
 * under {@code embedding} and {@code scoring} those of engines that these models have for themselves. {@code management.health.kvfold.enabled=false} switches it
 * off.
 */
@AutoConfiguration(after = KvfoldAutoConfiguration.class)
@Conditional(OnAnyEngine.class)
@Import({SpringBoot3HealthConfiguration.class, SpringBoot4HealthConfiguration.class})
public class KvfoldHealthAutoConfiguration {}
