package io.kvfold.internal;

import java.nio.file.Path;
import java.util.Locale;

/** Where this user's programs keep what they can make again. */
public final class CacheDirectory {

    private CacheDirectory() {}

    /** Kvfold's own part of it, which need not exist yet. */
    public static Path path() {
        return ofAllPrograms().resolve("kvfold");
    }

    private static Path ofAllPrograms() {
        String home = System.getProperty("user.home");
        String system = System.getProperty("os.name").toLowerCase(Locale.ROOT);
        if (system.startsWith("windows")) {
            String local = System.getenv("LOCALAPPDATA");
            return local == null ? Path.of(home, "AppData", "Local") : Path.of(local);
        }
        if (system.startsWith("mac")) {
            return Path.of(home, "Library", "Caches");
        }
        String xdg = System.getenv("XDG_CACHE_HOME");
        return xdg == null || !Path.of(xdg).isAbsolute() ? Path.of(home, ".cache") : Path.of(xdg);
    }
}
