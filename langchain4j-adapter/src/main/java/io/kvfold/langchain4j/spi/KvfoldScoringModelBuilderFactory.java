package io.kvfold.langchain4j.spi;

import io.kvfold.langchain4j.KvfoldScoringModel;
import java.util.function.Supplier;

/** Supplies the builder that {@link KvfoldScoringModel#builder()} returns; found with {@link java.util.ServiceLoader}. */
public interface KvfoldScoringModelBuilderFactory extends Supplier<KvfoldScoringModel.Builder> {}
