package io.kvfold.internal.jna;

import static org.junit.jupiter.api.Assumptions.abort;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** Compiles {@code stub.c}. */
final class StubLibrary {

    private StubLibrary() {}

    /** Compiles the stub to {@code directory/libkvfold.so}; ends the test as skipped where there is no C compiler. */
    static Path compileInto(Path directory, String... options) throws IOException, InterruptedException {
        Files.createDirectories(directory);
        Path library = directory.resolve(System.mapLibraryName("kvfold"));
        List<String> command = new ArrayList<>(List.of("cc", "-shared", "-fPIC", "-O1"));
        command.addAll(List.of(options));
        command.addAll(List.of(
                "-I" + Header.FILE.getParent(),
                "-o",
                library.toString(),
                Path.of("src", "test", "resources", "stub.c").toString(),
                "-lpthread"));
        Process compiler;
        try {
            compiler = new ProcessBuilder(command).redirectErrorStream(true).start();
        } catch (IOException e) {
            return abort("not run: there is no C compiler: " + e.getMessage());
        }
        String output = new String(compiler.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        if (compiler.waitFor() != 0) {
            throw new AssertionError(output);
        }
        return library;
    }
}
