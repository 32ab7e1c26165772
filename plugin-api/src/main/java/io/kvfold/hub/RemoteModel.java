package io.kvfold.hub;

import io.kvfold.gguf.GgufFile;
import java.util.List;
import java.util.Optional;

/**
 * What a hub has under a name, without having fetched it.
 *
 * @param commit of the repository, 40 hexadecimal digits
 * @param files paths in the repository, in the order of the parts
 * @param projector path of the projector for images, if there is one
 * @param bytes of all of these
 * @param header of the first file
 */
public record RemoteModel(
        ModelName name, String commit, List<String> files, Optional<String> projector, long bytes, GgufFile header) {
    public RemoteModel {
        files = List.copyOf(files);
    }
}
