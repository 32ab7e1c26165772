package io.kvfold.demo;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.catchThrowable;

import io.kvfold.ForkedJvm;
import io.kvfold.KvPlan;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufKvPlan;
import io.kvfold.gguf.MemoryEstimate;
import java.io.File;
import java.io.IOException;
import java.io.OutputStream;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.jar.JarEntry;
import java.util.jar.JarOutputStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

final class DemoModelTest {

    private static final Path CLASSES = Path.of("target/classes");
    private static final String PACKAGE = "io/kvfold/demo";

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path directory;

    @Test
    void holdsAnOrdinaryModelAndAFoldedOneOfTheSameShape() {
        GgufFile standard = GgufFile.open(DemoModel.STANDARD.file());
        GgufFile folded = GgufFile.open(DemoModel.FOLDED.file());

        assertThat(GgufKvPlan.read(standard)).isEmpty();
        assertThat(GgufKvPlan.read(folded).orElseThrow().withPrefillPasses(1))
                .isEqualTo(KvPlan.parse("lckv:2", 8).withPrefillPasses(1));
        assertThat(MemoryEstimate.of(folded).kvBytesPerToken() * 8)
                .isEqualTo(MemoryEstimate.of(standard).kvBytesPerToken() * 3);
        assertThat(folded.strings("tokenizer.ggml.tokens")).isEqualTo(standard.strings("tokenizer.ggml.tokens"));
    }

    @Test
    void unpacksOnceAndAgainOnlyWhatIsDamaged() throws IOException {
        Path file = Path.of(unpackedBy(jvm()));
        byte[] whole = Files.readAllBytes(file);
        FileTime written = Files.getLastModifiedTime(file);

        assertThat(file).startsWith(directory.resolve("cache"));
        assertThat(unpackedBy(jvm())).isEqualTo(file.toString());
        assertThat(Files.getLastModifiedTime(file)).isEqualTo(written);

        byte[] damaged = whole.clone();
        damaged[damaged.length / 2] ^= 1;
        Files.write(file, damaged);
        assertThat(unpackedBy(jvm())).isEqualTo(file.toString());
        assertThat(file).hasBinaryContent(whole);
    }

    @Test
    void unpacksFromAJar() throws IOException {
        Path jar = directory.resolve("models.jar");
        try (JarOutputStream out = new JarOutputStream(Files.newOutputStream(jar));
                Stream<Path> files = Files.list(CLASSES.resolve(PACKAGE))) {
            for (Path file : files.filter(Files::isRegularFile).toList()) {
                out.putNextEntry(new JarEntry(PACKAGE + "/" + file.getFileName()));
                Files.copy(file, (OutputStream) out);
            }
        }

        ForkedJvm.Result run = jvm().withFirstOnClassPath(jar).run(Main.class);

        assertThat(run.outputOfSuccess()).contains("from jar:file:");
        assertThat(DemoModel.FOLDED.file()).hasSameBinaryContentAs(Path.of(firstLine(run)));
    }

    @Test
    void letsManyProcessesUnpackAtOnce() throws IOException {
        List<CompletableFuture<String>> runs = new ArrayList<>();
        for (int i = 0; i < 4; i++) {
            runs.add(CompletableFuture.supplyAsync(() -> unpackedBy(jvm())));
        }

        assertThat(runs.stream().map(CompletableFuture::join).distinct()).hasSize(1);
        try (Stream<Path> files = Files.walk(directory.resolve("cache"))) {
            assertThat(files.filter(Files::isRegularFile))
                    .containsExactly(Path.of(runs.get(0).join()));
        }
    }

    @Test
    void fallsBackToATemporaryDirectoryAndDeletesItAtTheEnd() throws IOException {
        Files.writeString(directory.resolve("cache"), "a file where the directory should be");
        Path temporary = Files.createDirectory(directory.resolve("tmp"));

        String file = unpackedBy(jvm().with("-Djava.io.tmpdir=" + temporary));

        assertThat(file).startsWith(temporary.toString());
        assertThat(temporary).isEmptyDirectory();
    }

    @Test
    void saysWhereItCouldNotUnpack() throws IOException {
        Files.writeString(directory.resolve("cache"), "a file where the directory should be");
        Path nowhere = directory.resolve("nowhere");

        ForkedJvm.Result run = jvm().with("-Djava.io.tmpdir=" + nowhere).run(Main.class);

        assertThat(run.exit()).isEqualTo(1);
        assertThat(run.output())
                .contains(
                        "io.kvfold.ModelNotFoundException",
                        directory.resolve("cache").toString(),
                        nowhere.toString());
    }

    @Test
    void saysThatTheResourceIsMissing() throws Exception {
        Path bare = Files.createDirectories(directory.resolve("bare").resolve(PACKAGE));
        Files.copy(CLASSES.resolve(PACKAGE).resolve("DemoModel.class"), bare.resolve("DemoModel.class"));
        List<URL> urls = new ArrayList<>();
        urls.add(directory.resolve("bare").toUri().toURL());
        for (String entry : System.getProperty("java.class.path").split(File.pathSeparator)) {
            if (!Path.of(entry).toAbsolutePath().equals(CLASSES.toAbsolutePath())) {
                urls.add(Path.of(entry).toUri().toURL());
            }
        }
        try (URLClassLoader loader =
                new URLClassLoader(urls.toArray(URL[]::new), ClassLoader.getPlatformClassLoader())) {
            Class<?> type = loader.loadClass(DemoModel.class.getName());
            Object folded = type.getField("FOLDED").get(null);

            assertThat(catchThrowable(() -> type.getMethod("file").invoke(folded)))
                    .cause()
                    .hasMessageContaining("the class path holds no kvfold-demo-folded-q8_0.gguf")
                    .extracting(cause -> cause.getClass().getSimpleName())
                    .isEqualTo("ModelNotFoundException");
        }
    }

    /** Whose user's cache is a folder of this test, on every system. */
    private ForkedJvm jvm() {
        String cache = directory.resolve("cache").toString();
        return new ForkedJvm()
                .with("-Duser.home=" + cache)
                .withEnvironment("XDG_CACHE_HOME", cache)
                .withEnvironment("LOCALAPPDATA", cache);
    }

    private static String unpackedBy(ForkedJvm jvm) {
        ForkedJvm.Result run = jvm.run(Main.class);
        run.outputOfSuccess();
        return firstLine(run);
    }

    private static String firstLine(ForkedJvm.Result run) {
        return run.output().lines().findFirst().orElseThrow();
    }

    static final class Main {
        private Main() {}

        public static void main(String[] args) {
            System.out.println(DemoModel.FOLDED.file());
            System.out.println("from " + DemoModel.class.getResource("kvfold-demo-folded-q8_0.gguf"));
        }
    }
}
