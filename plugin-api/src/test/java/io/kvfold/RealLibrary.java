package io.kvfold;

import static org.junit.jupiter.api.Assertions.fail;
import static org.junit.jupiter.api.Assumptions.abort;

import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;

/** The built libkvfold, for tests that need it. */
public final class RealLibrary {

    private RealLibrary() {}

    /** Ends the test if the library is not there: as skipped where it was not to be built, else as failed. */
    public static void require() {
        if (NativeLibrary.isAvailable()) {
            return;
        }
        if (Boolean.getBoolean("kvfold.native.skip")) {
            abort("not run: the native library was not built (-Dkvfold.native.skip=true)");
        }
        fail("the native library was built but is not available", NativeLibrary.unavailabilityCause());
    }

    /** The library file that the tests run on. */
    public static Path file() throws Exception {
        require();
        String path = System.getProperty("kvfold.library.path");
        String name = System.mapLibraryName("kvfold");
        if (path != null) {
            return Files.isDirectory(Path.of(path)) ? Path.of(path, name) : Path.of(path);
        }
        // in a jar once Maven has packed the native module
        Path copy = Files.createTempFile("kvfold-test", name);
        copy.toFile().deleteOnExit();
        try (InputStream library =
                RealLibrary.class.getResourceAsStream("/" + com.sun.jna.Platform.RESOURCE_PREFIX + "/" + name)) {
            Files.copy(library, copy, StandardCopyOption.REPLACE_EXISTING);
        }
        return copy;
    }
}
