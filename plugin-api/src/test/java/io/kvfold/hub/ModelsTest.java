package io.kvfold.hub;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowable;

import io.kvfold.GenerationCancelledException;
import io.kvfold.InvalidModelException;
import io.kvfold.ModelAccessException;
import io.kvfold.ModelDownloadException;
import io.kvfold.ModelNotFoundException;
import io.kvfold.TinyModel;
import io.kvfold.gguf.GgufKeys;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.Proxy;
import java.net.ProxySelector;
import java.net.SocketAddress;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.UnaryOperator;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

@Timeout(60)
class ModelsTest {

    private static final String REPOSITORY = "owner/name-GGUF";
    private static final ModelName NAME = ModelName.parse("hf:" + REPOSITORY);
    private static final byte[] MODEL = random(300_000, 1);

    private final LocalHub hub = LocalHub.start();
    private final List<Duration> pauses = new CopyOnWriteArrayList<>();

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path home;

    @BeforeEach
    void putAModelOnTheHub() {
        hub.put(REPOSITORY, "README.md", "a model".getBytes(java.nio.charset.StandardCharsets.UTF_8))
                .put(REPOSITORY, "model-Q8_0.gguf", random(1000, 2))
                .put(REPOSITORY, "model-Q4_K_M.gguf", MODEL);
    }

    @AfterEach
    void stopTheHub() {
        hub.close();
    }

    private static byte[] random(int bytes, long seed) {
        byte[] content = new byte[bytes];
        new Random(seed).nextBytes(content);
        return content;
    }

    private Models models(String... environment) {
        return models(builder -> builder, environment);
    }

    private Models models(UnaryOperator<Models.Builder> options, String... environment) {
        Map<String, String> all = new HashMap<>(hub.environment(home));
        for (int i = 0; i < environment.length; i += 2) {
            all.put(environment[i], environment[i + 1]);
        }
        return options.apply(
                        new Models.Builder(all).timing(Duration.ofSeconds(2), (time, whileWaiting) -> pauses.add(time)))
                .build();
    }

    private Path folder() {
        return home.resolve("hub/models--owner--name-GGUF");
    }

    private List<String> blobs() throws IOException {
        try (Stream<Path> files = Files.list(folder().resolve("blobs"))) {
            return files.map(file -> file.getFileName().toString()).sorted().toList();
        }
    }

    private Path partial() {
        return folder().resolve("blobs").resolve(LocalHub.hex("SHA-256", MODEL) + ".kvfold.incomplete");
    }

    private List<LocalHub.Request> blobRequests() {
        return hub.requests().stream().filter(LocalHub.Request::blob).toList();
    }

    // ---- what is stored ----

    @Test
    void fetchesAModelIntoTheLayoutOfHuggingFace() throws IOException {
        LocalModel model = models().get(NAME);

        String commit = hub.commit(REPOSITORY);
        String id = LocalHub.hex("SHA-256", MODEL);
        assertThat(model.commit()).isEqualTo(commit);
        assertThat(model.file()).isEqualTo(folder().resolve("snapshots/" + commit + "/model-Q4_K_M.gguf"));
        assertThat(model.files()).containsExactly(model.file());
        assertThat(model.file()).hasBinaryContent(MODEL);
        assertThat(Files.readSymbolicLink(model.file())).isEqualTo(Path.of("../../blobs/" + id));
        assertThat(folder().resolve("refs/main")).hasContent(commit);
        assertThat(blobs()).containsExactly(id);
        assertThat(home.resolve("hub/.locks/models--owner--name-GGUF/" + id + ".lock"))
                .exists();
        assertThat(home.resolve("hub/CACHEDIR.TAG"))
                .content()
                .startsWith("Signature: 8a477f597d28d172789f06886806bc55");
    }

    @Test
    void fetchesNothingTwice() {
        LocalModel first = models().get(NAME);
        hub.requests().clear();

        assertThat(models().get(NAME)).isEqualTo(first);
        assertThat(blobRequests()).isEmpty();
        assertThat(hub.requests()).allMatch(request -> request.path().startsWith("/api/models/"));
    }

    @Test
    void usesACacheThatItCannotWriteTo() throws IOException {
        LocalModel model = models().get(NAME);
        Files.delete(folder().resolve("refs/main"));
        Files.delete(folder().resolve("refs"));
        Files.createFile(folder().resolve("refs")); // no folder can be made there

        assertThat(models().get(NAME)).isEqualTo(model);
        assertThatThrownBy(() -> models().get(ModelName.parse("hf:" + REPOSITORY + ":Q8_0")))
                .isInstanceOf(ModelDownloadException.class)
                .hasMessageContaining("cannot store");
    }

    @Test
    void takesAnotherQuantisationFileAndRevision() {
        hub.revision(REPOSITORY, "v1.0").put(REPOSITORY, "ü b/model-F16.gguf", random(10, 3));
        Path file =
                models().get(ModelName.parse("hf:" + REPOSITORY + ":q8_0@v1.0")).file();

        assertThat(file).hasBinaryContent(random(1000, 2));
        assertThat(folder().resolve("refs/v1.0")).hasContent(hub.commit(REPOSITORY));
        assertThat(folder().resolve("refs/main")).doesNotExist();
        assertThat(models().get(ModelName.parse("hf:" + REPOSITORY + "/ü b/model-F16.gguf"))
                        .file())
                .hasBinaryContent(random(10, 3));
        assertThat(models().get(ModelName.parse("hf:" + REPOSITORY + "@" + hub.commit(REPOSITORY)))
                        .file())
                .hasBinaryContent(MODEL);
    }

    @Test
    void asksNobodyForAFileOfACommitThatIsThere() {
        ModelName pinned = ModelName.parse("hf:" + REPOSITORY + "/model-Q8_0.gguf@" + hub.commit(REPOSITORY));
        LocalModel model = models().get(pinned);
        hub.requests().clear();

        assertThat(models().get(pinned)).isEqualTo(model);
        assertThat(hub.requests()).isEmpty();
    }

    @Test
    void fetchesAllPartsAndTheProjector() {
        String repository = "a/split";
        for (int i = 1; i <= 3; i++) {
            hub.put(repository, "BF16/m-BF16-0000" + i + "-of-00003.gguf", random(500 * i, i));
        }
        hub.put(repository, "mmproj-F16.gguf", random(50, 9)).put(repository, "m-Q2_K.gguf", random(5, 4));
        hub.pages(2);
        List<String> progress = new ArrayList<>();

        LocalModel model = models().get(ModelName.parse("hf:a/split:BF16"), (file, bytes, total) -> {
            progress.add(file + " " + bytes + " " + total);
            return true;
        });

        assertThat(model.files()).hasSize(3).allSatisfy(file -> assertThat(file).isRegularFile());
        assertThat(model.files().get(2)).hasBinaryContent(random(1500, 3));
        assertThat(model.projector().orElseThrow()).hasBinaryContent(random(50, 9));
        assertThat(progress.get(progress.size() - 1)).isEqualTo("mmproj-F16.gguf 3050 3050");
        assertThat(models(builder -> builder.projector(false))
                        .get(ModelName.parse("hf:a/split:BF16"))
                        .projector())
                .isEmpty();
    }

    @Test
    void verifiesAFileThatGitItselfKeeps() {
        // what is not large is named by git's checksum
        byte[] content = random(2000, 5);
        hub.put("a/small", "m.GGUF", content);

        assertThat(models().get(ModelName.parse("hf:a/small")).file()).hasBinaryContent(content);
        assertThat(home.resolve("hub/models--a--small/blobs/" + LocalHub.gitId(content)))
                .exists();
    }

    @Test
    void takesAnEmptyFile() {
        hub.put("a/empty", "m.gguf", new byte[0]);

        assertThat(models().get(ModelName.parse("hf:a/empty")).file()).isEmptyFile();
    }

    @Test
    void followsABranchAndKeepsWhatBothCommitsShare() throws IOException {
        Path before = models().get(NAME).file();
        hub.put(REPOSITORY, "README.md", "another".getBytes(java.nio.charset.StandardCharsets.UTF_8));
        hub.requests().clear();
        Path after = models().get(NAME).file();

        assertThat(after).isNotEqualTo(before).hasBinaryContent(MODEL);
        assertThat(before).exists();
        assertThat(blobs()).hasSize(1);
        assertThat(blobRequests()).isEmpty();
        assertThat(folder().resolve("refs/main")).hasContent(hub.commit(REPOSITORY));
    }

    // ---- what breaks ----

    @Test
    void goesOnWhereAConnectionBroke() {
        hub.cut(3, 70_000);

        assertThat(models().get(NAME).file()).hasBinaryContent(MODEL);
        assertThat(blobRequests())
                .extracting(LocalHub.Request::range)
                .containsExactly(null, "bytes=70000-", "bytes=140000-", "bytes=210000-");
        assertThat(pauses).containsOnly(Duration.ofSeconds(1)); // every attempt had brought something
    }

    @Test
    void goesOnWhereAnEarlierProcessWasKilled() throws IOException {
        Files.createDirectories(partial().getParent());
        Files.write(partial(), java.util.Arrays.copyOf(MODEL, 123_456));

        assertThat(models().get(NAME).file()).hasBinaryContent(MODEL);
        assertThat(blobRequests()).extracting(LocalHub.Request::range).containsExactly("bytes=123456-");
        assertThat(blobs()).hasSize(1);
    }

    @Test
    void finishesWhatWasCompleteButNotMoved() throws IOException {
        Files.createDirectories(partial().getParent());
        Files.write(partial(), MODEL);

        assertThat(models().get(NAME).file()).hasBinaryContent(MODEL);
        assertThat(blobRequests()).isEmpty();
    }

    @Test
    void startsAnewWhereTheRestIsNotServed() {
        hub.cut(1, 70_000).withoutRanges();

        assertThat(models().get(NAME).file()).hasBinaryContent(MODEL);
        assertThat(blobRequests()).hasSize(2);
    }

    @Test
    void startsAnewWhenWhatWasLeftIsDamaged() throws IOException {
        byte[] damaged = java.util.Arrays.copyOf(MODEL, 1000);
        damaged[7]++;
        Files.createDirectories(partial().getParent());
        Files.write(partial(), damaged);

        assertThat(models().get(NAME).file()).hasBinaryContent(MODEL);
        assertThat(blobRequests()).extracting(LocalHub.Request::range).containsExactly("bytes=1000-", null);
    }

    @Test
    void startsAnewWhenTooMuchWasLeft() throws IOException {
        Files.createDirectories(partial().getParent());
        Files.write(partial(), random(MODEL.length + 5, 8));

        assertThat(models().get(NAME).file()).hasBinaryContent(MODEL);
    }

    @Test
    void keepsNothingOfAWrongChecksum() throws IOException {
        hub.damage(5);

        assertThatThrownBy(() -> models().get(NAME))
                .isInstanceOf(ModelDownloadException.class)
                .hasMessageContaining(LocalHub.hex("SHA-256", MODEL))
                .hasMessageContaining("model-Q4_K_M.gguf");
        assertThat(blobs()).isEmpty();
        assertThat(folder().resolve("snapshots")).doesNotExist();
        assertThat(models().cached(NAME)).isEmpty();
    }

    @Test
    void givesUpAfterFiveFruitlessAttemptsAndKeepsWhatCame() throws IOException {
        hub.cut(1, 50_000).cut(50, 0);

        assertThatThrownBy(() -> models().get(NAME))
                .isInstanceOf(ModelDownloadException.class)
                .hasMessageContaining("hf:owner/name-GGUF");
        assertThat(Files.size(partial())).isEqualTo(50_000);
        assertThat(pauses)
                .containsExactly(
                        Duration.ofSeconds(1), Duration.ofSeconds(2), Duration.ofSeconds(4), Duration.ofSeconds(8));
    }

    @Test
    void givesUpOnAConnectionThatStopsComing() {
        hub.stall(1, 50_000);

        assertThat(models().get(NAME).file()).hasBinaryContent(MODEL);
        assertThat(blobRequests()).extracting(LocalHub.Request::range).containsExactly(null, "bytes=50000-");
    }

    @Test
    void refusesMoreBytesThanTheHubLists() {
        hub.put("a/longer", "m.gguf", random(100, 1));
        hub.fail(
                1,
                request -> request.path().contains("/resolve/"),
                302,
                Map.of("Location", hub.endpoint() + "/" + REPOSITORY + "/resolve/main/README.md"));

        assertThatThrownBy(() ->
                        models(b -> b, "HF_HOME", home.resolve("x").toString()).get(ModelName.parse("hf:a/longer")))
                .isInstanceOf(ModelDownloadException.class);
    }

    @Test
    void namesBothNumbersWhenTheDiskIsTooSmall() {
        hub.put("a/huge", "m.gguf", random(100, 1));
        hub.huge("a/huge", "m.gguf", 1L << 60);

        assertThatThrownBy(() -> models().get(ModelName.parse("hf:a/huge")))
                .isInstanceOfSatisfying(ModelDownloadException.class, e -> {
                    assertThat(e.value()).hasValue(1L << 60);
                    assertThat(e.limit()).isPresent();
                })
                .hasMessageContaining(String.valueOf(1L << 60));
    }

    @Test
    void refusesAFileThatChangedSinceItWasListed() {
        hub.relabel(REPOSITORY, "model-Q4_K_M.gguf", "f".repeat(64));

        assertThatThrownBy(() -> models().get(NAME))
                .isInstanceOf(ModelDownloadException.class)
                .hasMessageContaining("try again");
    }

    // ---- what a hub refuses ----

    @Test
    void saysWhatToDoAboutAGatedModel() {
        hub.restrict(REPOSITORY, "hf_right", true);

        assertThatThrownBy(() -> models().get(NAME))
                .isInstanceOf(ModelAccessException.class)
                .hasMessageContaining("accept its licence at " + hub.endpoint() + "/" + REPOSITORY)
                .hasMessageContaining("HF_TOKEN");
        assertThatThrownBy(() -> models("HF_TOKEN", "hf_other").get(NAME))
                .isInstanceOf(ModelAccessException.class)
                .hasMessageContaining("accept its licence")
                .hasMessageContaining("the token from HF_TOKEN")
                .hasMessageNotContaining("hf_other");
        assertThat(models("HF_TOKEN", "hf_right").get(NAME).file()).hasBinaryContent(MODEL);
    }

    @Test
    void saysThatAModelIsNotThereOrPrivate() {
        hub.restrict(REPOSITORY, "hf_right", false);

        for (String name : List.of(REPOSITORY, "no/body")) {
            assertThatThrownBy(() -> models().get(ModelName.parse("hf:" + name)))
                    .isInstanceOf(ModelNotFoundException.class)
                    .hasMessageContaining("127.0.0.1 has no model " + name + ", or it is private")
                    .hasMessageContaining("HF_TOKEN");
        }
        assertThatThrownBy(() -> models("HF_TOKEN", "hf_wrong").get(NAME))
                .isInstanceOf(ModelAccessException.class)
                .hasMessageContaining("does not accept the token from HF_TOKEN")
                .hasMessageNotContaining("hf_wrong");
        assertThat(models(builder -> builder.token("hf_right")).get(NAME).file())
                .hasBinaryContent(MODEL);
    }

    @Test
    void saysWhichRevisionOrFileIsMissing() {
        assertThatThrownBy(() -> models().get(ModelName.parse("hf:" + REPOSITORY + "@v9")))
                .isInstanceOf(ModelNotFoundException.class)
                .hasMessage(REPOSITORY + " has no revision v9");
        assertThatThrownBy(() -> models().get(ModelName.parse("hf:" + REPOSITORY + ":Q2_K")))
                .isInstanceOf(ModelNotFoundException.class)
                .hasMessageContaining("model-Q4_K_M.gguf, model-Q8_0.gguf");
    }

    @Test
    void sendsTheTokenToNoOtherHost() {
        models("HF_TOKEN", "hf_secret").get(NAME);

        assertThat(blobRequests()).isNotEmpty().allMatch(request -> request.authorization() == null);
        assertThat(hub.requests().stream().filter(request -> !request.blob()))
                .allMatch(request -> "Bearer hf_secret".equals(request.authorization()));
        assertThat(hub.requests())
                .extracting(LocalHub.Request::agent)
                .allMatch(agent -> agent.matches("kvfold/\\S+; java/\\d+"));
    }

    @ParameterizedTest
    @ValueSource(strings = {"file:///etc/passwd", "ftp://localhost/x", "http:///nowhere", "//", "http://["})
    void followsNoRedirectOutOfHttp(String location) {
        hub.fail(1, request -> request.path().contains("/resolve/"), 302, Map.of("Location", location));

        assertThatThrownBy(() -> models().get(NAME))
                .isInstanceOf(ModelDownloadException.class)
                .hasMessageContaining("redirects to");
    }

    @Test
    void followsNoRedirectFromEncryptedToPlain() {
        URI from = URI.create("https://hub.example/a");

        assertThatThrownBy(() -> HubClient.redirected(from, "http://hub.example/a"))
                .isInstanceOf(ModelDownloadException.class)
                .hasMessageContaining("what begins encrypted stays so");
        assertThat(HubClient.redirected(from, "/b")).isEqualTo(URI.create("https://hub.example/b"));
        assertThat(HubClient.redirected(URI.create("http://127.0.0.1:1/a"), "http://localhost:2/b"))
                .isEqualTo(URI.create("http://localhost:2/b"));
    }

    @Test
    void endsACircleOfRedirects() {
        hub.fail(100, request -> request.path().contains("/resolve/"), 302, Map.of("Location", "?again"));

        assertThatThrownBy(() -> models().get(NAME)).hasMessageContaining("redirected more than 10 times");
    }

    // ---- what a hub asks for ----

    @Test
    void waitsAsLongAsAHubAsks() {
        String later = DateTimeFormatter.RFC_1123_DATE_TIME.format(
                Instant.now().plusSeconds(120).atZone(ZoneOffset.UTC));
        hub.fail(1, request -> true, 429, Map.of("Retry-After", "7"))
                .fail(1, request -> true, 429, Map.of("RateLimit", "\"api\";r=0;t=55"))
                .fail(1, request -> true, 503, Map.of("Retry-After", later))
                .fail(1, LocalHub.Request::blob, 500, Map.of());
        List<String> told = new ArrayList<>();
        DownloadListener listener = new DownloadListener() {
            @Override
            public boolean onProgress(String file, long bytes, long total) {
                return true;
            }

            @Override
            public void onRetry(String reason, Duration wait) {
                told.add(reason);
            }
        };

        assertThat(models().get(NAME, listener).file()).hasBinaryContent(MODEL);
        assertThat(pauses).hasSize(4);
        assertThat(pauses.get(0)).isEqualTo(Duration.ofSeconds(7));
        assertThat(pauses.get(1)).isEqualTo(Duration.ofSeconds(55));
        assertThat(pauses.get(2)).isBetween(Duration.ofSeconds(60), Duration.ofSeconds(120));
        assertThat(pauses.get(3)).isEqualTo(Duration.ofSeconds(1));
        assertThat(told.get(0)).isEqualTo("127.0.0.1 answered 429");
    }

    @Test
    void saysWhenToTryAgainWhereThatIsLong() {
        hub.fail(1, request -> true, 429, Map.of("Retry-After", "3600"));

        assertThatThrownBy(() -> models().get(NAME))
                .isInstanceOf(ModelDownloadException.class)
                .hasMessageContaining("too many requests")
                .hasMessageContaining("in 3600 s")
                .hasMessageContaining("HF_TOKEN");
        assertThat(pauses).isEmpty();
    }

    // ---- without a hub ----

    @Test
    void asksNobodyOffline() {
        assertThatThrownBy(() -> models("HF_HUB_OFFLINE", "1").get(NAME))
                .isInstanceOf(ModelNotFoundException.class)
                .hasMessageContaining("HF_HUB_OFFLINE")
                .hasMessageContaining(home.resolve("hub").toString());
        assertThat(hub.requests()).isEmpty();
        LocalModel model = models().get(NAME);
        hub.requests().clear();

        assertThat(models("HF_HUB_OFFLINE", "1").get(NAME)).isEqualTo(model);
        assertThat(hub.requests()).isEmpty();
    }

    @Test
    void usesWhatIsCachedWhereTheHubCannotBeAsked() {
        LocalModel model = models().get(NAME);
        hub.fail(100, request -> true, 500, Map.of());
        List<String> reasons = new ArrayList<>();
        DownloadListener listener = new DownloadListener() {
            @Override
            public boolean onProgress(String file, long bytes, long total) {
                return true;
            }

            @Override
            public void onCached(String reason) {
                reasons.add(reason);
            }
        };
        assertThat(models().get(NAME, listener)).isEqualTo(model);
        assertThat(reasons).singleElement().asString().contains("answered 500");
        hub.close();
        assertThat(models().get(NAME)).isEqualTo(model);

        assertThatThrownBy(() -> models().get(ModelName.parse("hf:no/body")))
                .isInstanceOf(ModelDownloadException.class)
                .hasMessageContaining("no answer from 127.0.0.1");
    }

    @Test
    void refusesWhatDoesNotAnswerAsAHub() {
        hub.put("a/web", "m.gguf", random(10, 1));
        hub.page("/api/models/a/web/revision/main", "<html>");
        assertThatThrownBy(() -> models().get(ModelName.parse("hf:a/web")))
                .isInstanceOf(ModelDownloadException.class)
                .hasMessageContaining("is not JSON");
        hub.page("/api/models/a/web/revision/main", "{\"sha\": \"../../x\"}");
        assertThatThrownBy(() -> models().get(ModelName.parse("hf:a/web")))
                .hasMessageContaining("does not answer as a hub does");
    }

    @Test
    void storesNothingOutsideTheCacheWhateverAHubLists() {
        String commit = "a".repeat(40);
        hub.page("/api/models/a/evil/revision/main", "{\"sha\": \"" + commit + "\"}");
        hub.page(
                "/api/models/a/evil/tree/" + commit,
                "[{\"type\": \"file\", \"path\": \"../../../../evil.gguf\", \"oid\": \"" + "b".repeat(40)
                        + "\", \"size\": 1},"
                        + "{\"type\": \"file\", \"path\": \"m.gguf\", \"oid\": \"../../../evil\", \"size\": 1}]");

        assertThatThrownBy(() -> models().get(ModelName.parse("hf:a/evil")))
                .isInstanceOf(ModelNotFoundException.class)
                .hasMessageContaining("holds no GGUF file");
    }

    @Test
    void goesThroughTheProxyOfTheSystem() {
        ProxySelector before = ProxySelector.getDefault();
        ProxySelector.setDefault(new ProxySelector() {
            @Override
            public List<Proxy> select(URI uri) {
                return "hub.invalid".equals(uri.getHost())
                        ? List.of(new Proxy(
                                Proxy.Type.HTTP,
                                new InetSocketAddress(
                                        "127.0.0.1", hub.endpoint().getPort())))
                        : List.of(Proxy.NO_PROXY);
            }

            @Override
            public void connectFailed(URI uri, SocketAddress address, IOException failure) {}
        });
        try {
            assertThat(models("HF_ENDPOINT", "http://hub.invalid").get(NAME).file())
                    .hasBinaryContent(MODEL);
        } finally {
            ProxySelector.setDefault(before);
        }
    }

    // ---- at once ----

    @Test
    void fetchesOnceForThreadsThatAskAtOnce() throws Exception {
        hub.slow(600_000);
        ExecutorService threads = Executors.newFixedThreadPool(4);
        try {
            List<Callable<LocalModel>> tasks = java.util.Collections.nCopies(4, () -> models().get(NAME));
            for (Future<LocalModel> model : threads.invokeAll(tasks)) {
                assertThat(model.get().file()).hasBinaryContent(MODEL);
            }
        } finally {
            threads.shutdownNow();
        }
        assertThat(blobRequests()).hasSize(1);
    }

    @Test
    void isEndedByTheListener() throws IOException {
        hub.slow(300_000);

        assertThatThrownBy(() -> models().get(NAME, (file, bytes, total) -> bytes < 50_000))
                .isInstanceOfSatisfying(GenerationCancelledException.class, e -> {
                    assertThat(e.value().orElseThrow()).isBetween(50_000L, 299_999L);
                    assertThat(e.limit()).hasValue(300_000);
                });
        assertThat(Files.size(partial())).isGreaterThanOrEqualTo(50_000);
        hub.slow(0);
        assertThat(models().get(NAME).file()).hasBinaryContent(MODEL);
        assertThat(blobRequests().get(1).range()).startsWith("bytes=");
    }

    @Test
    void isEndedByAnInterruptAlsoWhileNothingComes() throws Exception {
        hub.stall(1, 10);
        AtomicReference<Throwable> failure = new AtomicReference<>();
        Thread thread = new Thread(() -> failure.set(catchThrowable(() -> models(
                        b -> b.timing(Duration.ofMinutes(1), (time, whileWaiting) -> pauses.add(time)))
                .get(NAME))));
        thread.start();
        while (blobRequests().isEmpty()) {
            Thread.sleep(10);
        }
        thread.interrupt();
        thread.join(20_000);

        assertThat(failure.get()).isInstanceOf(GenerationCancelledException.class);
    }

    // ---- header, list, remove ----

    @Test
    void readsAHeaderWithoutTheRest() throws IOException {
        byte[] content = Files.readAllBytes(TinyModel.write(home.resolve("tiny.gguf"), 1));
        byte[] padded = java.util.Arrays.copyOf(content, 3 << 20);
        hub.put("a/tiny", "tiny.gguf", padded);

        RemoteModel model = models().look(ModelName.parse("hf:a/tiny"));

        assertThat(model.files()).containsExactly("tiny.gguf");
        assertThat(model.bytes()).isEqualTo(3 << 20);
        assertThat(model.header().fileBytes()).isEqualTo(3 << 20);
        assertThat(model.header().integer(GgufKeys.blockCount("llama"))).hasValue(3);
        assertThat(blobRequests()).extracting(LocalHub.Request::range).containsExactly("bytes=0-1048575");
        assertThat(home.resolve("hub")).doesNotExist();
    }

    @Test
    void saysThatAHeaderIsNone() {
        hub.put("a/none", "none.gguf", random(5 << 20, 3));

        assertThatThrownBy(() -> models().look(ModelName.parse("hf:a/none")))
                .isInstanceOf(InvalidModelException.class)
                .hasMessageContaining("none.gguf");
    }

    @Test
    void listsWhatIsThere() {
        assertThat(models().list()).isEmpty();
        models().get(NAME);
        models().get(ModelName.parse("hf:" + REPOSITORY + ":Q8_0"));

        List<CachedFile> files = models().list();
        assertThat(files).extracting(CachedFile::path).containsExactly("model-Q4_K_M.gguf", "model-Q8_0.gguf");
        assertThat(files).extracting(CachedFile::bytes).containsExactly(300_000L, 1000L);
        assertThat(files.get(0).revisions()).containsExactly("main");
        assertThat(models().get(files.get(0).name()).file())
                .isEqualTo(files.get(0).file());
    }

    @Test
    void removesAQuantisationAndThenTheRest() throws IOException {
        models().get(NAME);
        models().get(ModelName.parse("hf:" + REPOSITORY + ":Q8_0"));

        assertThat(models().remove(ModelName.parse("hf:" + REPOSITORY + ":Q8_0"))
                        .bytes())
                .isEqualTo(1000);
        assertThat(models().list()).hasSize(1);
        assertThat(blobs()).containsExactly(LocalHub.hex("SHA-256", MODEL));
        assertThat(models().remove(NAME).bytes()).isEqualTo(300_000);
        assertThat(folder()).doesNotExist();
        assertThat(home.resolve("hub/.locks/models--owner--name-GGUF")).doesNotExist();
        assertThatThrownBy(() -> models().remove(NAME))
                .isInstanceOf(ModelNotFoundException.class)
                .hasMessageContaining("there is no " + NAME);
    }

    @Test
    void keepsABlobThatAnotherSnapshotLeadsTo() throws IOException {
        models().get(NAME);
        String before = hub.commit(REPOSITORY);
        hub.put(REPOSITORY, "README.md", "another".getBytes(java.nio.charset.StandardCharsets.UTF_8));
        LocalModel after = models().get(NAME);

        assertThat(models().remove(ModelName.parse(NAME + "@" + before)).bytes())
                .isZero();
        assertThat(after.file()).hasBinaryContent(MODEL);
        assertThat(models().remove(NAME).bytes()).isEqualTo(300_000);
        assertThat(folder()).doesNotExist();
    }

    @Test
    void removesWhatAnInterruptedDownloadLeft() throws IOException {
        Files.createDirectories(partial().getParent());
        Files.write(partial(), random(77, 1));

        assertThat(models().remove(NAME).bytes()).isEqualTo(77);
        assertThat(folder()).doesNotExist();
    }

    @Test
    void leavesFilesThatAreNoModels() throws IOException {
        models().get(NAME);
        Path other = folder().resolve("snapshots/" + hub.commit(REPOSITORY) + "/config.json");
        Files.writeString(other, "{}");

        models().remove(NAME);

        assertThat(other).exists();
        assertThat(models().list()).isEmpty();
    }
}
