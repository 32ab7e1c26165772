package io.kvfold.javallama;

import com.fasterxml.jackson.databind.JsonNode;
import de.kherud.llama.LlamaOutput;
import io.kvfold.Generation;
import java.util.Iterator;
import java.util.NoSuchElementException;

/**
 * A running generation. The last output is the one that says that the generation has ended; its text may be empty.
 *
 * <p>One thread at a time; {@link #cancel()} and {@link #close()} from any thread. A generation that is neither read to its
 * end nor cancelled goes on, and keeps its slot, until it ends by itself or this iterator is collected.
 */
public final class LlamaIterator implements Iterator<LlamaOutput>, AutoCloseable {

    private final Generation generation;
    private volatile boolean hasNext = true;

    LlamaIterator(Generation generation) {
        this.generation = generation;
    }

    @Override
    public boolean hasNext() {
        return hasNext;
    }

    /**
     * Waits for the next output.
     *
     * @throws NoSuchElementException after the last output, and after {@link #cancel()}
     * @throws io.kvfold.GenerationCancelledException if it is cancelled meanwhile, or the thread interrupted
     * @throws io.kvfold.KvfoldException of another kind if the generation fails
     */
    @Override
    public LlamaOutput next() {
        if (!hasNext) {
            throw new NoSuchElementException("the generation has ended");
        }
        boolean goesOn = false;
        try {
            JsonNode chunk = generation.next();
            if (chunk == null) {
                throw new NoSuchElementException("the generation has ended");
            }
            goesOn = !chunk.path("stop").asBoolean();
            return Outputs.of(chunk);
        } finally {
            if (!goesOn) {
                close();
            }
        }
    }

    /** Stops the generation; its slot is free after the ubatch that is being computed. */
    public void cancel() {
        close();
    }

    /** As {@link #cancel()}. */
    @Override
    public void close() {
        hasNext = false;
        generation.close();
    }
}
