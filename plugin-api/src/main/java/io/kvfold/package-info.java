/**
 * Local language models in process: {@link io.kvfold.Engine} runs a GGUF file, {@link io.kvfold.Generation} is one
 * running request.
 */
@NullMarked
package io.kvfold;

import org.jspecify.annotations.NullMarked;
