package io.kvfold.hub;

import static org.assertj.core.api.Assertions.assertThat;

import io.kvfold.DownloadedModels;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Hugging Face's own client and this one on the same cache, against the same hub. */
@Tag("real-models")
@Timeout(120)
class HuggingFaceHubTest {

    private static final String REPOSITORY = "owner/name-GGUF";
    private static final ModelName NAME = ModelName.parse("hf:" + REPOSITORY);
    private static final byte[] MODEL = new byte[200_000];

    static {
        new Random(1).nextBytes(MODEL);
    }

    private final LocalHub hub = LocalHub.start();

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path home;

    @BeforeEach
    void putAModelOnTheHub() {
        hub.put(REPOSITORY, "README.md", "a model".getBytes(StandardCharsets.UTF_8))
                .put(REPOSITORY, "sub/model-Q4_K_M.gguf", MODEL)
                .put(REPOSITORY, "mmproj-F16.gguf", new byte[] {1, 2, 3});
    }

    @AfterEach
    void stopTheHub() {
        hub.close();
    }

    private Models models() {
        return new Models.Builder(hub.environment(home)).build();
    }

    private String python(String script) throws IOException, InterruptedException {
        Path output = home.resolve("output");
        ProcessBuilder builder = new ProcessBuilder(DownloadedModels.python().toString(), "-c", script)
                .redirectErrorStream(true)
                .redirectOutput(output.toFile());
        builder.environment().keySet().removeIf(name -> name.startsWith("HF_") || name.startsWith("HUGGING"));
        builder.environment().putAll(hub.environment(home));
        builder.environment().put("HF_HUB_DISABLE_TELEMETRY", "1");
        Process process = builder.start();
        assertThat(process.waitFor(100, TimeUnit.SECONDS)).isTrue();
        String text = Files.readString(output);
        assertThat(process.exitValue()).as(text).isZero();
        List<String> lines = text.lines().toList();
        return lines.get(lines.size() - 1);
    }

    private long downloads() {
        return hub.requests().stream()
                .filter(LocalHub.Request::blob)
                .filter(r -> r.method().equals("GET"))
                .count();
    }

    @Test
    void huggingFaceFindsNothingToDownload() throws Exception {
        LocalModel model = models().get(NAME);
        assertThat(downloads()).isEqualTo(2);

        String path = python("from huggingface_hub import hf_hub_download\n" + "print(hf_hub_download('" + REPOSITORY
                + "', 'sub/model-Q4_K_M.gguf'))");

        assertThat(Path.of(path)).isEqualTo(model.file());
        assertThat(downloads()).isEqualTo(2);
        assertThat(python("from huggingface_hub import hf_hub_download\n"
                        + "print(hf_hub_download('" + REPOSITORY
                        + "', 'sub/model-Q4_K_M.gguf', local_files_only=True))"))
                .isEqualTo(path);
    }

    @Test
    void huggingFaceAccountsForTheCache() throws Exception {
        models().get(NAME);

        String cache = python("from huggingface_hub import scan_cache_dir\n"
                + "cache = scan_cache_dir()\n"
                + "repo, = cache.repos\n"
                + "revision, = repo.revisions\n"
                + "print(repo.repo_id, repo.size_on_disk, revision.commit_hash, *revision.refs, len(cache.warnings))");

        assertThat(cache).isEqualTo(REPOSITORY + " 200003 " + hub.commit(REPOSITORY) + " main 0");
    }

    @Test
    void findsNothingToDownloadAfterHuggingFace() throws Exception {
        String path = python("from huggingface_hub import hf_hub_download\n"
                + "hf_hub_download('" + REPOSITORY + "', 'mmproj-F16.gguf')\n"
                + "print(hf_hub_download('" + REPOSITORY + "', 'sub/model-Q4_K_M.gguf'))");
        assertThat(downloads()).isEqualTo(2);

        LocalModel model = models().get(NAME);

        assertThat(model.file()).isEqualTo(Path.of(path)).hasBinaryContent(MODEL);
        assertThat(downloads()).isEqualTo(2);
        assertThat(models().cached(NAME)).contains(model);
        assertThat(models().list()).hasSize(2);
    }

    @Test
    void bothFetchAtOnce() throws Exception {
        hub.slow(200_000);
        Thread other = new Thread(() -> models().get(NAME));
        other.start();
        String path = python("from huggingface_hub import hf_hub_download\n" + "print(hf_hub_download('" + REPOSITORY
                + "', 'sub/model-Q4_K_M.gguf'))");
        other.join();

        assertThat(Path.of(path)).hasBinaryContent(MODEL);
        assertThat(models().cached(NAME).orElseThrow().file()).hasBinaryContent(MODEL);
    }
}
