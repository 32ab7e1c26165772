/**
 * java-llama.cpp's {@code LlamaModel} over a Kvfold {@link io.kvfold.Engine}, for programs that were written for
 * {@code de.kherud:llama}.
 */
@NullMarked
package io.kvfold.javallama;

import org.jspecify.annotations.NullMarked;
