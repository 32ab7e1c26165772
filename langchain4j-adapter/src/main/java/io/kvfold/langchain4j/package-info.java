/**
 * LangChain4j's model interfaces over a Kvfold {@link io.kvfold.Engine}.
 *
 * <p>Every model here is a light view: weights, KV cache and scheduler belong to an engine, which a model either opens
 * by path and then owns, or borrows from the application so that several models share it.
 */
@NullMarked
package io.kvfold.langchain4j;

import org.jspecify.annotations.NullMarked;
