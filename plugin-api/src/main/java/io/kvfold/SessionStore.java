package io.kvfold;

import java.io.IOException;
import java.nio.file.Path;

/**
 * Where the KV states of conversations are kept. A state is a file that only engines with the same model, KV plan and
 * KV types can use; it holds the conversation's tokens, so it is as confidential as the conversation.
 *
 * <p>Implementations are thread-safe, and a state that they hand out is one that was saved as a whole.
 */
public interface SessionStore {

    /**
     * Copies the state that was last saved under a key.
     *
     * @param file to be created
     * @return false if there is no state under this key
     */
    boolean load(String key, Path file) throws IOException;

    /**
     * Keeps a copy of a state in place of what was saved under this key before.
     *
     * @param file deleted by the caller afterwards
     */
    void save(String key, Path file) throws IOException;

    /** Forgets what was saved under a key, if anything was. */
    void delete(String key) throws IOException;

    /**
     * A store in a folder, which is created when it is missing; one file per key, which several processes may share.
     * Keys are any text: a file is named after the key's SHA-256.
     */
    static SessionStore directory(Path directory) {
        return new SessionDirectory(directory);
    }
}
