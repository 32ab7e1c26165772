package io.kvfold.hub;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;

/** Computes what a blob's id must be while its bytes pass. */
final class BlobDigest {

    private static final int SHA256_DIGITS = 64;
    private static final int CHUNK = 1 << 20;

    private final MessageDigest digest;

    BlobDigest(RepositoryFile file) {
        boolean sha256 = file.id().length() == SHA256_DIGITS;
        try {
            digest = MessageDigest.getInstance(sha256 ? "SHA-256" : "SHA-1");
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException("every Java has SHA-256 and SHA-1", e);
        }
        if (!sha256) {
            // what git puts before the content of a file when it names it
            digest.update(("blob " + file.bytes() + '\0').getBytes(StandardCharsets.US_ASCII));
        }
    }

    void update(ByteBuffer bytes) {
        digest.update(bytes);
    }

    /** Takes what an earlier attempt has left. */
    void update(FileChannel channel, long bytes, Runnable afterEachChunk) throws IOException {
        ByteBuffer chunk = ByteBuffer.allocate(CHUNK);
        for (long position = 0; position < bytes; ) {
            chunk.clear().limit((int) Math.min(CHUNK, bytes - position));
            int read = channel.read(chunk, position);
            if (read < 0) {
                throw new IOException("the file became shorter while it was read");
            }
            digest.update(chunk.flip());
            position += read;
            afterEachChunk.run();
        }
    }

    String hex() {
        return HexFormat.of().formatHex(digest.digest());
    }
}
