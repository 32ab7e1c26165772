package io.kvfold.internal.jna;

import com.sun.jna.NativeLibrary;
import com.sun.jna.Platform;
import io.kvfold.NativeLibraryException;
import io.kvfold.internal.CacheDirectory;
import io.kvfold.internal.ResourceFile;
import java.io.IOException;
import java.net.URL;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.jspecify.annotations.Nullable;

/** Finds, checks and binds libkvfold, and keeps why each place it looked at failed. */
final class LibraryLoader {

    /** A file, or the directory that holds it; where it is set, nothing else is tried. */
    static final String PATH_PROPERTY = "kvfold.library.path";

    private static final String FILE_NAME = System.mapLibraryName("kvfold");
    private static final String RESOURCE = Platform.RESOURCE_PREFIX + "/" + FILE_NAME;

    private final List<Throwable> failures = new ArrayList<>();

    private LibraryLoader() {}

    static Library load() {
        requireJna();
        LibraryLoader loader = new LibraryLoader();
        String path = System.getProperty(PATH_PROPERTY);
        Library library = path == null ? loader.fromClassPath() : loader.fromPath(Path.of(path));
        if (library == null) {
            throw loader.failure();
        }
        return library;
    }

    /** JNA unpacks a library of its own. If that fails, it fails again for good, and less clearly. */
    private static void requireJna() {
        try {
            Class.forName("com.sun.jna.Native");
        } catch (LinkageError | ClassNotFoundException e) {
            Throwable cause = e;
            while (cause.getCause() != null) {
                cause = cause.getCause();
            }
            String remedy = cause instanceof UnsatisfiedLinkError
                    ? "; -Djna.tmpdir names a directory for JNA to use, whose files may be executed"
                    : "; does Java run with --enable-native-access=ALL-UNNAMED?";
            throw new NativeLibraryException("JNA cannot be used here: " + cause.getMessage() + remedy, e);
        }
    }

    private @Nullable Library fromPath(Path path) {
        Path file = Files.isDirectory(path) ? path.resolve(FILE_NAME) : path;
        try {
            if (!Files.exists(file)) {
                throw new NoSuchFileException(file.toString(), null, "no such file");
            }
            return bind(file.toAbsolutePath());
        } catch (Exception | LinkageError e) {
            failed(file + " (from -D" + PATH_PROPERTY + ")", e);
            return null;
        }
    }

    private @Nullable Library fromClassPath() {
        URL resource = LibraryLoader.class.getClassLoader().getResource(RESOURCE);
        if (resource == null) {
            failed(
                    "class path resource " + RESOURCE,
                    new IOException("not there; is kvfold-native for this platform on the class path?"));
            return null;
        }
        ResourceFile file;
        try {
            file = ResourceFile.of(resource, FILE_NAME);
        } catch (IOException e) {
            failed(resource.toString(), e);
            return null;
        }
        Library library = fromCache(file);
        return library == null ? fromTemporaryDirectory(file) : library;
    }

    private @Nullable Library fromCache(ResourceFile file) {
        Path directory = CacheDirectory.path().resolve(file.sha256());
        try {
            return bind(file.unpackInto(directory));
        } catch (Exception | LinkageError e) {
            failed(directory.resolve(FILE_NAME).toString(), e);
            return null;
        }
    }

    /** For a home that is read-only or mounted noexec. */
    private @Nullable Library fromTemporaryDirectory(ResourceFile file) {
        Path directory = Path.of(System.getProperty("java.io.tmpdir"));
        try {
            directory = Files.createTempDirectory("kvfold-"); // readable by this user only
            directory.toFile().deleteOnExit();
            Path unpacked = file.unpackInto(directory);
            unpacked.toFile().deleteOnExit();
            return bind(unpacked);
        } catch (Exception | LinkageError e) {
            failed(directory.resolve(FILE_NAME).toString(), e);
            return null;
        }
    }

    private static Library bind(Path file) throws IOException {
        if (Platform.isLinux()) {
            ElfFile.check(file);
        }
        NativeLibrary library = NativeLibrary.getInstance(file.toString(), options());
        try {
            int version = library.getFunction("kvfold_abi_version").invokeInt(new Object[0]);
            if (version != Library.ABI_VERSION) {
                throw new IOException(
                        "its ABI number is " + version + ", this version of Kvfold needs " + Library.ABI_VERSION);
            }
            return new DirectLibrary(library);
        } catch (Throwable e) {
            library.close();
            throw e;
        }
    }

    /** RTLD_NOW | RTLD_LOCAL: a missing symbol shows here, and ours meet nobody else's. */
    private static Map<String, ?> options() {
        return Platform.isLinux()
                ? Map.of(com.sun.jna.Library.OPTION_OPEN_FLAGS, 2)
                : Platform.isMac() ? Map.of(com.sun.jna.Library.OPTION_OPEN_FLAGS, 6) : Map.of();
    }

    private void failed(String place, Throwable cause) {
        failures.add(new IOException(place + ": " + reason(cause), cause));
    }

    private static String reason(Throwable cause) {
        if (cause instanceof FileSystemException e) {
            return e.getReason() == null ? e.getClass().getSimpleName() + " " + e.getFile() : e.getReason();
        }
        String message = String.valueOf(cause.getMessage());
        // JNA says "Unable to load library '...':" and in the next line why, after the path, twice
        String why = message.lines().skip(1).findFirst().orElse(message);
        int path = why.lastIndexOf(FILE_NAME + ": ");
        return path < 0 ? why : why.substring(path + FILE_NAME.length() + 2);
    }

    private NativeLibraryException failure() {
        StringBuilder message = new StringBuilder("the native library of Kvfold could not be loaded. Tried:");
        for (Throwable failure : failures) {
            message.append("\n  ").append(failure.getMessage());
        }
        NativeLibraryException exception = new NativeLibraryException(message.toString());
        failures.forEach(exception::addSuppressed);
        return exception;
    }
}
