package io.kvfold;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.internal.NativeBridge;
import io.kvfold.internal.NativeStatusException;
import io.kvfold.internal.jna.JnaBridge;
import java.nio.file.Path;
import java.util.List;
import org.jspecify.annotations.Nullable;
import org.slf4j.event.Level;

/**
 * The native library, loaded once per process when something needs it.
 *
 * <p>It is the resource {@code <platform>/libkvfold.so} of the class path, such as {@code linux-x86-64/libkvfold.so},
 * unpacked once into {@code kvfold/<sha256>/} below the user's cache directory ({@code $XDG_CACHE_HOME}, {@code ~/.cache},
 * {@code ~/Library/Caches}, {@code %LOCALAPPDATA%}), or into a temporary directory where that is read-only. The system
 * property {@code kvfold.library.path} names another file, or the directory that holds it; then nothing else is tried.
 * JNA unpacks a library of its own below the same cache directory; where files there may not be executed, its system
 * property {@code jna.tmpdir} names another place. Java 24 and later want {@code --enable-native-access=ALL-UNNAMED}.
 *
 * <p>Its log goes to the SLF4J logger {@code io.kvfold.native}, whose level is read again whenever an engine opens,
 * unless {@link #logTo} says otherwise.
 */
public final class NativeLibrary {

    private NativeLibrary() {}

    /** Whether engines can be opened here. Loads the library at the first call. */
    public static boolean isAvailable() {
        return Holder.CAUSE == null;
    }

    /** Why {@link #isAvailable()} is false; null if it is true. */
    public static @Nullable Throwable unavailabilityCause() {
        return Holder.CAUSE;
    }

    /**
     * What was built, and the devices it can run on.
     *
     * @throws NativeLibraryException if the library cannot be loaded
     */
    public static BuildInfo info() {
        return Json.read(ask(NativeBridge::buildInfo), BuildInfo.class);
    }

    /**
     * Every option that {@link Engine.Builder#option} takes.
     *
     * @throws NativeLibraryException if the library cannot be loaded
     */
    public static List<EngineOption> options() {
        return List.of(Json.read(ask(NativeBridge::options), EngineOption[].class));
    }

    /**
     * The GBNF grammar of what a JSON schema describes, as {@code json_schema} of a request becomes one; needs no engine.
     *
     * @throws InvalidRequestException if llama.cpp cannot convert the schema
     * @throws NativeLibraryException if the library cannot be loaded
     */
    public static String schemaToGrammar(JsonNode schema) {
        byte[] json = Json.write(schema);
        return Json.read(ask(library -> library.schemaToGrammar(json)))
                .path("grammar")
                .asText();
    }

    /**
     * Sends the library's log to a listener instead of SLF4J, for the whole process and from now on.
     *
     * @param listener null goes back to SLF4J
     * @param minLevel the least level that the listener receives
     * @throws NativeLibraryException if the library cannot be loaded
     */
    public static void logTo(@Nullable LogListener listener, Level minLevel) {
        bridge().logTo(listener, minLevel);
    }

    /**
     * Quantises a GGUF file with llama.cpp's quantiser; needs no engine.
     *
     * @param options {@code type} such as {@code "q8_0"}, {@code threads}, {@code allow_requantize}
     * @throws ModelNotFoundException if there is no {@code source}
     * @throws InvalidModelException if it is not a GGUF file that llama.cpp can read
     * @throws InvalidRequestException if an option is not valid
     * @throws NativeLibraryException if the library cannot be loaded
     */
    public static void quantize(Path source, Path target, JsonNode options) {
        byte[] json = Json.write(options);
        ask(library -> {
            library.quantize(source.toString(), target.toString(), json);
            return json;
        });
    }

    /**
     * Lends this host's GPUs, or its CPU where there is none, to engines on other hosts that name it in
     * {@link Engine.Builder#rpcServers}; {@code kvfold rpc-server} does the same. It serves one engine after the other.
     *
     * <p>Blocks for good, whatever happens to the thread. Nothing is encrypted and nobody is asked for a key: whoever
     * reaches the port can use the memory of this process. For private networks only.
     *
     * @param host the address to listen on, such as {@code "127.0.0.1"}, which only this host can reach
     * @param port from 1 to 65535
     * @param threads that compute, if there is no GPU; null for one per physical core
     * @throws ServerAddressException if it cannot listen there
     * @throws InvalidRequestException if the port or the number of threads is not possible
     * @throws NativeLibraryException if the library cannot be loaded
     */
    public static void serveRpc(String host, int port, @Nullable Integer threads) {
        ObjectNode options = Json.MAPPER.createObjectNode().put("host", host).put("port", port);
        if (threads != null) {
            options.put("threads", threads);
        }
        byte[] json = Json.write(options);
        ask(library -> {
            library.serveRpc(json);
            return json;
        });
    }

    static NativeBridge bridge() {
        NativeBridge bridge = Holder.BRIDGE;
        if (bridge == null) {
            Throwable cause = Holder.CAUSE;
            throw new NativeLibraryException(String.valueOf(cause == null ? null : cause.getMessage()), cause);
        }
        return bridge;
    }

    private interface Question {
        byte[] to(NativeBridge library) throws NativeStatusException;
    }

    private static byte[] ask(Question question) {
        NativeBridge library = bridge();
        try {
            return PlatformThreads.call(() -> question.to(library));
        } catch (NativeStatusException e) {
            throw Failures.from(e);
        }
    }

    private static final class Holder {
        static final @Nullable NativeBridge BRIDGE;
        static final @Nullable Throwable CAUSE;

        static {
            NativeBridge bridge = null;
            Throwable cause = null;
            try {
                bridge = JnaBridge.load();
            } catch (NativeLibraryException e) {
                cause = e;
            } catch (RuntimeException | LinkageError e) {
                cause = new NativeLibraryException("the native library could not be loaded: " + e, e);
            }
            BRIDGE = bridge;
            CAUSE = cause;
        }
    }
}
