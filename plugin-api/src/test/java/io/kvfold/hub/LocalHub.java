package io.kvfold.hub;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Predicate;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/**
 * A hub on this machine that speaks the protocol of huggingface.co as huggingface_hub and llama.cpp use it: the API of
 * revisions and trees, files in git answered at once, large files (GGUF) by a redirect to a second host, which knows ranges.
 * What goes wrong is told it beforehand.
 */
public final class LocalHub implements AutoCloseable {

    /** A request as it arrived; {@code blob} if the second host got it. */
    public record Request(
            String method,
            String path,
            @Nullable String authorization,
            @Nullable String range,
            @Nullable String agent,
            boolean blob) {}

    /** What happens to a request in place of its answer, {@code times} times. */
    private record Fault(Predicate<Request> whom, AtomicInteger times, Handler handler) {}

    private interface Handler {
        void handle(HttpExchange exchange) throws IOException;
    }

    private record File(
            String path,
            byte[] content,
            boolean large,
            long listedSize,
            @Nullable String label) {
        String id() {
            return large ? hex("SHA-256", content) : gitId(content);
        }
    }

    private static final class Repository {
        private final Map<String, File> files = new TreeMap<>();
        private final Set<String> revisions = ConcurrentHashMap.newKeySet();
        private @Nullable String token;
        private boolean gated;

        String commit() {
            StringBuilder all = new StringBuilder();
            files.forEach((path, file) -> all.append(path).append(file.id()).append('\n'));
            return gitId(all.toString().getBytes(StandardCharsets.UTF_8));
        }
    }

    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Pattern API = Pattern.compile("/api/models/([^/]+/[^/]+)/(revision|tree)/([^/?]+)");
    private static final Pattern INFO = Pattern.compile("/api/models/([^/]+/[^/]+)");
    private static final Pattern RESOLVE = Pattern.compile("/([^/]+/[^/]+)/resolve/([^/]+)/(.+)");
    private static final Pattern RANGE = Pattern.compile("bytes=(\\d+)-(\\d*)");

    private final HttpServer hub;
    private final HttpServer blobHost;
    private final ExecutorService threads = Executors.newCachedThreadPool(task -> {
        Thread thread = new Thread(task, "local hub");
        thread.setDaemon(true);
        return thread;
    });
    private final Map<String, Repository> repositories = new ConcurrentHashMap<>();
    private final Map<String, byte[]> blobs = new ConcurrentHashMap<>();
    private final List<Request> requests = new CopyOnWriteArrayList<>();
    private final List<Fault> faults = new CopyOnWriteArrayList<>();
    private final Map<String, String> pages = new ConcurrentHashMap<>();
    private volatile int pageSize = 1000;
    private volatile boolean ranges = true;
    private volatile int bytesPerSecond;

    private LocalHub() throws IOException {
        hub = server(false);
        blobHost = server(true);
    }

    /** A hub without models. */
    public static LocalHub start() {
        try {
            return new LocalHub();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** For a program of another language: serves the files named as REPOSITORY=PATH=FILE until its input ends. */
    public static void main(String[] files) throws IOException {
        try (LocalHub hub = start()) {
            for (String file : files) {
                String[] parts = file.split("=", 3);
                hub.put(parts[0], parts[1], java.nio.file.Files.readAllBytes(java.nio.file.Path.of(parts[2])));
            }
            System.out.println(hub.endpoint());
            System.in.readAllBytes();
        }
    }

    private HttpServer server(boolean blob) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.setExecutor(threads);
        server.createContext("/", exchange -> {
            try (exchange) {
                Request request = new Request(
                        exchange.getRequestMethod(),
                        exchange.getRequestURI().getRawPath(),
                        exchange.getRequestHeaders().getFirst("Authorization"),
                        exchange.getRequestHeaders().getFirst("Range"),
                        exchange.getRequestHeaders().getFirst("User-Agent"),
                        blob);
                requests.add(request);
                Optional<Fault> fault = faults.stream()
                        .filter(each ->
                                each.whom().test(request) && each.times().getAndDecrement() > 0)
                        .findFirst();
                if (fault.isPresent()) {
                    fault.get().handler().handle(exchange);
                } else if (blob) {
                    content(
                            exchange,
                            Optional.ofNullable(
                                    blobs.get(exchange.getRequestURI().getPath())));
                } else {
                    answer(exchange);
                }
            }
        });
        server.start();
        return server;
    }

    /** Adds or replaces a file; one that ends in .gguf is large, others are kept in git. */
    public LocalHub put(String repository, String path, byte[] content) {
        File file = new File(path, content, path.endsWith(".gguf"), content.length, null);
        Repository target = repositories.computeIfAbsent(repository, name -> new Repository());
        target.revisions.add("main");
        target.files.put(path, file);
        blobs.put("/blobs/" + file.id(), content);
        return this;
    }

    /** Another branch or tag. */
    public LocalHub revision(String repository, String revision) {
        repository(repository).revisions.add(revision);
        return this;
    }

    /** Only who has this token may read; a gated repository can be seen by everybody. */
    public LocalHub restrict(String repository, String token, boolean gated) {
        repository(repository).token = token;
        repository(repository).gated = gated;
        return this;
    }

    /** The commit that all revisions of a repository are at. */
    public String commit(String repository) {
        return repository(repository).commit();
    }

    private Repository repository(String name) {
        Repository repository = repositories.get(name);
        if (repository == null) {
            throw new IllegalArgumentException(name);
        }
        return repository;
    }

    /** The tree lists a file with another size than it has. */
    LocalHub huge(String repository, String path, long size) {
        repository(repository)
                .files
                .computeIfPresent(path, (key, file) -> new File(key, file.content(), true, size, null));
        return this;
    }

    /** A large file is served under another checksum than the tree lists. */
    LocalHub relabel(String repository, String path, String id) {
        repository(repository)
                .files
                .computeIfPresent(path, (key, file) -> new File(key, file.content(), true, file.listedSize(), id));
        return this;
    }

    /** What a path of the API answers from now on. */
    LocalHub page(String path, String text) {
        pages.put(path, text);
        return this;
    }

    /** How many files a page of a tree has. */
    public LocalHub pages(int size) {
        pageSize = size;
        return this;
    }

    /** The second host answers as if it knew no ranges. */
    public LocalHub withoutRanges() {
        ranges = false;
        return this;
    }

    /** The second host takes its time. */
    public LocalHub slow(int bytesPerSecond) {
        this.bytesPerSecond = bytesPerSecond;
        return this;
    }

    /** The next requests of a kind get a status and headers. */
    public LocalHub fail(int times, Predicate<Request> whom, int status, Map<String, String> headers) {
        return fault(times, whom, exchange -> {
            headers.forEach(exchange.getResponseHeaders()::set);
            exchange.sendResponseHeaders(status, -1);
        });
    }

    /** The next requests to the second host are cut off after so many bytes of what they asked for. */
    public LocalHub cut(int times, int bytes) {
        return fault(times, Request::blob, exchange -> {
            byte[] content = blob(exchange);
            int from = from(exchange).orElse(0);
            if (from > 0) {
                range(exchange, from, content.length - 1, content.length);
            }
            exchange.sendResponseHeaders(from > 0 ? 206 : 200, content.length - from);
            exchange.getResponseBody().write(content, from, Math.min(bytes, content.length - from));
            exchange.getResponseBody().flush();
        });
    }

    /** The next requests to the second host bring other bytes. */
    public LocalHub damage(int times) {
        return fault(times, Request::blob, exchange -> {
            byte[] content = blob(exchange).clone();
            content[content.length / 2] ^= 1;
            content(exchange, Optional.of(content));
        });
    }

    /** The next requests to the second host get headers, some bytes, and nothing more. */
    public LocalHub stall(int times, int bytes) {
        return fault(times, Request::blob, exchange -> {
            byte[] content = blob(exchange);
            exchange.sendResponseHeaders(200, content.length);
            exchange.getResponseBody().write(content, 0, bytes);
            exchange.getResponseBody().flush();
            try {
                Thread.sleep(60_000);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        });
    }

    private byte[] blob(HttpExchange exchange) {
        return Objects.requireNonNull(blobs.get(exchange.getRequestURI().getPath()));
    }

    private LocalHub fault(int times, Predicate<Request> whom, Handler handler) {
        faults.add(new Fault(whom, new AtomicInteger(times), handler));
        return this;
    }

    /** Where it listens. */
    public URI endpoint() {
        return URI.create("http://127.0.0.1:" + hub.getAddress().getPort());
    }

    /** All that came, in order. */
    public List<Request> requests() {
        return requests;
    }

    /** What a builder of {@link Models} takes besides the cache. */
    public Map<String, String> environment(java.nio.file.Path cache) {
        return Map.of("HF_ENDPOINT", endpoint().toString(), "HF_HOME", cache.toString());
    }

    @Override
    public void close() {
        hub.stop(0);
        blobHost.stop(0);
        threads.shutdownNow();
    }

    // ---- the hub ----

    private void answer(HttpExchange exchange) throws IOException {
        String path = exchange.getRequestURI().getPath();
        Matcher api = API.matcher(path);
        Matcher info = INFO.matcher(path);
        Matcher resolve = RESOLVE.matcher(path);
        String page = pages.get(path);
        if (page != null) {
            json(exchange, page);
        } else if (resolve.matches()) {
            resolve(exchange, resolve.group(1), resolve.group(2), resolve.group(3));
        } else if (api.matches()) {
            Repository repository = find(exchange, api.group(1), api.group(3), false);
            if (repository == null) {
                return;
            }
            if (api.group(2).equals("tree")) {
                tree(exchange, repository);
            } else {
                info(exchange, api.group(1), repository);
            }
        } else if (info.matches()) {
            Repository repository = find(exchange, info.group(1), "main", false);
            if (repository != null) {
                info(exchange, info.group(1), repository);
            }
        } else {
            error(exchange, 404, "NotFound", "no such page");
        }
    }

    /** The repository, or null once an error was answered. */
    private @Nullable Repository find(HttpExchange exchange, String name, String revision, boolean content)
            throws IOException {
        Repository repository = repositories.get(name);
        String sent = exchange.getRequestHeaders().getFirst("Authorization");
        String token = repository == null ? null : repository.token;
        if (sent != null && token != null && !sent.equals("Bearer " + token) && !sent.equals("Bearer hf_other")) {
            error(exchange, 401, null, "Invalid credentials in Authorization header");
            return null;
        }
        boolean allowed = token == null || ("Bearer " + token).equals(sent);
        if (repository == null || (!allowed && !repository.gated)) {
            error(exchange, sent == null ? 401 : 404, "RepoNotFound", "Repository not found");
            return null;
        }
        if (!allowed && content) {
            error(exchange, sent == null ? 401 : 403, "GatedRepo", "Access to model " + name + " is restricted");
            return null;
        }
        if (!repository.revisions.contains(revision) && !repository.commit().equals(revision)) {
            error(exchange, 404, "RevisionNotFound", "Invalid rev id: " + revision);
            return null;
        }
        return repository;
    }

    private static void error(HttpExchange exchange, int status, @Nullable String code, String message)
            throws IOException {
        if (code != null) {
            exchange.getResponseHeaders().set("X-Error-Code", code);
        }
        exchange.getResponseHeaders().set("X-Error-Message", message);
        exchange.sendResponseHeaders(status, -1);
    }

    private static void info(HttpExchange exchange, String name, Repository repository) throws IOException {
        ObjectNode info = JSON.createObjectNode()
                .put("id", name)
                .put("modelId", name)
                .put("sha", repository.commit())
                .put("private", false)
                .put("gated", repository.gated ? "auto" : "false");
        ArrayNode siblings = info.putArray("siblings");
        repository.files.keySet().forEach(path -> siblings.addObject().put("rfilename", path));
        json(exchange, info.toString());
    }

    private void tree(HttpExchange exchange, Repository repository) throws IOException {
        String query = Optional.ofNullable(exchange.getRequestURI().getQuery()).orElse("");
        Matcher cursor = Pattern.compile("cursor=(\\d+)").matcher(query);
        int from = cursor.find() ? Integer.parseInt(cursor.group(1)) : 0;
        List<File> files = new ArrayList<>(repository.files.values());
        ArrayNode entries = JSON.createArrayNode();
        for (File file : files.subList(from, Math.min(files.size(), from + pageSize))) {
            ObjectNode entry = entries.addObject()
                    .put("type", "file")
                    .put("oid", gitId(file.content()))
                    .put("size", file.listedSize())
                    .put("path", file.path());
            if (file.large()) {
                entry.putObject("lfs")
                        .put("oid", file.id())
                        .put("size", file.listedSize())
                        .put("pointerSize", 134);
            }
        }
        if (from + pageSize < files.size()) {
            URI next = URI.create(
                    endpoint() + exchange.getRequestURI().getPath() + "?recursive=true&cursor=" + (from + pageSize));
            exchange.getResponseHeaders().set("Link", "<" + next + ">; rel=\"next\"");
        }
        json(exchange, entries.toString());
    }

    private void resolve(HttpExchange exchange, String name, String revision, String path) throws IOException {
        Repository repository = find(exchange, name, revision, true);
        if (repository == null) {
            return;
        }
        exchange.getResponseHeaders().set("X-Repo-Commit", repository.commit());
        File file = repository.files.get(path);
        if (file == null) {
            error(exchange, 404, "EntryNotFound", "Entry not found");
            return;
        }
        if (!file.large()) {
            exchange.getResponseHeaders().set("ETag", '"' + file.id() + '"');
            content(exchange, Optional.of(file.content()));
            return;
        }
        String label = file.label() == null ? file.id() : file.label();
        exchange.getResponseHeaders().set("X-Linked-Etag", '"' + label + '"');
        exchange.getResponseHeaders().set("X-Linked-Size", String.valueOf(file.content().length));
        exchange.getResponseHeaders()
                .set(
                        "Location",
                        "http://localhost:" + blobHost.getAddress().getPort() + "/blobs/" + file.id() + "?signature=1");
        exchange.sendResponseHeaders(302, -1);
    }

    private static void json(HttpExchange exchange, String text) throws IOException {
        byte[] content = text.getBytes(StandardCharsets.UTF_8);
        exchange.getResponseHeaders().set("Content-Type", "application/json; charset=utf-8");
        exchange.sendResponseHeaders(200, content.length);
        exchange.getResponseBody().write(content);
    }

    // ---- content ----

    private void content(HttpExchange exchange, Optional<byte[]> found) throws IOException {
        if (found.isEmpty()) {
            exchange.sendResponseHeaders(404, -1);
            return;
        }
        byte[] content = found.get();
        if (exchange.getRequestMethod().equals("HEAD")) {
            exchange.getResponseHeaders().set("Content-Length", String.valueOf(content.length));
            exchange.sendResponseHeaders(200, -1);
            return;
        }
        Optional<Integer> from = ranges ? from(exchange) : Optional.empty();
        if (from.isPresent() && from.get() >= content.length) {
            exchange.getResponseHeaders().set("Content-Range", "bytes */" + content.length);
            exchange.sendResponseHeaders(416, -1);
            return;
        }
        int start = from.orElse(0);
        int end = from.isPresent()
                ? Math.min(to(exchange).orElse(content.length - 1), content.length - 1)
                : content.length - 1;
        if (from.isPresent()) {
            range(exchange, start, end, content.length);
        }
        exchange.sendResponseHeaders(from.isPresent() ? 206 : 200, content.length == 0 ? -1 : end - start + 1);
        write(exchange.getResponseBody(), Arrays.copyOfRange(content, start, end + 1));
    }

    private void write(OutputStream out, byte[] content) throws IOException {
        int rate = bytesPerSecond;
        if (rate == 0) {
            out.write(content);
            return;
        }
        int piece = Math.max(1, rate / 20);
        for (int position = 0; position < content.length; position += piece) {
            out.write(content, position, Math.min(piece, content.length - position));
            out.flush();
            try {
                Thread.sleep(50);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
                return;
            }
        }
    }

    private static void range(HttpExchange exchange, int start, int end, int size) {
        exchange.getResponseHeaders().set("Content-Range", "bytes " + start + "-" + end + "/" + size);
    }

    private static Optional<Integer> from(HttpExchange exchange) {
        return group(exchange, 1);
    }

    private static Optional<Integer> to(HttpExchange exchange) {
        return group(exchange, 2);
    }

    private static Optional<Integer> group(HttpExchange exchange, int group) {
        return Optional.ofNullable(exchange.getRequestHeaders().getFirst("Range"))
                .map(RANGE::matcher)
                .filter(Matcher::matches)
                .map(range -> range.group(group))
                .filter(text -> !text.isEmpty())
                .map(Integer::valueOf);
    }

    static String gitId(byte[] content) {
        byte[] header = ("blob " + content.length + '\0').getBytes(StandardCharsets.US_ASCII);
        byte[] all = Arrays.copyOf(header, header.length + content.length);
        System.arraycopy(content, 0, all, header.length, content.length);
        return hex("SHA-1", all);
    }

    static String hex(String algorithm, byte[] content) {
        try {
            return HexFormat.of().formatHex(MessageDigest.getInstance(algorithm).digest(content));
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }
}
