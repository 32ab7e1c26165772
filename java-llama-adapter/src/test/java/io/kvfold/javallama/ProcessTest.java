package io.kvfold.javallama;

import static org.assertj.core.api.Assertions.assertThat;

import de.kherud.llama.InferenceParameters;
import de.kherud.llama.LlamaOutput;
import de.kherud.llama.ModelParameters;
import io.kvfold.ForkedJvm;
import io.kvfold.RealLibrary;
import io.kvfold.TinyModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;

/** What java-llama.cpp is known for, and what is not here. */
class ProcessTest {

    @TempDir
    static Path directory;

    private static String model;

    @BeforeAll
    static void writeModel() throws Exception {
        RealLibrary.require();
        model = TinyModel.write(directory.resolve("tiny.gguf"), 1).toString();
    }

    private static LlamaModel open(String file) {
        return new LlamaModel(
                new ModelParameters().setModel(file).setCtxSize(4096).setThreads(1));
    }

    @Test
    void endsThoughItsModelIsOpenAndGenerating() {
        ForkedJvm.Result result =
                new ForkedJvm().withRealLibrary().within(Duration.ofSeconds(30)).run(NeverClosing.class, model);
        assertThat(result.exit()).as(result.output()).isZero();
        assertThat(result.output()).contains("generating");
    }

    static final class NeverClosing {
        private NeverClosing() {}

        public static void main(String[] args) {
            for (LlamaOutput output : open(args[0]).generate(new InferenceParameters("a").setIgnoreEos(true))) {
                System.out.println("generating " + output);
                break;
            }
        }
    }

    @Test
    @EnabledOnOs(OS.LINUX)
    void releasesItsMemoryAndLeavesTheOtherLibraryAlone() {
        String output = new ForkedJvm()
                .withRealLibrary()
                .with("-Xms64m")
                .with("-Xmx64m")
                .with("-XX:+AlwaysPreTouch")
                .with("-XX:TieredStopAtLevel=1")
                .with("-XX:+UseSerialGC")
                .within(Duration.ofMinutes(3))
                .run(OpeningAndClosing.class, model)
                .outputOfSuccess();
        System.out.println(output.strip());
        String[] numbers = output.strip().split(" ");
        long early = Long.parseLong(numbers[0]);
        long late = Long.parseLong(numbers[1]);
        assertThat(late).as("KiB after 80 cycles").isLessThan(early + early / 20);
    }

    /** Each cycle allocates 12 MiB of KV cache. */
    static final class OpeningAndClosing {
        private OpeningAndClosing() {}

        public static void main(String[] args) throws IOException {
            long early = 0;
            for (int i = 1; i <= 80; i++) {
                try (LlamaModel opened = open(args[0])) {
                    opened.complete(new InferenceParameters("a").setNPredict(3));
                }
                if (i == 20) {
                    early = residentKib();
                }
            }
            if (Files.readString(Path.of("/proc/self/maps")).contains("jllama")) {
                throw new AssertionError("java-llama.cpp's native library is loaded");
            }
            System.out.println(early + " " + residentKib());
        }

        private static long residentKib() throws IOException {
            System.gc();
            return Files.readAllLines(Path.of("/proc/self/status")).stream()
                    .filter(line -> line.startsWith("VmRSS:"))
                    .mapToLong(line -> Long.parseLong(line.replaceAll("\\D", "")))
                    .findFirst()
                    .orElseThrow();
        }
    }
}
