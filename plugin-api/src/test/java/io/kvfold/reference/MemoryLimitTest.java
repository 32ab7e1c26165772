package io.kvfold.reference;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.abort;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.ForkedJvm;
import io.kvfold.Generation;
import io.kvfold.KvCacheStats;
import io.kvfold.KvPlan;
import io.kvfold.RealLibrary;
import io.kvfold.reference.Shape.Architecture;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;

/** A process that may have a part of what its requests need lives, and answers all of them. */
@EnabledOnOs(OS.LINUX)
final class MemoryLimitTest {
    private static final int LAYERS = 8;
    private static final int REQUESTS = 60;
    private static final int PROMPT = 560;
    private static final int ANSWER = 40;

    /** 64 KiB of F16 for each token: 37 MiB for a request, 2.2 GiB for all of them. */
    private static final Shape WIDE = new Shape(Architecture.LLAMA, 96, 48, 80, 16, 16, 128, 1e-5, 10000);

    @TempDir
    private static Path folder;

    private static Path model;

    @BeforeAll
    static void writeTheModel() throws IOException {
        RealLibrary.require();
        model = ComparedModel.forAnyPlan(WIDE, LAYERS, 1)
                .writeForText(folder.resolve("wide.gguf"), KvPlan.standard(LAYERS));
    }

    @Test
    void aControlGroup() throws IOException {
        inControlGroup(0);
    }

    /** What a caller promised is not there: pages are refused when they are to be committed. */
    @Test
    void aControlGroupThatIsSmallerThanTheBudget() throws IOException {
        inControlGroup(2L << 30);
    }

    private static void inControlGroup(long budget) throws IOException {
        String limit = Long.toString(512 << 20);
        Path root = Path.of("/sys/fs/cgroup");
        boolean old = Files.isDirectory(root.resolve("memory")); // version 1
        Path group = (old ? root.resolve("memory") : root)
                .resolve("kvfold-test-" + ProcessHandle.current().pid());
        try {
            Files.createDirectory(group);
        } catch (IOException e) {
            abort("not run: a control group cannot be made here: " + e);
        }
        try {
            try {
                Files.writeString(group.resolve(old ? "memory.limit_in_bytes" : "memory.max"), limit);
            } catch (IOException e) {
                abort("not run: this control group limits no memory: " + e);
            }
            run("echo $$ > " + group.resolve("cgroup.procs"), budget);
        } finally {
            Files.delete(group);
        }
    }

    private static void run(String setUp, long budget) {
        String output = new ForkedJvm()
                .after(setUp)
                .withRealLibrary()
                .with("-Xmx64m")
                .with("-XX:CompressedClassSpaceSize=64m")
                .with("-XX:ReservedCodeCacheSize=64m")
                .with("-XX:+UseSerialGC")
                .withEnvironment("MALLOC_ARENA_MAX", "2")
                .within(Duration.ofMinutes(5))
                .run(Requests.class, model.toString(), Long.toString(budget))
                .outputOfSuccess();
        System.out.println(output.strip());
        assertThat(output).contains("all " + REQUESTS + " answered");
    }

    static final class Requests {
        private Requests() {}

        public static void main(String[] args) {
            Engine.Builder builder = Engine.builder()
                    .model(Path.of(args[0]))
                    .contextSize(1024)
                    .slots(20)
                    .threads(1);
            if (!args[1].equals("0")) {
                builder.kvBudget(Long.parseLong(args[1]));
            }
            ComparedModel tokens = ComparedModel.forAnyPlan(WIDE, LAYERS, 1);
            try (Engine engine = builder.maxQueue(REQUESTS).open()) {
                List<Generation> running = new ArrayList<>();
                for (int i = 0; i < REQUESTS; i++) {
                    ObjectNode body = new ObjectMapper()
                            .createObjectNode()
                            .put("n_predict", ANSWER)
                            .put("ignore_eos", true)
                            .put("return_tokens", true);
                    for (int token : tokens.tokens(PROMPT, i)) {
                        body.withArray("prompt").add(token);
                    }
                    running.add(engine.complete(body));
                }
                long most = 0;
                for (Generation each : running) {
                    JsonNode answer = each.next();
                    if (answer == null || answer.path("tokens").size() != ANSWER) {
                        throw new AssertionError("not " + ANSWER + " tokens: " + answer);
                    }
                    most = Math.max(most, engine.kvCacheStats().bytesCommitted());
                    each.close();
                }
                KvCacheStats stats = engine.kvCacheStats();
                System.out.printf(
                        "all %d answered: budget %d, at most %d committed of %d that they need, %d preemptions%n",
                        REQUESTS,
                        stats.bytesBudget(),
                        most,
                        (long) REQUESTS * (PROMPT + ANSWER) * stats.bytesPerToken(),
                        stats.preemptions());
            }
        }
    }
}
