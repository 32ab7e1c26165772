package io.kvfold;

/** Told of logits while {@link Engine#evaluate(int[], int, LogitsListener)} computes them. */
@FunctionalInterface
public interface LogitsListener {

    /**
     * Called on the thread that evaluates, in the order of positions. Must not close the engine.
     *
     * @param position of the first row
     * @param logits of this position and the ones after it; not valid after this returns
     */
    void onLogits(int position, Logits logits);
}
