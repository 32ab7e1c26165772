package io.kvfold.hub;

import java.nio.file.Path;
import java.util.List;

/**
 * A GGUF file in the cache.
 *
 * @param repository {@code owner/name}
 * @param path in the repository
 * @param commit whose snapshot holds it
 * @param revisions branches and tags that were at this commit when they were last asked for
 * @param bytes of the file
 * @param file where it is
 */
public record CachedFile(String repository, String path, String commit, List<String> revisions, long bytes, Path file) {
    public CachedFile {
        revisions = List.copyOf(revisions);
    }

    /** What resolves to this file and no other. */
    public ModelName name() {
        return ModelName.parse(ModelName.PREFIX
                + repository
                + '/'
                + path
                + (revisions.contains(ModelName.DEFAULT_REVISION) ? "" : '@' + commit));
    }
}
