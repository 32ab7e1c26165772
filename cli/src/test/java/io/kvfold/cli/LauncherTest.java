package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileSystems;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.attribute.FileTime;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Runs the launcher on a copy of the checkout's skeleton, with tools that only note how they were called. */
final class LauncherTest {

    private static final Path ROOT = Path.of("..").toAbsolutePath().normalize();
    private static final List<String> TOOLS = List.of("cmake", "cc", "c++", "ninja", "git", "npm", "openssl");

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path directory;

    @SuppressWarnings("NullAway.Init")
    private Path checkout;

    @SuppressWarnings("NullAway.Init")
    private Path bin;

    /** Exit code and both outputs. */
    private record Run(int exitCode, String output) {}

    @BeforeEach
    void prepareACheckoutAndTools() throws IOException {
        assumeTrue(
                FileSystems.getDefault().supportedFileAttributeViews().contains("posix"),
                "the launcher is tested where bash is at home");
        checkout = Files.createDirectories(directory.resolve("check out"));
        for (String file : List.of("kvfold", "native/check-tools.sh")) {
            Path copy = checkout.resolve(file);
            Files.createDirectories(copy.getParent());
            Files.copy(ROOT.resolve(file), copy, StandardCopyOption.COPY_ATTRIBUTES);
        }
        Files.createFile(checkout.resolve("pom.xml"));
        Files.createDirectories(checkout.resolve("cli/src/main"));
        bin = Files.createDirectories(directory.resolve("bin"));
        for (String tool : List.of(
                "bash",
                "cat",
                "cut",
                "dirname",
                "find",
                "grep",
                "head",
                "mkdir",
                "mv",
                "readlink",
                "rm",
                "sed",
                "sleep",
                "tail",
                "tr")) {
            fake(tool, "exec " + which(tool) + " \"$@\"");
        }
        TOOLS.forEach(tool -> fake(tool, "exit 0"));
        fake("java", "[ \"$1\" = -version ] && { echo 'openjdk version \"17.0.1\"' >&2; exit; }; echo \"ran $*\"");
        fake("javac", "exit 0");
        fake("id", "echo 1000");
        fake(
                "mvn",
                "echo \"$*\" >> '" + directory + "/builds'; mkdir -p \"$(dirname \"$3\")/cli/target\"; " + "> '"
                        + checkout + "/cli/target/kvfold-cli.jar'");
    }

    private static Path which(String tool) {
        for (String folder : System.getenv("PATH").split(File.pathSeparator)) {
            Path candidate = Path.of(folder, tool);
            if (Files.isExecutable(candidate)) {
                return candidate;
            }
        }
        throw new IllegalStateException("no " + tool + " on the PATH");
    }

    private void fake(String tool, String script) {
        try {
            Path file = bin.resolve(tool);
            Files.deleteIfExists(file);
            Files.writeString(file, "#!" + which("bash") + "\n" + script + "\n");
            assertThat(file.toFile().setExecutable(true)).isTrue();
        } catch (IOException e) {
            throw new java.io.UncheckedIOException(e);
        }
    }

    private Run launch(String... arguments) throws IOException, InterruptedException {
        return launch(Map.of(), arguments);
    }

    private Run launch(Map<String, String> environment, String... arguments) throws IOException, InterruptedException {
        List<String> command =
                new ArrayList<>(List.of(checkout.resolve("kvfold").toString()));
        command.addAll(List.of(arguments));
        ProcessBuilder builder =
                new ProcessBuilder(command).directory(directory.toFile()).redirectErrorStream(true);
        builder.environment().clear();
        builder.environment().put("PATH", bin.toString());
        builder.environment().putAll(environment);
        Process process = builder.start();
        process.getOutputStream().close();
        String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
        assertThat(process.waitFor(30, TimeUnit.SECONDS)).isTrue();
        return new Run(process.exitValue(), output);
    }

    private List<String> builds() throws IOException {
        Path builds = directory.resolve("builds");
        return Files.exists(builds) ? Files.readAllLines(builds) : List.of();
    }

    @Test
    void buildsOnceAndThenStartsAtOnce() throws IOException, InterruptedException {
        Run first = launch("chat", "--model", "a b.gguf");
        Run second = launch("version");

        assertThat(first.output()).contains("building the native library", "built in", "ran ");
        assertThat(first.output()).contains("kvfold-cli.jar chat --model a b.gguf");
        assertThat(second.output()).startsWith("ran ").hasLineCount(1);
        assertThat(builds()).singleElement().asString().contains("-pl cli -am package", "-DskipTests");
    }

    @ParameterizedTest
    @ValueSource(strings = {"cli/src/main/New.java", "demo-models/src/main/resources/model.gguf"})
    void buildsAgainWhenASourceIsNewer(String source) throws IOException, InterruptedException {
        launch("version");
        Files.createDirectories(checkout.resolve(source).getParent());
        Files.setLastModifiedTime(
                Files.createFile(checkout.resolve(source)),
                FileTime.from(Instant.now().plusSeconds(5)));

        assertThat(launch("version").output()).contains("sources have changed");
        assertThat(builds()).hasSize(2);
    }

    @Test
    void buildsAgainWithOtherBuildOptions() throws IOException, InterruptedException {
        launch("version");
        launch(Map.of("KVFOLD_BUILD_ARGS", "-Dkvfold.native.skip=true"), "version");
        launch(Map.of("KVFOLD_BUILD_ARGS", "-Dkvfold.native.skip=true"), "version");

        assertThat(builds()).hasSize(2);
        assertThat(builds().get(1)).endsWith("-Dkvfold.native.skip=true");
    }

    @Test
    void letsJavaReadArgumentsAsUtf8() throws IOException, InterruptedException {
        fake("java", "[ \"$1\" = -version ] && { echo 'openjdk version \"17.0.1\"' >&2; exit; }; echo \"$LC_ALL\"");

        assertThat(launch(Map.of("LC_ALL", "C"), "version").output()).endsWith("C.UTF-8\n");
        assertThat(launch(Map.of("LC_ALL", "C.utf8"), "version").output()).endsWith("C.utf8\n");
    }

    @Test
    void showsTheEndOfTheLogWhenTheBuildFails() throws IOException, InterruptedException {
        fake("mvn", "echo '[INFO] fine'; echo '[ERROR] no space left'; exit 1");

        Run run = launch("version");

        assertThat(run.exitCode()).isEqualTo(1);
        assertThat(run.output())
                .contains("[ERROR] no space left", "the build failed")
                .doesNotContain("fine");
    }

    @Test
    void namesThePackageOfAMissingTool() throws IOException, InterruptedException {
        Files.delete(bin.resolve("cmake"));

        Run run = launch("version");

        assertThat(run)
                .isEqualTo(new Run(
                        ExitCode.MISSING_TOOL,
                        "kvfold: cmake is missing. Install it: apt-get install cmake (Debian, Ubuntu), dnf install cmake"
                                + " (Fedora), brew install cmake (macOS).\n"));
        assertThat(builds()).isEmpty();
    }

    @Test
    void wantsJava17() throws IOException, InterruptedException {
        fake("java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2");

        Run run = launch("version");

        assertThat(run.exitCode()).isEqualTo(ExitCode.MISSING_TOOL);
        assertThat(run.output()).contains("is version 11, 17 or newer is needed");
    }

    @Test
    void installsWithYesAsRootOnDebianOnly() throws IOException, InterruptedException {
        Files.delete(bin.resolve("cmake"));
        Files.delete(bin.resolve("npm"));
        fake("id", "echo 0");
        String calls = directory.resolve("apt").toString();
        fake(
                "apt-get",
                "echo \"$*\" >> '" + calls + "'; for t in cmake npm; do : > '" + bin + "'/$t; done; " + which("chmod")
                        + " +x '" + bin + "'/cmake '" + bin + "'/npm");

        Run refused = launch("version");
        assertThat(refused.exitCode()).isEqualTo(ExitCode.MISSING_TOOL);
        assertThat(refused.output()).contains("run ./kvfold --yes");

        Run installed = launch("--yes", "version");
        assertThat(installed.exitCode()).isZero();
        assertThat(installed.output()).contains("installing cmake npm with apt-get", "ran ");
        assertThat(Files.readAllLines(Path.of(calls)))
                .containsExactly("update -qq", "install -y -qq --no-install-recommends cmake npm");
    }
}
