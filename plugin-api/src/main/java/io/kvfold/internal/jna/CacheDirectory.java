package io.kvfold.internal.jna;

import com.sun.jna.Platform;
import java.nio.file.Path;

/** Where this user's programs keep what they can make again. */
final class CacheDirectory {

    private CacheDirectory() {}

    static Path path() {
        String home = System.getProperty("user.home");
        if (Platform.isWindows()) {
            String local = System.getenv("LOCALAPPDATA");
            return local == null ? Path.of(home, "AppData", "Local") : Path.of(local);
        }
        if (Platform.isMac()) {
            return Path.of(home, "Library", "Caches");
        }
        String xdg = System.getenv("XDG_CACHE_HOME");
        return xdg == null || !Path.of(xdg).isAbsolute() ? Path.of(home, ".cache") : Path.of(xdg);
    }
}
