package io.kvfold.hub;

import io.kvfold.ModelDownloadException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Objects;
import java.util.Optional;
import java.util.Set;
import java.util.UUID;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;

/**
 * The cache of huggingface_hub, which llama.cpp and this library share with it:
 *
 * <pre>
 * models--owner--name/blobs/ID                   content, by checksum
 * models--owner--name/snapshots/COMMIT/PATH      links to blobs
 * models--owner--name/refs/REVISION              the commit that a branch or tag was at
 * .locks/models--owner--name/ID.lock
 * </pre>
 */
record HubCache(Path root) {

    private static final String FOLDER = "models--";
    private static final String SEPARATOR = "--";
    private static final String INCOMPLETE = ".kvfold.incomplete";
    private static final String TAG = """
        Signature: 8a477f597d28d172789f06886806bc55
        # A cache directory: what is in it can be fetched again.
        """;

    /** The files of one repository. */
    Repository repository(String name) {
        String folder = FOLDER + name.replace("/", SEPARATOR);
        return new Repository(name, root.resolve(folder), root.resolve(".locks").resolve(folder));
    }

    /** Those of which something is there. */
    List<Repository> repositories() {
        List<Repository> repositories = new ArrayList<>();
        for (Path folder : children(root)) {
            String name = folder.getFileName().toString();
            if (name.startsWith(FOLDER) && name.indexOf(SEPARATOR, FOLDER.length()) > 0) {
                repositories.add(repository(name.substring(FOLDER.length()).replaceFirst(SEPARATOR, "/")));
            }
        }
        return repositories;
    }

    /** Tells programs that make backups to pass by. */
    void tag() throws IOException {
        Files.createDirectories(root);
        try {
            Files.writeString(root.resolve("CACHEDIR.TAG"), TAG, StandardOpenOption.CREATE_NEW);
        } catch (FileAlreadyExistsException e) {
            // as it should be
        }
    }

    static List<Path> children(Path folder) {
        try (Stream<Path> children = Files.list(folder)) {
            return children.sorted().toList();
        } catch (NoSuchFileException | NotDirectoryException e) {
            return List.of();
        } catch (IOException e) {
            throw cannotRead(folder, e);
        }
    }

    static ModelDownloadException cannotRead(Path path, Exception e) {
        return new ModelDownloadException("cannot read " + path + ": " + e, e);
    }

    /** One repository's part of the cache. */
    record Repository(String name, Path folder, Path locks) {

        private Path blobs() {
            return folder.resolve("blobs");
        }

        private Path snapshots() {
            return folder.resolve("snapshots");
        }

        private Path refs() {
            return folder.resolve("refs");
        }

        Path blob(String id) {
            return blobs().resolve(id);
        }

        Path partial(String id) {
            return blobs().resolve(id + INCOMPLETE);
        }

        Path lock(String id) {
            return locks.resolve(id + ".lock");
        }

        Path file(String commit, String path) {
            return snapshots().resolve(commit).resolve(path);
        }

        /** What a branch or tag was at, or the commit itself. */
        Optional<String> commit(ModelName name) {
            if (name.isPinned()) {
                return Optional.of(name.revision());
            }
            Path ref = refs().resolve(name.revision());
            try {
                return Files.isRegularFile(ref)
                        ? Optional.of(Files.readString(ref).strip())
                        : Optional.empty();
            } catch (IOException e) {
                throw cannotRead(ref, e);
            }
        }

        /** Notes what a branch or tag is at. */
        void point(ModelName name, String commit) throws IOException {
            if (name.isPinned() || commit(name).filter(commit::equals).isPresent()) {
                return;
            }
            Path ref = refs().resolve(name.revision());
            Files.createDirectories(ref.getParent());
            Path next = ref.resolveSibling(ref.getFileName() + "." + UUID.randomUUID() + ".tmp");
            Files.writeString(next, commit);
            Files.move(next, ref, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
        }

        /** Paths of what a snapshot holds; a link whose blob is gone does not count. */
        List<String> paths(String commit) {
            Path snapshot = snapshots().resolve(commit);
            return entries(snapshot).stream()
                    .filter(Files::isRegularFile)
                    .map(entry -> snapshot.relativize(entry).toString().replace('\\', '/'))
                    .toList();
        }

        /** The GGUF files of all snapshots. */
        List<CachedFile> modelFiles() {
            List<CachedFile> files = new ArrayList<>();
            for (Path snapshot : children(snapshots())) {
                String commit = snapshot.getFileName().toString();
                List<String> revisions = revisions(commit);
                for (String path : paths(commit)) {
                    if (ModelFiles.isModelFile(path)) {
                        Path file = snapshot.resolve(path);
                        files.add(new CachedFile(name, path, commit, revisions, size(file), file));
                    }
                }
            }
            return files;
        }

        private List<String> revisions(String commit) {
            return entries(refs()).stream()
                    .filter(ref -> {
                        try {
                            return Files.readString(ref).strip().equals(commit);
                        } catch (IOException e) {
                            throw cannotRead(ref, e);
                        }
                    })
                    .map(ref -> refs().relativize(ref).toString().replace('\\', '/'))
                    .toList();
        }

        /** Makes a path of a snapshot lead to a blob. */
        void link(String id, String commit, String path) throws IOException {
            Path link = file(commit, path);
            Path blob = blob(id);
            Path folder = Objects.requireNonNull(link.getParent());
            Files.createDirectories(folder);
            Files.deleteIfExists(link); // it would have been found if it led anywhere
            try {
                Files.createSymbolicLink(link, folder.relativize(blob));
            } catch (FileAlreadyExistsException e) {
                // another process was there first
            } catch (UnsupportedOperationException | FileSystemException e) { // Windows, without the privilege
                hardLink(blob, link);
            }
        }

        private static void hardLink(Path blob, Path link) throws IOException {
            try {
                Files.createLink(link, blob);
            } catch (UnsupportedOperationException | FileSystemException e) {
                Files.copy(blob, link, StandardCopyOption.REPLACE_EXISTING);
            }
        }

        /**
         * Deletes files of snapshots, blobs that no snapshot leads to any more, and the folder if nothing is left.
         *
         * @return bytes that are free now
         */
        long remove(List<CachedFile> files) throws IOException {
            Set<Path> blobs = new LinkedHashSet<>();
            long freed = 0;
            for (CachedFile file : files) {
                Path blob = blobOf(file.file());
                if (blob == null) {
                    freed += file.bytes();
                } else {
                    blobs.add(blob);
                }
                Files.deleteIfExists(file.file());
            }
            for (Path entry : entries(snapshots())) {
                Path blob = blobOf(entry);
                if (blob != null) {
                    blobs.remove(blob);
                }
            }
            for (Path blob : blobs) {
                freed += size(blob);
                Files.deleteIfExists(blob);
            }
            prune(snapshots());
            if (!Files.exists(snapshots())) {
                freed += removePartials();
                deleteTree(folder);
                deleteTree(locks);
            }
            return freed;
        }

        /** Deletes what interrupted downloads have left. */
        long removePartials() throws IOException {
            long freed = 0;
            for (Path file : children(blobs())) {
                String blob = file.getFileName().toString();
                if (blob.endsWith(INCOMPLETE)) {
                    try (BlobLock lock = BlobLock.tryTake(lock(blob.replace(INCOMPLETE, "")))) {
                        if (lock != null) { // else it is being fetched
                            freed += size(file);
                            Files.deleteIfExists(file);
                        }
                    }
                }
            }
            return freed;
        }

        /** The blob that an entry of a snapshot leads to; null if it is a file of its own. */
        private @Nullable Path blobOf(Path entry) {
            try {
                if (Files.isSymbolicLink(entry)) {
                    return entry.resolveSibling(Files.readSymbolicLink(entry)).normalize();
                }
                for (Path blob : children(blobs())) {
                    if (Files.isSameFile(blob, entry)) {
                        return blob;
                    }
                }
                return null;
            } catch (IOException e) {
                throw cannotRead(entry, e);
            }
        }

        private static long size(Path file) {
            try {
                return Files.size(file);
            } catch (NoSuchFileException e) {
                return 0; // a link that leads nowhere
            } catch (IOException e) {
                throw cannotRead(file, e);
            }
        }
    }

    /** Everything below a folder that is no folder itself. */
    private static List<Path> entries(Path folder) {
        if (!Files.isDirectory(folder)) {
            return List.of();
        }
        try (Stream<Path> entries = Files.walk(folder)) {
            return entries.filter(entry -> !Files.isDirectory(entry)).sorted().toList();
        } catch (IOException | UncheckedIOException e) {
            throw cannotRead(folder, e);
        }
    }

    /** Deletes folders that hold nothing. */
    private static void prune(Path folder) throws IOException {
        for (Path child : children(folder)) {
            if (Files.isDirectory(child) && !Files.isSymbolicLink(child)) {
                prune(child);
            }
        }
        if (Files.isDirectory(folder) && children(folder).isEmpty()) {
            Files.delete(folder);
        }
    }

    private static void deleteTree(Path folder) throws IOException {
        if (!Files.exists(folder)) {
            return;
        }
        List<Path> all;
        try (Stream<Path> walk = Files.walk(folder)) {
            all = walk.sorted(Comparator.reverseOrder()).toList();
        }
        for (Path path : all) {
            Files.deleteIfExists(path);
        }
    }
}
