package io.kvfold;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.internal.NativeServer;
import java.net.URI;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.stream.StreamSupport;

/**
 * An engine that is served over HTTP, to OpenAI's clients and llama-server's:
 *
 * <pre>{@code
 * try (EngineServer server = engine.server().port(0).apiKey("secret").start()) {
 *     server.addresses(); // [http://127.0.0.1:41873]
 * }
 * }</pre>
 *
 * <p>Requests share slots, queue and KV cache with those of {@link Engine}. The server is an owner of the engine, which
 * stays open until the server is closed, too. It does not keep the JVM from exiting; a JVM that exits closes it.
 *
 * <p>Thread-safe.
 */
public final class EngineServer implements AutoCloseable {

    private static final String UNIX = "unix://";

    private static final Set<EngineServer> OPEN = new LinkedHashSet<>(); // also keeps what nobody refers to

    private final Engine engine;
    private final NativeServer handle;
    private final List<URI> addresses;

    private EngineServer(Engine engine, NativeServer handle) {
        this.engine = engine;
        this.handle = handle;
        JsonNode info = Json.read(handle.info());
        this.addresses = StreamSupport.stream(info.path("addresses").spliterator(), false)
                .map(address -> uri(address.asText()))
                .toList();
    }

    /** The path of a Unix socket comes as it is, with blanks and all. */
    private static URI uri(String address) {
        if (!address.startsWith(UNIX)) {
            return URI.create(address);
        }
        return URI.create(
                UNIX + Path.of(address.substring(UNIX.length())).toUri().getRawPath());
    }

    /** Where it listens, such as {@code http://127.0.0.1:8080}, or {@code unix:///tmp/kvfold.sock}. */
    public List<URI> addresses() {
        return addresses;
    }

    /** Ends the requests that came through this server, and returns when it listens no more. Further calls do nothing. */
    @Override
    public void close() {
        synchronized (OPEN) {
            if (!OPEN.remove(this)) {
                return;
            }
        }
        PlatformThreads.call(() -> {
            handle.close();
            return this;
        });
        engine.close();
    }

    @Override
    public String toString() {
        return "EngineServer" + addresses;
    }

    /** Registered once the first server runs. */
    private static final class AtExit {
        /** A text of many megabytes that is being tokenised cannot be interrupted, and must not keep the process alive. */
        private static final long PATIENCE_MILLIS = 2000;

        static void arrange() {}

        static {
            Runtime.getRuntime().addShutdownHook(new Thread(AtExit::closeAll, "kvfold-servers"));
        }

        private static void closeAll() {
            List<EngineServer> open;
            synchronized (OPEN) {
                open = new ArrayList<>(OPEN);
            }
            Thread closer = new Thread(() -> open.forEach(EngineServer::close), "kvfold-servers-close");
            closer.setDaemon(true);
            closer.start();
            try {
                closer.join(PATIENCE_MILLIS);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }
    }

    /** Options of a server. Not thread-safe. */
    public static final class Builder {
        private final Engine engine;
        private final ObjectNode options = Json.MAPPER.createObjectNode();

        Builder(Engine engine) {
            this.engine = engine;
        }

        /** The address to listen on; {@code 127.0.0.1} by default, which only this machine can reach. */
        public Builder host(String host) {
            options.put("host", host);
            return this;
        }

        /** 8080 by default; 0 takes any port that is free. */
        public Builder port(int port) {
            options.put("port", port);
            return this;
        }

        /** What requests must carry as {@code Authorization: Bearer}; not asked for by default. */
        public Builder apiKey(String key) {
            options.put("api-key", key);
            return this;
        }

        /** Another option of {@code kvfold_serve()} in {@code kvfold.h}, such as {@code "cors-origins"}. */
        public Builder option(String name, Object value) {
            options.set(name, Json.convert(value));
            return this;
        }

        /**
         * Listens.
         *
         * @throws ServerAddressException if the address cannot be listened on
         * @throws UnknownOptionException if there is no such option
         * @throws InvalidRequestException if an option has an impossible value
         * @throws EngineClosedException if the engine is closed
         */
        public EngineServer start() {
            Engine owner = engine.retain();
            try {
                EngineServer server = new EngineServer(owner, owner.serve(Json.write(options)));
                synchronized (OPEN) {
                    OPEN.add(server);
                }
                AtExit.arrange();
                return server;
            } catch (RuntimeException e) {
                owner.close();
                throw e;
            }
        }
    }
}
