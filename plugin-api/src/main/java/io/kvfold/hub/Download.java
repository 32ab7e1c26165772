package io.kvfold.hub;

import io.kvfold.ModelDownloadException;
import java.io.IOException;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Fetches one blob into a file beside it and moves it into place once its checksum is right. Bytes are written where they
 * belong in the file, so that what was left by an attempt that ended in any way is a beginning of the blob.
 */
final class Download {

    private static final Pattern CONTENT_RANGE = Pattern.compile("bytes (\\d+)-\\d+/(\\d+|\\*)");
    private static final int RANGE_NOT_SATISFIABLE = 416;
    private static final int PARTIAL_CONTENT = 206;

    private final HubClient client;
    private final ModelName name;
    private final URI uri;
    private final RepositoryFile file;
    private final Path partial;
    private final Transfer transfer;
    private BlobDigest digest;
    private long position;

    Download(HubClient client, ModelName name, URI uri, RepositoryFile file, Path partial, Transfer transfer) {
        this.client = client;
        this.name = name;
        this.uri = uri;
        this.file = file;
        this.partial = partial;
        this.transfer = transfer;
        this.digest = new BlobDigest(file);
    }

    /**
     * Leaves the verified blob at {@code target}.
     *
     * @throws io.kvfold.KvfoldException that says why it cannot
     */
    void to(Path target) throws IOException, InterruptedException {
        try (FileChannel channel = FileChannel.open(
                partial, StandardOpenOption.CREATE, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
            boolean resumed = takeUp(channel);
            String actual = receiveAll(channel);
            if (!actual.equals(file.id()) && resumed) {
                startAnew(); // what an earlier attempt has left may have been damaged since
                actual = receiveAll(channel);
            }
            if (!actual.equals(file.id())) {
                Files.delete(partial);
                throw new ModelDownloadException(file.path() + " of " + name.repository() + " came with the checksum "
                        + actual + ", expected " + file.id() + "; it was deleted");
            }
            channel.force(true);
        }
        try {
            Files.move(partial, target, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
        } catch (NoSuchFileException e) {
            if (!Files.exists(target)) { // unless another process was there first, on a file system without locks
                throw e;
            }
        }
    }

    /** Goes on behind what an earlier attempt has left. */
    private boolean takeUp(FileChannel channel) throws IOException {
        long there = channel.size();
        if (there > file.bytes()) {
            channel.truncate(0);
            there = 0;
        }
        long needed = file.bytes() - there;
        long free = Files.getFileStore(partial).getUsableSpace();
        if (needed > free) {
            throw new ModelDownloadException(
                    file.path() + " takes " + needed + " more bytes, " + partial.getParent() + " has " + free + " left",
                    needed,
                    free);
        }
        digest.update(channel, there, transfer::check);
        position = there;
        transfer.reach(position);
        return there > 0;
    }

    private void startAnew() {
        digest = new BlobDigest(file);
        position = 0;
        transfer.reach(0);
    }

    private String receiveAll(FileChannel channel) throws IOException, InterruptedException {
        client.retrying(name, transfer, () -> {
            if (position < file.bytes()) {
                receive(channel);
            }
            return true;
        });
        return digest.hex();
    }

    private void receive(FileChannel channel) throws IOException, InterruptedException, HubFailure {
        Map<String, String> range = position == 0 ? Map.of() : Map.of("Range", "bytes=" + position + "-");
        try (HubAnswer answer = client.get(uri, range, transfer)) {
            check(answer);
            for (List<ByteBuffer> piece = answer.body().next(transfer::check);
                    !piece.isEmpty();
                    piece = answer.body().next(transfer::check)) {
                for (ByteBuffer bytes : piece) {
                    put(channel, bytes);
                }
                transfer.reach(position);
            }
        } catch (HubFailure e) {
            if (e.status() == RANGE_NOT_SATISFIABLE && position > 0) {
                startAnew();
                throw new IOException(e.getMessage(), e);
            }
            throw e;
        }
        if (position < file.bytes()) {
            throw new IOException("the connection ended after " + position + " of " + file.bytes() + " bytes");
        }
    }

    /** Whether it is what was asked for; one that begins at the start although the middle was asked for is taken. */
    private void check(HubAnswer answer) throws IOException {
        if (answer.id() != null && !answer.id().equals(file.id())) {
            throw new ModelDownloadException("the hub lists " + file.path() + " as " + file.id() + " and sends "
                    + answer.id() + "; it has changed meanwhile, try again");
        }
        if (answer.status() != PARTIAL_CONTENT) {
            startAnew();
            return;
        }
        Matcher range = CONTENT_RANGE.matcher(answer.header("Content-Range").orElse(""));
        if (!range.matches() || Long.parseLong(range.group(1)) != position) {
            long asked = position;
            startAnew();
            throw new IOException("bytes from " + asked + " were asked for, and "
                    + answer.header("Content-Range").orElse("no range") + " came");
        }
    }

    private void put(FileChannel channel, ByteBuffer bytes) {
        if (bytes.remaining() > file.bytes() - position) {
            throw new ModelDownloadException(file.path() + " of " + name.repository() + " has more than the "
                    + file.bytes() + " bytes that the hub lists");
        }
        digest.update(bytes.duplicate());
        try {
            while (bytes.hasRemaining()) {
                position += channel.write(bytes, position);
            }
        } catch (IOException e) {
            throw new ModelDownloadException("cannot write " + partial + ": " + e.getMessage(), e);
        }
    }
}
