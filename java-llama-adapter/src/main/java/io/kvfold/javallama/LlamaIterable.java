package io.kvfold.javallama;

import de.kherud.llama.LlamaOutput;

/** The outputs of a generation, which starts anew with every iterator. */
@FunctionalInterface
public interface LlamaIterable extends Iterable<LlamaOutput> {

    @Override
    LlamaIterator iterator();
}
