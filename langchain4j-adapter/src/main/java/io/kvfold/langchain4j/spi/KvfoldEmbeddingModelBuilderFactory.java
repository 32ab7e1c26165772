package io.kvfold.langchain4j.spi;

import io.kvfold.langchain4j.KvfoldEmbeddingModel;
import java.util.function.Supplier;

/** Supplies the builder that {@link KvfoldEmbeddingModel#builder()} returns; found with {@link java.util.ServiceLoader}. */
public interface KvfoldEmbeddingModelBuilderFactory extends Supplier<KvfoldEmbeddingModel.Builder> {}
