package io.kvfold.langchain4j.spi;

import io.kvfold.langchain4j.KvfoldChatModel;
import java.util.function.Supplier;

/** Supplies the builder that {@link KvfoldChatModel#builder()} returns; found with {@link java.util.ServiceLoader}. */
public interface KvfoldChatModelBuilderFactory extends Supplier<KvfoldChatModel.Builder> {}
