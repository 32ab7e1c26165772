package io.kvfold.hub;

import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.channels.OverlappingFileLockException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentMap;
import java.util.concurrent.locks.ReentrantLock;
import org.jspecify.annotations.Nullable;

/**
 * Keeps others from fetching the same blob at the same time. It only saves work: where a file system ignores locks, two
 * writers put the same bytes in the same places.
 */
final class BlobLock implements AutoCloseable {

    private static final long POLL_MILLIS = 100;

    // A lock of a file belongs to the process: the threads of this one need a lock of their own.
    private static final ConcurrentMap<Path, ReentrantLock> THREADS = new ConcurrentHashMap<>();

    private final ReentrantLock threads;
    private final FileChannel channel;

    private BlobLock(ReentrantLock threads, FileChannel channel) {
        this.threads = threads;
        this.channel = channel;
    }

    /** @param whileWaiting called several times a second; throws to give up */
    static BlobLock take(Path file, Runnable whileWaiting) throws IOException, InterruptedException {
        for (BlobLock lock = tryTake(file); ; lock = tryTake(file)) {
            if (lock != null) {
                return lock;
            }
            whileWaiting.run();
            Thread.sleep(POLL_MILLIS);
        }
    }

    /** Null if somebody has it. */
    static @Nullable BlobLock tryTake(Path file) throws IOException {
        // the thread's lock first: to close a channel of a file gives up all locks that the process has of it
        ReentrantLock threads = THREADS.computeIfAbsent(file.toAbsolutePath().normalize(), key -> new ReentrantLock());
        if (!threads.tryLock()) {
            return null;
        }
        FileChannel channel = null;
        boolean taken = false;
        try {
            Files.createDirectories(file.getParent());
            channel = FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.WRITE);
            taken = lock(channel) != null;
            return taken ? new BlobLock(threads, channel) : null;
        } finally {
            if (!taken) {
                if (channel != null) {
                    channel.close();
                }
                threads.unlock();
            }
        }
    }

    private static @Nullable FileLock lock(FileChannel channel) throws IOException {
        try {
            return channel.tryLock();
        } catch (OverlappingFileLockException e) {
            return null; // held by this library in another class loader
        }
    }

    @Override
    public void close() throws IOException {
        try {
            channel.close();
        } finally {
            threads.unlock();
        }
    }
}
