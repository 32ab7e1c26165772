package io.kvfold.hub;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.kvfold.GenerationCancelledException;
import io.kvfold.KvfoldException;
import io.kvfold.ModelDownloadException;
import io.kvfold.ModelNotFoundException;
import io.kvfold.gguf.GgufFile;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.URI;
import java.net.URLEncoder;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/**
 * Models by name ({@link ModelName}): looks them up in the Hugging Face cache and fetches what is missing from the hub.
 *
 * <pre>{@code
 * Path file = Models.resolve("hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M").file();
 * }</pre>
 *
 * <p>Nothing is fetched unless {@link #resolve}, {@link #get} or {@link io.kvfold.Engine.Builder#modelName} is called. The
 * cache is the one of huggingface_hub and llama.cpp, with the same layout, file names and locks: what one has fetched none
 * of the others fetches again. Every file is verified against the checksum that the hub lists while it is written, appears
 * under its name only when it is complete, and a download that was cut off goes on where it ended, also in another process.
 *
 * <p>By default the environment of huggingface_hub holds: {@code HF_ENDPOINT}, {@code HF_HUB_CACHE}, {@code HF_HOME},
 * {@code HF_TOKEN} or the file that {@code hf auth login} writes, {@code HF_HUB_OFFLINE}; proxies are those of Java's system
 * properties. The token is sent to the hub and to no other host, and no redirect leads from https to http.
 *
 * <p>A branch or tag is looked up on the hub each time; where the hub cannot be asked, what is cached of it is used, and a
 * warning logged.
 *
 * <p>Immutable and thread-safe.
 */
public final class Models {

    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Pattern COMMIT = Pattern.compile("[0-9a-f]{40}");
    private static final int PARTIAL_CONTENT = 206;

    private final HubSettings settings;
    private final HubClient client;
    private final HubCache cache;
    private final boolean projector;

    private Models(HubSettings settings, HubClient client, boolean projector) {
        this.settings = settings;
        this.client = client;
        this.cache = new HubCache(settings.cache());
        this.projector = projector;
    }

    /** The hub and the cache that the environment names. */
    public static Models fromEnvironment() {
        return builder().build();
    }

    public static Builder builder() {
        return new Builder(System.getenv());
    }

    /**
     * The files of a model, fetched from the hub that the environment names unless they are there.
     *
     * @throws KvfoldException as {@link #get}
     */
    public static LocalModel resolve(String name) {
        return fromEnvironment().get(ModelName.parse(name));
    }

    /**
     * The files of a model; fetches what is missing. Interrupting the thread ends it.
     *
     * @throws ModelNotFoundException if the hub has no such model, or it is not cached and the hub may not be asked
     * @throws io.kvfold.ModelAccessException if the hub does not hand it out
     * @throws ModelDownloadException if it cannot be fetched or stored
     * @throws GenerationCancelledException if an interrupt ended it
     */
    public LocalModel get(ModelName name) {
        return get(name, (file, bytes, total) -> true);
    }

    /** As {@link #get(ModelName)}; the listener may end it, too. */
    public LocalModel get(ModelName name, DownloadListener listener) {
        Optional<LocalModel> pinned = name.isPinned()
                        && (name.file().isPresent() || name.quantization().isPresent())
                ? cached(name)
                : Optional.empty();
        if (pinned.isPresent()) {
            return pinned.get(); // a commit does not change
        }
        if (settings.offline()) {
            return cached(name)
                    .orElseThrow(() -> new ModelNotFoundException(
                            name + " is not in " + cache.root() + ", and HF_HUB_OFFLINE forbids to fetch it"));
        }
        Transfer transfer = new Transfer(name, listener);
        return interruptibly(transfer, () -> {
            Listing listing;
            try {
                listing = list(name, transfer);
            } catch (GenerationCancelledException e) {
                throw e;
            } catch (KvfoldException e) {
                LocalModel cached = cached(name).orElseThrow(() -> e);
                transfer.useCached(String.valueOf(e.getMessage()));
                return cached;
            }
            return fetch(name, listing, transfer);
        });
    }

    /** The files of a model, if all of them are in the cache; asks no hub. */
    public Optional<LocalModel> cached(ModelName name) {
        HubCache.Repository repository = cache.repository(name.repository());
        return repository.commit(name).flatMap(commit -> {
            try {
                ModelFiles files = ModelFiles.choose(name, repository.paths(commit));
                return Optional.of(local(name, repository, commit, files));
            } catch (ModelNotFoundException e) {
                return Optional.empty();
            }
        });
    }

    /**
     * What the hub has under a name. Reads the header of the first file by range requests and stores nothing.
     *
     * @throws KvfoldException as {@link #get}; {@link io.kvfold.InvalidModelException} if it is no GGUF file
     */
    public RemoteModel look(ModelName name) {
        if (settings.offline()) {
            throw new ModelNotFoundException("HF_HUB_OFFLINE forbids to ask for " + name);
        }
        Transfer transfer = new Transfer(name, (file, bytes, total) -> true);
        return interruptibly(transfer, () -> {
            Listing listing = list(name, transfer);
            ModelFiles files = listing.choose(name);
            RepositoryFile first = listing.file(files.parts().get(0));
            ByteArrayOutputStream start = new ByteArrayOutputStream();
            GgufFile header = GgufFile.open(
                    Path.of(first.path()).getFileName(),
                    first.bytes(),
                    bytes -> interruptibly(
                            transfer,
                            () -> client.retrying(name, transfer, () -> {
                                extend(start, bytes, uri(name, listing.commit(), first.path()), transfer);
                                return ByteBuffer.wrap(start.toByteArray());
                            })));
            return new RemoteModel(
                    name, listing.commit(), files.parts(), files.projector(), listing.bytes(paths(files)), header);
        });
    }

    private void extend(ByteArrayOutputStream start, int bytes, URI uri, Transfer transfer)
            throws IOException, InterruptedException, HubFailure {
        if (start.size() >= bytes) {
            return;
        }
        Map<String, String> range = Map.of("Range", "bytes=" + start.size() + "-" + (bytes - 1));
        try (HubAnswer answer = client.get(uri, range, transfer)) {
            if (answer.status() != PARTIAL_CONTENT) {
                throw new ModelDownloadException(uri.getHost() + " does not serve parts of files");
            }
            start.writeBytes(answer.bytes(bytes - start.size(), transfer::check));
        }
    }

    /** The GGUF files in the cache, whoever fetched them. */
    public List<CachedFile> list() {
        return cache.repositories().stream()
                .flatMap(repository -> repository.modelFiles().stream())
                .toList();
    }

    /**
     * Deletes GGUF files from the cache: a file, those of a quantisation, or without either all of a repository, in the
     * revision that the name has or without one in all. Also deletes what interrupted downloads of the repository left.
     *
     * @return what was deleted, and how many bytes that frees
     * @throws ModelNotFoundException if nothing of it is in the cache
     * @throws ModelDownloadException if a file cannot be deleted
     */
    public Removal remove(ModelName name) {
        HubCache.Repository repository = cache.repository(name.repository());
        boolean anyRevision = !name.toString().contains("@");
        Optional<String> commit = anyRevision ? Optional.empty() : repository.commit(name);
        List<CachedFile> all = repository.modelFiles().stream()
                .filter(file ->
                        anyRevision || commit.filter(file.commit()::equals).isPresent())
                .toList();
        List<CachedFile> files = all.stream()
                .filter(file -> ModelFiles.matches(name, file.path()))
                .toList();
        try {
            long freed = repository.removePartials();
            if (files.isEmpty() && freed == 0) {
                throw new ModelNotFoundException("there is no " + name + " in " + cache.root()
                        + all.stream()
                                .map(CachedFile::path)
                                .distinct()
                                .collect(Collectors.joining(", ", ", but ", ""))
                                .replaceFirst(", but $", ""));
            }
            return new Removal(files, freed + repository.remove(files));
        } catch (IOException e) {
            throw new ModelDownloadException("cannot delete from " + cache.root() + ": " + e, e);
        }
    }

    /**
     * What was deleted.
     *
     * @param bytes that are free now; fewer than the files had where another snapshot holds the same content
     */
    public record Removal(List<CachedFile> files, long bytes) {
        public Removal {
            files = List.copyOf(files);
        }
    }

    /** Where models are kept. */
    public Path cacheDirectory() {
        return cache.root();
    }

    @Override
    public String toString() {
        return "Models[" + settings.endpoint() + ", " + cache.root() + (settings.offline() ? ", offline]" : "]");
    }

    // ---- what the hub lists ----

    private record Listing(String repository, String commit, Map<String, RepositoryFile> files) {

        ModelFiles choose(ModelName name) {
            return ModelFiles.choose(name, files.keySet());
        }

        RepositoryFile file(String path) {
            RepositoryFile file = files.get(path);
            if (file == null) {
                throw new IllegalArgumentException(path);
            }
            return file;
        }

        long bytes(List<String> paths) {
            return paths.stream().mapToLong(path -> file(path).bytes()).sum();
        }
    }

    private Listing list(ModelName name, Transfer transfer) throws InterruptedException {
        String api = settings.endpoint() + "/api/models/" + name.repository();
        JsonNode revision =
                json(name, client.document(name, URI.create(api + "/revision/" + encode(name.revision())), transfer));
        String commit = revision.path("sha").asText();
        if (!COMMIT.matcher(commit).matches()) {
            throw new ModelDownloadException(settings.endpoint().getHost()
                    + " does not answer as a hub does: no commit of " + name.repository() + " in what it says");
        }
        Map<String, RepositoryFile> files = new LinkedHashMap<>();
        Optional<URI> page = Optional.of(URI.create(api + "/tree/" + commit + "?recursive=true"));
        while (page.isPresent()) {
            HubClient.Document document = client.document(name, page.get(), transfer);
            for (JsonNode entry : json(name, document)) {
                String path = entry.path("path").asText();
                String id = entry.at("/lfs/oid").asText(entry.path("oid").asText());
                if (entry.path("type").asText().equals("file") && ModelName.isPath(path) && RepositoryFile.isId(id)) {
                    long bytes = entry.at("/lfs/size").asLong(entry.path("size").asLong());
                    files.put(path, new RepositoryFile(path, id, bytes));
                }
            }
            page = document.next();
        }
        return new Listing(name.repository(), commit, files);
    }

    private JsonNode json(ModelName name, HubClient.Document document) {
        try {
            return JSON.readTree(document.content());
        } catch (IOException e) {
            throw new ModelDownloadException(
                    "what " + settings.endpoint().getHost() + " says of " + name.repository() + " is not JSON", e);
        }
    }

    // ---- fetching ----

    private LocalModel fetch(ModelName name, Listing listing, Transfer transfer) throws InterruptedException {
        ModelFiles files = listing.choose(name);
        List<String> paths = paths(files);
        transfer.expect(listing.bytes(paths));
        HubCache.Repository repository = cache.repository(name.repository());
        boolean complete = false;
        try {
            complete = isComplete(repository, listing, paths);
            if (!complete) {
                cache.tag();
                for (String path : paths) {
                    fetch(name, repository, listing.commit(), listing.file(path), transfer);
                }
            }
            repository.point(name, listing.commit());
        } catch (IOException e) {
            if (!complete) { // else the cache may be one that only others write
                throw new ModelDownloadException("cannot store " + name + " in " + cache.root() + ": " + e, e);
            }
        }
        return local(name, repository, listing.commit(), files);
    }

    private static boolean isComplete(HubCache.Repository repository, Listing listing, List<String> paths)
            throws IOException {
        for (String path : paths) {
            if (!isComplete(repository.file(listing.commit(), path), listing.file(path))) {
                return false;
            }
        }
        return true;
    }

    private void fetch(
            ModelName name, HubCache.Repository repository, String commit, RepositoryFile file, Transfer transfer)
            throws IOException, InterruptedException {
        transfer.start(file.path());
        if (!isComplete(repository.file(commit, file.path()), file)) {
            Path blob = repository.blob(file.id());
            Path partial = repository.partial(file.id());
            Files.createDirectories(blob.getParent());
            Runnable whileAnotherFetches = () -> {
                transfer.reach(sizeNow(partial));
                transfer.check();
            };
            try (BlobLock lock = BlobLock.take(repository.lock(file.id()), whileAnotherFetches)) {
                if (!isComplete(blob, file)) {
                    URI uri = uri(name, commit, file.path());
                    new Download(client, name, uri, file, partial, transfer).to(blob);
                }
                repository.link(file.id(), commit, file.path());
            }
        }
        transfer.finish(file.bytes());
    }

    private static boolean isComplete(Path path, RepositoryFile file) throws IOException {
        return Files.isRegularFile(path) && Files.size(path) == file.bytes();
    }

    private static long sizeNow(Path file) {
        try {
            return Files.size(file);
        } catch (IOException e) {
            return 0; // not begun, or just moved
        }
    }

    private URI uri(ModelName name, String commit, String path) {
        return URI.create(settings.endpoint() + "/" + name.repository() + "/resolve/" + commit + "/"
                + Arrays.stream(path.split("/")).map(Models::encode).collect(Collectors.joining("/")));
    }

    private static String encode(String text) {
        return URLEncoder.encode(text, StandardCharsets.UTF_8).replace("+", "%20");
    }

    private List<String> paths(ModelFiles files) {
        List<String> paths = new ArrayList<>(files.parts());
        if (projector) {
            files.projector().ifPresent(paths::add);
        }
        return paths;
    }

    private LocalModel local(ModelName name, HubCache.Repository repository, String commit, ModelFiles files) {
        List<Path> parts = files.parts().stream()
                .map(path -> repository.file(commit, path))
                .toList();
        Optional<Path> images =
                projector ? files.projector().map(path -> repository.file(commit, path)) : Optional.empty();
        return new LocalModel(name, commit, parts.get(0), parts, images);
    }

    private interface Action<T> {
        T run() throws InterruptedException, IOException;
    }

    private static <T> T interruptibly(Transfer transfer, Action<T> action) {
        try {
            return action.run();
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw transfer.cancelled();
        } catch (IOException e) {
            throw new ModelDownloadException(String.valueOf(e.getMessage()), e);
        }
    }

    /** A hub and a cache other than the environment names. Not thread-safe. */
    public static final class Builder {

        private final Map<String, String> environment;
        private @Nullable URI endpoint;
        private @Nullable Path cache;
        private @Nullable String token;
        private @Nullable Boolean offline;
        private boolean projector = true;
        private @Nullable Duration patience;
        private HubClient.@Nullable Pause pause;

        Builder(Map<String, String> environment) {
            this.environment = environment;
        }

        /**
         * The hub; {@code HF_ENDPOINT} or {@code https://huggingface.co} by default.
         *
         * @throws io.kvfold.InvalidRequestException if it is not an http or https address
         */
        public Builder endpoint(URI endpoint) {
            this.endpoint = HubSettings.endpoint(endpoint.toString());
            return this;
        }

        /** Where models are kept; {@code HF_HUB_CACHE} or {@code ~/.cache/huggingface/hub} by default. */
        public Builder cacheDirectory(Path directory) {
            this.cache = directory;
            return this;
        }

        /**
         * What the hub knows the user by; by default {@code HF_TOKEN}, or the file that {@code hf auth login} writes.
         *
         * @throws io.kvfold.InvalidRequestException if it holds characters that no token has
         */
        public Builder token(String token) {
            this.token = HubSettings.token(token, "Models.Builder.token");
            return this;
        }

        /** Whether to use only what is cached; {@code HF_HUB_OFFLINE} by default. */
        public Builder offline(boolean offline) {
            this.offline = offline;
            return this;
        }

        /** Whether a model's projector for images belongs to it; true by default. */
        public Builder projector(boolean projector) {
            this.projector = projector;
            return this;
        }

        /** How long nothing may come, and how to wait; for tests. */
        Builder timing(Duration patience, HubClient.Pause pause) {
            this.patience = patience;
            this.pause = pause;
            return this;
        }

        /**
         * With what the environment says where nothing was set.
         *
         * @throws io.kvfold.InvalidRequestException if the environment holds an address or a token that is none
         */
        public Models build() {
            HubSettings found = HubSettings.of(environment);
            HubSettings settings = new HubSettings(
                    endpoint == null ? found.endpoint() : endpoint,
                    cache == null ? found.cache() : cache,
                    token == null ? found.token() : token,
                    token == null ? found.tokenSource() : "Models.Builder.token",
                    offline == null ? found.offline() : offline);
            HubClient client = patience == null || pause == null
                    ? new HubClient(settings)
                    : new HubClient(settings, patience, pause);
            return new Models(settings, client, projector);
        }
    }
}
