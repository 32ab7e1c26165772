package io.kvfold.langchain4j.spi;

import io.kvfold.langchain4j.KvfoldLanguageModel;
import java.util.function.Supplier;

/** Supplies the builder that {@link KvfoldLanguageModel#builder()} returns; found with {@link java.util.ServiceLoader}. */
public interface KvfoldLanguageModelBuilderFactory extends Supplier<KvfoldLanguageModel.Builder> {}
