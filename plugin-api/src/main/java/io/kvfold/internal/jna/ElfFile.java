package io.kvfold.internal.jna;

import com.sun.jna.Platform;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.util.Map;

/**
 * What the dynamic linker takes on trust: that a shared library is whole and for this machine. Touching a mapped page
 * beyond the end of a truncated library kills the process.
 */
final class ElfFile {

    private static final int HEADER_BYTES = 64;
    private static final Map<String, Integer> MACHINES = Map.of("x86-64", 62, "aarch64", 183);

    private ElfFile() {}

    /** Throws if {@code file} is not a whole 64-bit ELF file for this machine. */
    static void check(Path file) throws IOException {
        ByteBuffer header = ByteBuffer.allocate(HEADER_BYTES);
        long size;
        try (FileChannel channel = FileChannel.open(file)) {
            size = channel.size();
            while (header.hasRemaining()) {
                if (channel.read(header, header.position()) < 0) {
                    throw new EOFException("not an ELF file: it has " + size + " bytes");
                }
            }
        }
        header.flip();
        if (header.getInt(0) != 0x7f454c46) {
            throw new IOException("not an ELF file");
        }
        header.order(header.get(5) == 2 ? ByteOrder.BIG_ENDIAN : ByteOrder.LITTLE_ENDIAN);
        int machine = header.getShort(18);
        Integer expected = MACHINES.get(Platform.ARCH);
        if (header.get(4) != 2 || (expected != null && machine != expected)) {
            throw new IOException("built for another machine: its ELF machine number is " + machine + ", "
                    + Platform.ARCH + " is " + expected);
        }
        // Linkers write the table of section headers last.
        long end = header.getLong(40) + (long) header.getShort(58) * header.getShort(60);
        if (end > size) {
            throw new IOException("truncated: it has " + size + " of " + end + " bytes");
        }
    }
}
