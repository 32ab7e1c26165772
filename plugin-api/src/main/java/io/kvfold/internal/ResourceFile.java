package io.kvfold.internal;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.URL;
import java.net.URLConnection;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.DigestInputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;

/**
 * A resource of the class path that native code needs as a file, known by its content.
 *
 * @param name of the file
 * @param sha256 of the content, in hexadecimal digits
 */
public record ResourceFile(URL resource, String name, String sha256) {

    /** Reads the resource for its checksum. */
    public static ResourceFile of(URL resource, String name) throws IOException {
        try (InputStream in = open(resource)) {
            return new ResourceFile(resource, name, sha256(in));
        }
    }

    /**
     * Makes sure that {@code directory} holds the file, whole, also while other JVMs do the same.
     *
     * @return the file
     * @throws IOException if it is neither there nor can be written
     */
    public Path unpackInto(Path directory) throws IOException {
        Path file = directory.resolve(name);
        if (isWhole(file)) {
            return file;
        }
        Files.createDirectories(directory);
        Path copy = Files.createTempFile(directory, name, ".tmp");
        try {
            try (InputStream in = open(resource)) {
                Files.copy(in, copy, StandardCopyOption.REPLACE_EXISTING);
            }
            if (!isWhole(copy)) {
                throw new IOException("the copy differs from " + resource);
            }
            try {
                Files.move(copy, file, StandardCopyOption.ATOMIC_MOVE);
            } catch (IOException e) {
                if (!isWhole(file)) { // Windows refuses to replace a file that another JVM has open
                    throw e;
                }
            }
        } finally {
            Files.deleteIfExists(copy);
        }
        return file;
    }

    private boolean isWhole(Path file) throws IOException {
        if (!Files.isRegularFile(file)) {
            return false;
        }
        try (InputStream in = Files.newInputStream(file)) {
            return sha256(in).equals(sha256);
        }
    }

    private static InputStream open(URL resource) throws IOException {
        URLConnection connection = resource.openConnection();
        connection.setUseCaches(false); // else closing the stream may close the jar under another reader
        return connection.getInputStream();
    }

    private static String sha256(InputStream in) throws IOException {
        MessageDigest digest;
        try {
            digest = MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException e) {
            throw new AssertionError(e); // every Java has it
        }
        new DigestInputStream(in, digest).transferTo(OutputStream.nullOutputStream());
        return HexFormat.of().formatHex(digest.digest());
    }
}
