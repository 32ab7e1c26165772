package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.kvfold.ForkedJvm;
import io.kvfold.RealLibrary;
import io.kvfold.ScriptedEngine;
import io.kvfold.TinyModel;
import io.kvfold.hub.LocalHub;
import io.kvfold.hub.ModelName;
import io.kvfold.hub.Models;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringReader;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** The commands on models that have a name on a hub. */
@Timeout(120)
final class HubCommandsTest {

    private static final String NAME = "hf:owner/tiny-GGUF:F32";

    private final LocalHub hub = LocalHub.start();
    private final ScriptedEngine scripted = ScriptedEngine.answering();

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path directory;

    @SuppressWarnings("NullAway.Init")
    private byte[] model;

    @BeforeEach
    void putAModelOnTheHub() throws IOException {
        model = Files.readAllBytes(TinyModel.write(directory.resolve("tiny"), 1));
        hub.put("owner/tiny-GGUF", "tiny-F32.gguf", model);
    }

    @AfterEach
    void stopTheHub() {
        hub.close();
    }

    private Models models() {
        return Models.builder()
                .endpoint(hub.endpoint())
                .cacheDirectory(directory.resolve("home/hub"))
                .build();
    }

    private CommandRun run(String... arguments) {
        return CommandRun.of(scripted::builder, this::models, arguments);
    }

    @Test
    void pullsListsAndRemoves() throws IOException {
        CommandRun pulled = run("pull", NAME);
        assertThat(pulled.exitCode()).as(pulled.err()).isZero();
        Path file = Path.of(pulled.out().strip());
        assertThat(file).hasBinaryContent(model);

        assertThat(run("list").out())
                .contains("hf:owner/tiny-GGUF/tiny-F32.gguf")
                .hasLineCount(1);
        JsonNode listed =
                new ObjectMapper().readTree(run("list", "--json").out()).path(0);
        assertThat(listed.path("bytes").asInt()).isEqualTo(model.length);
        assertThat(listed.path("file").asText()).isEqualTo(file.toString());

        CommandRun removed = run("rm", listed.path("name").asText());
        assertThat(removed.out()).contains("deleted hf:owner/tiny-GGUF/tiny-F32.gguf", "are free");
        assertThat(file).doesNotExist();
        assertThat(run("list").out()).isEmpty();
        assertThat(run("rm", NAME).exitCode()).isEqualTo(ExitCode.MODEL);
    }

    @Test
    void saysWhatIsWrongInOneLine() {
        hub.restrict("owner/tiny-GGUF", "hf_token", true);

        CommandRun gated = run("pull", NAME);
        assertThat(gated.exitCode()).isEqualTo(ExitCode.MODEL);
        assertThat(gated.err()).contains("accept its licence", "HF_TOKEN").hasLineCount(1);
        CommandRun absent = run("generate", "-p", "x", "--model", "hf:no/body");
        assertThat(absent.exitCode()).isEqualTo(ExitCode.MODEL);
        assertThat(absent.err()).contains("no/body").hasLineCount(1);
        CommandRun misspelt = run("generate", "-p", "x", "--model", "hf:nobody");
        assertThat(misspelt.exitCode()).isEqualTo(ExitCode.USAGE);
        assertThat(misspelt.err()).contains("hf:owner/name[:quant|/file][@revision]");
    }

    @Test
    void opensAModelByItsNameWhereverOneIsTaken() {
        hub.put("owner/tiny-GGUF", "mmproj-F16.gguf", new byte[7]);
        CommandRun run = run("generate", "-p", "x", "--model", NAME);

        assertThat(run.exitCode()).as(run.err()).isZero();
        JsonNode options = scripted.openedWith().get(0);
        assertThat(options.path("alias").asText()).isEqualTo(NAME);
        assertThat(options.path("mmproj").asText()).endsWith("mmproj-F16.gguf");
        assertThat(options.path("model").asText())
                .isEqualTo(models().list().get(1).file().toString());
    }

    @Test
    void inspectsBeforeTheDownload() throws IOException {
        CommandRun before = run("inspect", NAME, "--ctx", "1024", "--kv-plan", "0_0_2");

        assertThat(before.exitCode()).as(before.err()).isZero();
        assertThat(before.out())
                .contains("not fetched   " + Values.bytes(model.length) + " in 1 file", "model         tiny")
                .contains("256 B per token in 2 of 3 layers");
        assertThat(models().list()).isEmpty();
        JsonNode facts =
                new ObjectMapper().readTree(run("inspect", NAME, "--json").out());
        assertThat(facts.path("path").asText()).isEqualTo(NAME);
        assertThat(facts.path("download_bytes").asInt()).isEqualTo(model.length);

        run("pull", NAME);
        assertThat(run("inspect", NAME).out()).contains("model         tiny").doesNotContain("not fetched");
    }

    @Test
    void offersModelsToAPersonWhoNamesNone() throws IOException {
        assertThat(ask("")).isNull();
        assertThat(ask("\n")).hasToString("demo:folded");
        assertThat(ask("3\n")).hasToString("hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF");
        assertThat(ask("9\nhf:x\n" + NAME + "\n")).hasToString(NAME);
        assertThat(ask("some.gguf\n")).hasToString("some.gguf");
        assertThat(hub.requests()).isEmpty();
    }

    private @Nullable Object ask(String input) throws IOException {
        StringWriter out = new StringWriter();
        Object chosen = new ModelMenu(models()).ask(new BufferedReader(new StringReader(input)), new PrintWriter(out));
        assertThat(out.toString()).contains("1  demo:folded", "4  hf:");
        return chosen;
    }

    @Test
    void chatsFromAnEmptyMachineInOneCommand() {
        RealLibrary.require();

        String output = command()
                .withInput("hello\n")
                .run(Main.class, "chat", "--model", NAME, "--max-tokens", "3", "--ctx", "512")
                .outputOfSuccess();

        assertThat(output).contains("tokens at");
        assertThat(models().cached(ModelName.parse(NAME))).isPresent();
    }

    @Test
    void goesOnAfterKillMinusNine() throws Exception {
        hub.slow(model.length / 4);
        Process process = command().start(Main.class, "pull", NAME);
        Path blobs = directory.resolve("home/hub/models--owner--tiny-GGUF/blobs");
        while (size(blobs) < model.length / 8) {
            assertThat(process.isAlive()).isTrue();
            Thread.sleep(20);
        }
        process.destroyForcibly(); // SIGKILL
        assertThat(process.waitFor(30, TimeUnit.SECONDS)).isTrue();
        assertThat(process.exitValue()).isEqualTo(128 + 9);
        long there = size(blobs);
        hub.slow(0);

        command().run(Main.class, "pull", NAME).outputOfSuccess();

        assertThat(models().list().get(0).file()).hasBinaryContent(model);
        List<String> ranges = hub.requests().stream()
                .filter(LocalHub.Request::blob)
                .map(LocalHub.Request::range)
                .toList();
        assertThat(ranges).hasSize(2).last().isEqualTo("bytes=" + there + "-");
    }

    @Test
    void twoProcessesFetchOnce() throws Exception {
        hub.slow(model.length / 2);
        Process first = command().start(Main.class, "pull", NAME);
        Process second = command().start(Main.class, "pull", NAME);
        for (Process process : List.of(first, second)) {
            assertThat(process.waitFor(60, TimeUnit.SECONDS)).isTrue();
            assertThat(process.exitValue()).isZero();
        }
        assertThat(hub.requests().stream().filter(LocalHub.Request::blob)).hasSize(1);
        assertThat(models().list().get(0).file()).hasBinaryContent(model);
    }

    private static long size(Path folder) throws IOException {
        if (!Files.isDirectory(folder)) {
            return 0;
        }
        long bytes = 0;
        try (Stream<Path> files = Files.list(folder)) {
            for (Path file : files.toList()) {
                bytes += Files.size(file);
            }
        }
        return bytes;
    }

    private ForkedJvm command() {
        ForkedJvm jvm = new ForkedJvm().withRealLibrary().within(Duration.ofMinutes(1));
        for (Map.Entry<String, String> variable :
                hub.environment(directory.resolve("home")).entrySet()) {
            jvm.withEnvironment(variable.getKey(), variable.getValue());
        }
        return jvm;
    }
}
