package io.kvfold.javallama;

import static org.assertj.core.api.Assertions.assertThat;

import io.kvfold.ForkedJvm;
import io.kvfold.RealLibrary;
import io.kvfold.TinyModel;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * One program, compiled against java-llama.cpp's LlamaModel and against this one. It does not use cached prompts: what
 * java-llama.cpp answers from one differs from run to run, also at temperature 0.
 */
class SameProgramTest {

    @TempDir
    Path directory;

    @Test
    void differsInOneImport() throws IOException {
        List<String> original = source("original");
        List<String> twin = source("twin");
        assertThat(original).hasSameSizeAs(twin);
        assertThat(without(original, twin)).containsExactly("import de.kherud.llama.LlamaModel;");
        assertThat(without(twin, original)).containsExactly("import io.kvfold.javallama.LlamaModel;");
    }

    private static List<String> source(String program) throws IOException {
        Path file = Path.of("src/test/java/io/kvfold/javallama/programs", program, "Storyteller.java");
        return Files.readAllLines(file).stream()
                .filter(line -> !line.startsWith("package "))
                .toList();
    }

    private static Stream<String> without(List<String> lines, List<String> others) {
        return lines.stream().filter(line -> !others.contains(line));
    }

    @Test
    void printsTheSame() {
        RealLibrary.require();
        String model = TinyModel.stories().toString();
        ForkedJvm twin = new ForkedJvm().withRealLibrary();
        String ours = twin.run(io.kvfold.javallama.programs.twin.Storyteller.class, model)
                .outputOfSuccess();
        String theirs = new ForkedJvm()
                .with("-Dde.kherud.llama.tmpdir=" + directory)
                .run(Halting.class, io.kvfold.javallama.programs.original.Storyteller.class.getName(), model)
                .outputOfSuccess();
        assertThat(ours).contains("there was a little girl named Lily", "101 outputs", "closed");
        assertThat(ours).isEqualTo(theirs.replaceFirst("Extracted '.*' to '.*'\\R", ""));
    }

    @Test
    void runsBesideTheOtherInOneProcess() {
        RealLibrary.require();
        String model = TinyModel.stories().toString();
        String output = new ForkedJvm()
                .withRealLibrary()
                .with("-Dde.kherud.llama.tmpdir=" + directory)
                .run(Both.class, model)
                .outputOfSuccess();
        String[] printed = output.replaceFirst("Extracted '.*' to '.*'\\R", "").split("-----\\R", -1);
        assertThat(printed).hasSize(3);
        assertThat(printed[0]).contains("there was a little girl named Lily");
        assertThat(printed[1]).isEqualTo(printed[0]);
    }

    /** Runs a main method, and ends the process, which java-llama.cpp's thread would keep alive. */
    static final class Halting {
        private Halting() {}

        public static void main(String[] args) throws Exception {
            int exit = 1;
            try {
                Class.forName(args[0]).getMethod("main", String[].class).invoke(null, (Object) new String[] {args[1]});
                exit = 0;
            } finally {
                System.out.flush();
                Runtime.getRuntime().halt(exit);
            }
        }
    }

    /** Prints what original and twin print. */
    static final class Both {
        private Both() {}

        public static void main(String[] args) {
            io.kvfold.javallama.programs.original.Storyteller.main(args);
            System.out.println("-----");
            io.kvfold.javallama.programs.twin.Storyteller.main(args);
            System.out.println("-----");
            System.out.flush();
            Runtime.getRuntime().halt(0);
        }
    }
}
