package io.kvfold.langchain4j.spi;

import io.kvfold.langchain4j.KvfoldStreamingChatModel;
import java.util.function.Supplier;

/** Supplies the builder that {@link KvfoldStreamingChatModel#builder()} returns; found with {@link java.util.ServiceLoader}. */
public interface KvfoldStreamingChatModelBuilderFactory extends Supplier<KvfoldStreamingChatModel.Builder> {}
