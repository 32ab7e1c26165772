package io.kvfold.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assumptions.assumeThat;

import io.kvfold.NativeLibrary;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The way from text to a model that speaks, as training/README.md describes it. */
@Tag("slow")
final class TrainingTest {

    private static final int NO_PYTORCH = 3;

    @TempDir
    @SuppressWarnings("NullAway.Init")
    private Path directory;

    @Test
    void trainsAModelThatThisCommandConvertsAndRuns() throws IOException, InterruptedException {
        assumeThat(Files.isExecutable(Path.of("/usr/bin/env")))
                .as("the smoke run is a bash script")
                .isTrue();
        assumeThat(NativeLibrary.isAvailable())
                .as("the native library: %s", NativeLibrary.unavailabilityCause())
                .isTrue();
        Path log = directory.resolve("log");
        ProcessBuilder smoke = new ProcessBuilder(
                "../training/smoke.sh", directory.resolve("work").toString());
        smoke.environment().put("KVFOLD", launcher().toString());

        Process process =
                smoke.redirectErrorStream(true).redirectOutput(log.toFile()).start();

        boolean ended = process.waitFor(20, TimeUnit.MINUTES);
        process.destroyForcibly();
        assertThat(ended).as("ends in 20 minutes: %s", Files.readString(log)).isTrue();
        assumeThat(process.exitValue()).as(Files.readString(log)).isNotEqualTo(NO_PYTORCH);
        assertThat(process.exitValue()).as(Files.readString(log)).isZero();
        assertThat(log).content().contains("smoke run passed");
    }

    /** The command under test as a program. */
    private Path launcher() throws IOException {
        List<String> command = new ArrayList<>();
        command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
        String library = System.getProperty("kvfold.library.path");
        if (library != null) {
            command.add("-Dkvfold.library.path=" + library);
        }
        command.addAll(List.of("-cp", System.getProperty("java.class.path"), Main.class.getName()));
        Path launcher = directory.resolve("kvfold");
        Files.writeString(launcher, "#!/bin/sh\nexec '" + String.join("' '", command) + "' \"$@\"\n");
        assertThat(launcher.toFile().setExecutable(true)).isTrue();
        return launcher;
    }
}
