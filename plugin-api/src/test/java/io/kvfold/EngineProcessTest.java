package io.kvfold;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import de.kherud.llama.InferenceParameters;
import de.kherud.llama.LlamaModel;
import de.kherud.llama.ModelParameters;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** What concerns a whole process, each in a JVM of its own. */
class EngineProcessTest {

    @TempDir
    static Path directory;

    private static Path model;

    @BeforeAll
    static void writeModel() throws Exception {
        RealLibrary.require();
        model = TinyModel.write(directory.resolve("tiny.gguf"), 1);
    }

    private static Engine open(String model) {
        return Engine.builder()
                .model(Path.of(model))
                .contextSize(2048)
                .threads(1)
                .open();
    }

    private static ObjectNode completion(int tokens) {
        return JsonNodeFactory.instance
                .objectNode()
                .put("prompt", "once upon a time")
                .put("n_predict", tokens)
                .put("temperature", 0)
                .put("ignore_eos", true);
    }

    private static String complete(Engine engine) {
        return engine.call("/completion", completion(20)).path("content").asText();
    }

    @ParameterizedTest
    @ValueSource(strings = {"return", "exit", "throw"})
    void endsByItselfThoughNothingIsClosed(String how) {
        ForkedJvm.Result result = new ForkedJvm()
                .withRealLibrary()
                .within(Duration.ofSeconds(30))
                .run(NeverClosing.class, model.toString(), how);
        assertThat(result.output()).contains("generating");
        assertThat(result.exit()).as(result.output()).isEqualTo(how.equals("throw") ? 1 : how.equals("exit") ? 3 : 0);
    }

    static final class NeverClosing {
        private NeverClosing() {}

        public static void main(String[] args) throws Exception {
            Engine engine = open(args[0]);
            CountDownLatch generating = new CountDownLatch(4);
            for (int i = 0; i < 4; i++) {
                Thread thread = new Thread(() -> {
                    try (Generation generation =
                            engine.complete(completion(1900).put("stream", true))) {
                        while (generation.next() != null) {
                            generating.countDown();
                        }
                    }
                });
                thread.setDaemon(true);
                thread.start();
            }
            engine.retain();
            generating.await();
            System.out.println("generating");
            if (args[1].equals("exit")) {
                System.exit(3);
            }
            if (args[1].equals("throw")) {
                throw new IllegalStateException("on purpose");
            }
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"kvfold first", "java-llama.cpp first"})
    void livesBesideJavaLlamaCppInOneProcess(String order) throws IOException {
        Path temporary = Files.createDirectories(directory.resolve(order.replace(' ', '-')));
        String output = new ForkedJvm()
                .withRealLibrary()
                .with("-Dde.kherud.llama.tmpdir=" + temporary)
                .run(BesideJavaLlamaCpp.class, model.toString(), order)
                .outputOfSuccess();
        assertThat(output).contains("both answered");
    }

    static final class BesideJavaLlamaCpp {
        private BesideJavaLlamaCpp() {}

        public static void main(String[] args) {
            Engine engine = args[1].startsWith("kvfold") ? open(args[0]) : null;
            LlamaModel other = new LlamaModel(new ModelParameters()
                    .setModel(args[0])
                    .setCtxSize(512)
                    .setThreads(1)
                    .disableLog());
            if (engine == null) {
                engine = open(args[0]);
            }
            String ours = complete(engine);
            InferenceParameters parameters = new InferenceParameters("once upon a time")
                    .setNPredict(20)
                    .setTemperature(0)
                    .setIgnoreEos(true);
            String theirs = other.complete(parameters);
            assertThat(ours).matches("[a-z ]+");
            assertThat(theirs).matches("[a-z ]+");
            assertThat(complete(engine)).isEqualTo(ours);
            assertThat(other.complete(parameters)).isEqualTo(theirs);
            engine.close();
            assertThat(other.complete(parameters)).isEqualTo(theirs);
            System.out.println("both answered");
            Runtime.getRuntime().halt(0); // java-llama.cpp keeps its process alive
        }
    }

    @Test
    @EnabledOnOs(OS.LINUX)
    void needsNoMoreMemoryAfterTwoHundredCyclesThanAfterTwenty() {
        String output = new ForkedJvm()
                .withRealLibrary()
                .with("-Xms64m")
                .with("-Xmx64m")
                .with("-XX:+AlwaysPreTouch") // neither the heap's growth is measured, nor the compiler's
                .with("-XX:TieredStopAtLevel=1")
                .with("-XX:+UseSerialGC")
                // which of glibc's arenas a thread gets is chance, and each keeps what it once grew to
                .withEnvironment("MALLOC_ARENA_MAX", "1")
                .within(Duration.ofMinutes(5))
                .run(OpeningAndClosing.class, model.toString())
                .outputOfSuccess();
        System.out.println(output.strip());
        Matcher numbers = Pattern.compile("resident: (\\d+) (\\d+)").matcher(output);
        assertThat(numbers.find()).as(output).isTrue();
        long early = Long.parseLong(numbers.group(1));
        long late = Long.parseLong(numbers.group(2));
        assertThat(late).as("KiB after 200 cycles").isLessThan(early + early / 20);
    }

    static final class OpeningAndClosing {
        private OpeningAndClosing() {}

        public static void main(String[] args) throws IOException {
            long early = 0;
            for (int i = 1; i <= 200; i++) {
                try (Engine engine = open(args[0])) {
                    if (complete(engine).isEmpty()) {
                        throw new AssertionError("no answer in cycle " + i);
                    }
                }
                if (i == 20) {
                    early = residentKib();
                }
            }
            System.out.println("resident: " + early + " " + residentKib());
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

    @Test
    @EnabledOnOs(OS.LINUX)
    void collectsEnginesAndGenerationsThatNobodyClosed() {
        assertThat(new ForkedJvm()
                        .withRealLibrary()
                        .run(Forgetting.class, model.toString())
                        .outputOfSuccess())
                .contains("all collected");
    }

    static final class Forgetting {
        private Forgetting() {}

        public static void main(String[] args) throws Exception {
            open(args[0]).close();
            long before = nativeThreads();
            for (int i = 0; i < 10; i++) {
                Generation generation = open(args[0]).complete(completion(1900).put("stream", true));
                assertThat(generation.next()).isNotNull();
            }
            assertThat(nativeThreads()).isGreaterThan(before);
            long deadline = System.nanoTime() + Duration.ofSeconds(30).toNanos();
            while (nativeThreads() > before && System.nanoTime() < deadline) {
                System.gc();
                Thread.sleep(20);
            }
            assertThat(nativeThreads()).isLessThanOrEqualTo(before);
            System.out.println("all collected");
        }

        /** Threads of the process that Java did not start, which are the workers of engines and what they started. */
        private static long nativeThreads() throws IOException {
            try (var tasks = Files.list(Path.of("/proc/self/task"))) {
                return tasks.filter(Forgetting::isOfAnEngine).count();
            }
        }

        private static boolean isOfAnEngine(Path task) {
            try {
                // a thread has its creator's name unless it takes another; Java's main thread is "java"
                return List.of("java", "kvfold-native")
                        .contains(Files.readString(task.resolve("comm")).strip());
            } catch (IOException e) {
                return false; // it has ended
            }
        }
    }
}
