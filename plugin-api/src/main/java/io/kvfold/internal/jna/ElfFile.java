package io.kvfold.internal.jna;

import com.sun.jna.Platform;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * What the dynamic linker takes on trust: that a shared library is whole and for this machine. Touching a mapped page
 * beyond the end of a truncated library kills the process, and so does the first instruction that the CPU does not have.
 */
final class ElfFile {

    private static final int HEADER_BYTES = 64;
    private static final int SECTION_BYTES = 64;
    private static final int MAX_TEXT_BYTES = 1 << 20;
    private static final Map<String, Integer> MACHINES = Map.of("x86-64", 62, "aarch64", 183);

    /** The build writes what instructions the library takes for granted, in the names of {@code /proc/cpuinfo}. */
    private static final String CPU_SECTION = ".kvfold_cpu";

    private static final Path CPU_INFO = Path.of("/proc/cpuinfo");

    private ElfFile() {}

    /** Throws if {@code file} is not a whole 64-bit ELF file for this machine and its CPU. */
    static void check(Path file) throws IOException {
        try (FileChannel channel = FileChannel.open(file)) {
            ByteBuffer header = checkHeader(channel);
            checkCpu(required(channel, header));
        }
    }

    private static ByteBuffer checkHeader(FileChannel channel) throws IOException {
        long size = channel.size();
        if (size < HEADER_BYTES) {
            throw new EOFException("not an ELF file: it has " + size + " bytes");
        }
        ByteBuffer header = read(channel, 0, HEADER_BYTES);
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
        return header;
    }

    /** The instructions that the library needs; none of a library that does not say. */
    private static List<String> required(FileChannel channel, ByteBuffer header) throws IOException {
        int sections = header.getShort(60);
        int names = header.getShort(62);
        if (header.getShort(58) != SECTION_BYTES || names < 0 || names >= sections) {
            return List.of();
        }
        ByteBuffer table =
                read(channel, header.getLong(40), sections * SECTION_BYTES).order(header.order());
        String allNames = text(channel, table, names);
        for (int i = 0; i < sections; i++) {
            int name = table.getInt(i * SECTION_BYTES);
            if (name >= 0 && allNames.startsWith(CPU_SECTION + '\0', name)) {
                String features = text(channel, table, i).replace('\0', ' ').strip();
                return features.isEmpty() ? List.of() : List.of(features.split(" +"));
            }
        }
        return List.of();
    }

    private static String text(FileChannel channel, ByteBuffer table, int section) throws IOException {
        long offset = table.getLong(section * SECTION_BYTES + 24);
        long size = table.getLong(section * SECTION_BYTES + 32);
        if (size < 0 || size > MAX_TEXT_BYTES) {
            return "";
        }
        return StandardCharsets.ISO_8859_1
                .decode(read(channel, offset, (int) size))
                .toString();
    }

    private static void checkCpu(List<String> required) throws IOException {
        Set<String> available = instructionsOfThisCpu();
        Set<String> missing = new LinkedHashSet<>(required);
        missing.removeAll(available);
        if (!missing.isEmpty() && !available.isEmpty()) {
            throw new IOException("this CPU lacks " + String.join(", ", missing)
                    + ", for which the library was built; native/build.sh --cpu x86-64-v3 makes one for most CPUs");
        }
    }

    private static Set<String> instructionsOfThisCpu() throws IOException {
        if (!Files.isReadable(CPU_INFO)) {
            return Set.of();
        }
        try (var lines = Files.lines(CPU_INFO, StandardCharsets.ISO_8859_1)) {
            return lines.filter(line -> line.startsWith("flags") || line.startsWith("Features"))
                    .findFirst()
                    .map(line -> Set.copyOf(Arrays.asList(
                            line.substring(line.indexOf(':') + 1).strip().split(" +"))))
                    .orElse(Set.of());
        }
    }

    private static ByteBuffer read(FileChannel channel, long offset, int size) throws IOException {
        ByteBuffer bytes = ByteBuffer.allocate(size);
        while (bytes.hasRemaining()) {
            if (offset < 0 || channel.read(bytes, offset + bytes.position()) < 0) {
                throw new EOFException("truncated: it has " + channel.size() + " bytes");
            }
        }
        return bytes.flip();
    }
}
