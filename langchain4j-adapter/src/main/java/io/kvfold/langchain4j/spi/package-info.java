/** Factories through which a framework replaces the builders of {@link io.kvfold.langchain4j}. */
@NullMarked
package io.kvfold.langchain4j.spi;

import org.jspecify.annotations.NullMarked;
