package io.kvfold.hub;

import java.nio.file.Path;
import java.util.List;
import java.util.Optional;

/**
 * A model by name that is on this machine, complete and verified.
 *
 * @param name it was asked for by
 * @param commit of the repository, 40 hexadecimal digits
 * @param file to open: the model, or the first part of one that is split
 * @param files all parts, of which {@code file} is the first
 * @param projector for images, if the repository has one; the option {@code mmproj} takes it
 */
public record LocalModel(ModelName name, String commit, Path file, List<Path> files, Optional<Path> projector) {
    public LocalModel {
        files = List.copyOf(files);
    }
}
