package io.kvfold.internal.jna;

import static org.assertj.core.api.Assertions.assertThat;

import com.sun.jna.Platform;
import io.kvfold.ForkedJvm;
import io.kvfold.NativeLibrary;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledForJreRange;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.JRE;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;

/** Each case is a JVM of its own: a process loads the library once. */
@EnabledOnOs(OS.LINUX)
class LibraryLoaderTest {

    private static final String NAME = System.mapLibraryName("kvfold");

    @TempDir
    Path directory;

    @Test
    void namesThePathThatIsNotThereAndTriesNoOther() {
        Path missing = directory.resolve("nowhere.so");
        assertThat(report(fromPath(missing)))
                .contains(
                        "available: false",
                        missing + " (from -Dkvfold.library.path): no such file",
                        "suppressed: 1",
                        "opening an engine: NativeLibraryException")
                .doesNotContain("class path resource");
    }

    @Test
    void namesTheFileThatADirectoryLacks() {
        assertThat(report(fromPath(directory))).contains(directory.resolve(NAME) + " (from", "no such file");
    }

    @Test
    void refusesALibraryWithAnotherAbiNumber() throws Exception {
        Path stub = StubLibrary.compileInto(directory, "-DSTUB_ABI_VERSION=99");
        assertThat(report(fromPath(stub)))
                .contains(
                        "available: false",
                        "its ABI number is 99, this version of Kvfold needs " + Library.ABI_VERSION);
    }

    @Test
    void refusesALibraryThatIsNotOurs() throws Exception {
        Path source = Files.writeString(directory.resolve("other.c"), "int other(void) { return 1; }");
        Path library = directory.resolve("other.so");
        new ProcessBuilder("cc", "-shared", "-fPIC", "-o", library.toString(), source.toString())
                .inheritIO()
                .start()
                .waitFor();
        assertThat(report(fromPath(library))).contains("available: false", "kvfold_abi_version");
    }

    @Test
    void refusesATruncatedLibraryWithoutMappingIt() throws Exception {
        byte[] whole = Files.readAllBytes(StubLibrary.compileInto(directory));
        for (int length : new int[] {0, 3, 64, whole.length / 2, whole.length - 1}) {
            Path truncated = Files.write(directory.resolve("truncated.so"), Arrays.copyOf(whole, length));
            assertThat(report(fromPath(truncated)))
                    .contains("available: false", length < 64 ? "not an ELF file" : "truncated: it has " + length);
        }
    }

    @Test
    void refusesALibraryForAnotherMachine() throws Exception {
        Path stub = StubLibrary.compileInto(directory);
        byte[] bytes = Files.readAllBytes(stub);
        bytes[18] = 8; // MIPS
        Files.write(stub, bytes);
        assertThat(report(fromPath(stub))).contains("built for another machine: its ELF machine number is 8");
    }

    @Test
    void namesTheInstructionThatTheCpuLacks() throws Exception {
        String one = Platform.ARCH.equals("aarch64") ? "asimd" : "sse2";
        StubLibrary.compileInto(directory, "-DSTUB_CPU=\"" + one + "\"");
        assertThat(report(fromPath(directory))).contains("available: true");
        StubLibrary.compileInto(directory, "-DSTUB_CPU=\"" + one + " avx9000 amx_int3\"");
        assertThat(report(fromPath(directory)))
                .contains("available: false", "this CPU lacks avx9000, amx_int3, for which", "--cpu x86-64-v3");
    }

    @Test
    void unpacksTheLibraryOnceAndUsesItAgain() throws Exception {
        Path cache = directory.resolve("cache");
        ForkedJvm jvm = fromClassPath(cache);
        assertThat(report(jvm)).contains("available: true");
        Path unpacked = unpacked(cache);
        assertThat(Files.mismatch(unpacked, resource())).isEqualTo(-1);
        FileTime before = Files.getLastModifiedTime(unpacked);
        assertThat(report(jvm)).contains("available: true");
        assertThat(Files.getLastModifiedTime(unpacked)).isEqualTo(before);
    }

    @Test
    void replacesAnUnpackedLibraryThatIsDamaged() throws Exception {
        Path cache = directory.resolve("cache");
        ForkedJvm jvm = fromClassPath(cache);
        report(jvm);
        Path unpacked = unpacked(cache);
        byte[] bytes = Files.readAllBytes(unpacked);
        bytes[bytes.length / 2] ^= 1;
        Files.write(unpacked, bytes);
        assertThat(report(jvm)).contains("available: true");
        assertThat(Files.mismatch(unpacked, resource())).isEqualTo(-1);
    }

    @Test
    void unpacksIntoATemporaryDirectoryWhereTheCacheCannotBeWritten() throws Exception {
        Path temporary = Files.createDirectory(directory.resolve("tmp"));
        Path cache = Files.writeString(directory.resolve("cache"), "a file where the directory should be");
        assertThat(report(fromClassPath(cache).with("-Djava.io.tmpdir=" + temporary)))
                .contains("available: true");
        try (Stream<Path> left = Files.walk(temporary)) {
            assertThat(left.filter(path -> path.endsWith(NAME)))
                    .as("deleted at exit")
                    .isEmpty();
        }
    }

    @Test
    void tellsOfEveryPlaceThatFailed() throws Exception {
        Path cache = directory.resolve("cache");
        assertThat(report(fromClassPath(cache, "-DSTUB_ABI_VERSION=99")))
                .contains("available: false", "suppressed: 2", cache.toString(), "ABI number is 99");
        assertThat(report(new ForkedJvm())).contains("available: ");
    }

    @Test
    void letsManyProcessesUnpackAtOnce() throws Exception {
        Path cache = directory.resolve("cache");
        ForkedJvm jvm = fromClassPath(cache);
        List<CompletableFuture<String>> reports = new ArrayList<>();
        for (int i = 0; i < 4; i++) {
            reports.add(CompletableFuture.supplyAsync(() -> report(jvm)));
        }
        for (CompletableFuture<String> report : reports) {
            assertThat(report.get()).contains("available: true");
        }
        try (Stream<Path> files = Files.walk(cache.resolve("kvfold"))) {
            assertThat(files.filter(Files::isRegularFile)).containsExactly(unpacked(cache));
        }
    }

    @Test
    @EnabledForJreRange(min = JRE.JAVA_24, disabledReason = "before, native access cannot be denied")
    void saysHowToAllowNativeAccess() {
        assertThat(report(new ForkedJvm().denyingNativeAccess()))
                .contains("available: false", "JNA cannot be used here", "--enable-native-access=ALL-UNNAMED");
    }

    @Test
    void saysHowToGiveJnaAnotherDirectory() {
        assertThat(report(new ForkedJvm().with("-Djna.nounpack=true").with("-Djna.noclasspath=true")))
                .contains("available: false", "JNA cannot be used here", "-Djna.tmpdir");
    }

    private static String report(ForkedJvm jvm) {
        return jvm.run(Main.class).outputOfSuccess();
    }

    private static ForkedJvm fromPath(Path path) {
        return new ForkedJvm().with("-Dkvfold.library.path=" + path);
    }

    private ForkedJvm fromClassPath(Path cache, String... options) throws Exception {
        StubLibrary.compileInto(resourceDirectory(), options);
        return new ForkedJvm()
                .withFirstOnClassPath(directory.resolve("classes"))
                .withEnvironment("XDG_CACHE_HOME", cache.toString());
    }

    private Path resource() {
        return resourceDirectory().resolve(NAME);
    }

    private Path resourceDirectory() {
        return directory.resolve("classes").resolve(Platform.RESOURCE_PREFIX);
    }

    private static Path unpacked(Path cache) throws Exception {
        try (Stream<Path> files = Files.walk(cache.resolve("kvfold"))) {
            return files.filter(path -> path.endsWith(NAME)).findFirst().orElseThrow();
        }
    }

    static final class Main {
        private Main() {}

        public static void main(String[] args) {
            System.out.println("available: " + NativeLibrary.isAvailable());
            Throwable cause = NativeLibrary.unavailabilityCause();
            if (cause != null) {
                System.out.println(cause.getMessage());
                System.out.println("suppressed: " + cause.getSuppressed().length);
                try {
                    NativeLibrary.info();
                } catch (io.kvfold.NativeLibraryException e) {
                    System.out.println("opening an engine: " + e.getClass().getSimpleName());
                }
            }
        }
    }
}
