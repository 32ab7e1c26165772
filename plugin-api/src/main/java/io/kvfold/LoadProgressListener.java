package io.kvfold;

/** Told how much of a model has been read while {@link Engine.Builder#open()} loads it. */
@FunctionalInterface
public interface LoadProgressListener {

    /**
     * Called on the thread that loads the model; must return soon. An exception thrown here is logged and the load goes on.
     *
     * @param fraction of the weights read so far, growing from 0 to 1
     * @return whether to go on; {@code false} abandons the load with {@link GenerationCancelledException}
     */
    boolean onProgress(float fraction);
}
