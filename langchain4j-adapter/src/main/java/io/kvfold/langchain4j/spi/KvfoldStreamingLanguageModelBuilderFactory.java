package io.kvfold.langchain4j.spi;

import io.kvfold.langchain4j.KvfoldStreamingLanguageModel;
import java.util.function.Supplier;

/** Supplies the builder that {@link KvfoldStreamingLanguageModel#builder()} returns; found with {@link java.util.ServiceLoader}. */
public interface KvfoldStreamingLanguageModelBuilderFactory extends Supplier<KvfoldStreamingLanguageModel.Builder> {}
