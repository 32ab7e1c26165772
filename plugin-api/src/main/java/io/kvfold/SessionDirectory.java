package io.kvfold;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import org.jspecify.annotations.Nullable;

/** {@link SessionStore#directory}. An engine reads and writes its files where they are. */
final class SessionDirectory implements SessionStore {

    private final Path directory;

    SessionDirectory(Path directory) {
        this.directory = directory.toAbsolutePath();
    }

    /** The file of a key, in a folder that exists. */
    Path file(String key) throws IOException {
        Files.createDirectories(directory);
        return directory.resolve(name(key));
    }

    private static String name(String key) {
        try {
            byte[] hash = MessageDigest.getInstance("SHA-256").digest(key.getBytes(StandardCharsets.UTF_8));
            return HexFormat.of().formatHex(hash) + ".kvstate";
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError("every JDK has SHA-256", e);
        }
    }

    @Override
    public boolean load(String key, Path file) throws IOException {
        try {
            Files.copy(file(key), file);
            return true;
        } catch (NoSuchFileException e) {
            return false;
        }
    }

    @Override
    public void save(String key, Path file) throws IOException {
        Path partial = Files.createTempFile(directory, name(key), ".partial");
        try {
            Files.copy(file, partial, StandardCopyOption.REPLACE_EXISTING);
            Files.move(partial, file(key), StandardCopyOption.ATOMIC_MOVE);
        } finally {
            Files.deleteIfExists(partial);
        }
    }

    @Override
    public void delete(String key) throws IOException {
        Files.deleteIfExists(file(key));
    }

    @Override
    public boolean equals(@Nullable Object other) {
        return other instanceof SessionDirectory that && directory.equals(that.directory);
    }

    @Override
    public int hashCode() {
        return directory.hashCode();
    }

    @Override
    public String toString() {
        return directory.toString();
    }
}
