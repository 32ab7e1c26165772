package io.kvfold.reference;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.ForkedJvm;
import io.kvfold.Generation;
import io.kvfold.KvCacheStats;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.RealLibrary;
import io.kvfold.gguf.GgufFile;
import io.kvfold.gguf.GgufType;
import io.kvfold.gguf.MemoryEstimate;
import io.kvfold.reference.Shape.Architecture;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.IntStream;
import org.jspecify.annotations.Nullable;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** How large a folded cache is: as the estimate says, and l / L of the standard one. */
final class FoldedMemoryTest {
    private static final int LAYERS = 8;
    private static final int UBATCH = 32;

    @TempDir
    private static Path folder;

    @BeforeAll
    static void needsTheLibrary() {
        RealLibrary.require();
    }

    private final ComparedModel model = ComparedModel.forAnyPlan(Shape.tiny(Architecture.LLAMA), LAYERS, 1);

    @ParameterizedTest
    @CsvSource({
        "cla:2, F16",
        "cla:3, F32",
        "lckv:2, F16",
        "lckv:2, Q8_0",
        "lckv:2, Q4_0",
        "lckv:0, F32",
        "sandwich-middle:3, BF16",
        "mlkv:2, Q8_0",
        "0_2_1_3_5_4_6_6, F16",
    })
    void aCacheTakesItsShareToTheByte(String text, KvType type) throws IOException {
        KvPlan plan = KvPlan.parse(text, LAYERS);
        Path file = model.write(folder.resolve("share.gguf"));
        KvCacheStats standard = stats(file, KvPlan.standard(LAYERS), type, 1024, 2, false);
        KvCacheStats folded = stats(file, plan, type, 1024, 2, false);

        assertThat(folded.layers()).isEqualTo(LAYERS);
        assertThat(folded.layersWithStorage()).isEqualTo(plan.kvLayerCount());
        assertThat(folded.cells()).isEqualTo(standard.cells());
        assertThat(folded.bytesAllocated() * LAYERS).isEqualTo(standard.bytesAllocated() * plan.kvLayerCount());
        assertThat(folded.bytesPerToken() * LAYERS).isEqualTo(standard.bytesPerToken() * plan.kvLayerCount());
        assertThat(folded.bytesAllocated()).isEqualTo(folded.cells() * folded.bytesPerToken());
    }

    @ParameterizedTest
    @CsvSource({
        "standard, F16, 1, false",
        "cla:2, F16, 4, false",
        "cla:2, F16, 4, true",
        "lckv:2, Q8_0, 1, false",
        "lckv:2, Q4_0, 3, true",
        "yoco:40, F16, 1, false",
        "yoco:40, F32, 4, false",
        "yoco:40, F32, 4, true",
        "0s_1s_1s_3s_3s_3s_0_7s;window=100, F16, 2, false",
        "0sx8;window=100, F16, 2, true",
        "7sx8;window=2000, F16, 1, true",
        "0_1s_2_3s_4_5s_6_7s;window=100;sinks=4, F16, 1, false",
        "0_1s_2_3s_4_5s_6_7s;window=220;sinks=5, Q4_0, 3, true",
        "0_1s_2_3s_4_5s_6_7s;window=999999999;sinks=999999999, Q8_0, 5, true",
        "streaming:40, F16, 4, false",
    })
    void theEstimateFromTheHeaderIsWhatIsAllocated(String text, KvType type, int slots, boolean unified)
            throws IOException {
        KvPlan plan = KvPlan.parse(text, LAYERS);
        Path file = model.write(folder.resolve("estimate.gguf"), plan);
        GgufType stored = GgufType.ofLabel(type.text()).orElseThrow();
        MemoryEstimate estimate = MemoryEstimate.of(GgufFile.open(file), null, stored, stored);
        int context = 1024 * slots;

        KvCacheStats stats = stats(file, null, type, context, slots, unified);

        assertThat(estimate.exact()).as(estimate.note()).isTrue();
        assertThat(stats.bytesAllocated()).isEqualTo(estimate.kvBytes(context, slots, unified, UBATCH));
        assertThat(stats.bytesPerToken()).isEqualTo(estimate.kvBytesPerToken());
    }

    @Test
    void theSameMemoryHoldsMoreContext() throws IOException {
        Path file = model.write(folder.resolve("context.gguf"));
        KvCacheStats standard = stats(file, KvPlan.standard(LAYERS), KvType.F16, 4096, 1, false);
        KvCacheStats folded = stats(file, KvPlan.parse("mlkv:2", LAYERS), KvType.F16, 4 * 4096, 1, false);
        assertThat(folded.bytesAllocated()).isEqualTo(standard.bytesAllocated());
        assertThat(folded.cells()).isEqualTo(4 * standard.cells());
    }

    @ParameterizedTest
    @CsvSource({"standard", "lckv:2", "cla:2", "0_1s_2_3s_4_5s_6_7s;window=100;sinks=4"})
    void theProcessGrowsByWhatIsUsedAndShrinksWhenARequestLeavesNothing(String text) throws IOException {
        assumeTrue(hasStatm(), "resident memory NOT compared: no /proc/self/statm");
        KvPlan plan = KvPlan.parse(text, LAYERS);
        Shape realistic = new Shape(Architecture.LLAMA, 96, 48, 80, 8, 8, 128, 1e-5, 10000); // in its rows of keys
        ComparedModel compared = ComparedModel.forAnyPlan(realistic, LAYERS, 1);
        Path file = compared.writeForText(folder.resolve("resident.gguf"), plan);
        int context = 1 << 14;
        try (Engine engine = open(file, plan, KvType.F32, 2048, 1, false)) {
            for (int i = 0; i < 3; i++) { // what only the first engine of a process takes, and the JVM for such prompts
                complete(engine, compared.tokens(1024, 4 + i), false);
            }
        }
        long before = residentBytes();
        try (Engine engine = open(file, plan, KvType.F32, context, 1, false)) {
            KvCacheStats opened = engine.kvCacheStats();
            assertThat(opened.bytesAllocated()).isGreaterThan(100 << 20);
            assertThat(opened.bytesCommitted()).isLessThan(1 << 20);
            assertThat(residentBytes() - before).as("resident after opening").isLessThan(24 << 20);

            complete(engine, compared.tokens(64, 1), true);
            long residentSmall = residentBytes();
            complete(engine, compared.tokens(1024, 2), true);
            KvCacheStats large = engine.kvCacheStats();
            long grown = residentBytes() - residentSmall;
            System.out.printf(
                    "%s: %d of %d bytes committed for %d tokens, process grew by %d%n",
                    text, large.bytesCommitted(), large.bytesAllocated(), large.cellsUsed(), grown);
            long rows = large.bytesPerToken() / large.layersWithStorage();
            long windowCells = plan.window().isPresent() ? 4 + 100 + 1 + 32 : 0; // what they keep, and a batch
            long lazy = IntStream.range(0, LAYERS).filter(plan::keepsOnlyWindow).count();
            long used = rows * ((large.layersWithStorage() - lazy) * large.cellsUsed() + lazy * windowCells);
            assertThat((double) large.bytesCommitted()).isCloseTo(used, within(0.05 * used));
            assertThat(large.bytesInUse()).isLessThanOrEqualTo(large.bytesCommitted());
            long checkpoint = lazy > 0 ? 4 << 20 : 0; // of the window, beside the KV cache
            assertThat(grown)
                    .isBetween(large.bytesCommitted() * 3 / 4, large.bytesCommitted() + (4 << 20) + checkpoint);

            complete(engine, compared.tokens(1024, 3), false);
            KvCacheStats empty = engine.kvCacheStats();
            assertThat(empty.cellsUsed()).isZero();
            assertThat(empty.bytesCommitted()).isLessThan(1 << 20);
            assertThat(residentBytes() - residentSmall)
                    .as("resident after the last request")
                    .isLessThan(16 << 20); // what malloc keeps of a checkpoint of the window
        }
    }

    /** 32,768 tokens with SimLayerKV's 4 + 1,024, at an eighth of the size. */
    @Test
    void halfOfTheLayersLazyInFourBitsTakesAFifth() throws IOException {
        int tokens = 4096;
        int window = 128;
        KvPlan standard = KvPlan.standard(LAYERS);
        KvPlan lazy = KvPlan.parse("0_1s_2_3s_4_5s_6_7s;window=" + window + ";sinks=4");
        double full = committed(standard, KvType.F16, tokens);
        long cells = 4 + window + 1 + 32; // what it keeps, and a batch
        assertThat(committed(lazy, KvType.F16, tokens) / full)
                .isCloseTo((0.5 * tokens + 0.5 * cells) / tokens, within(0.02));
        assertThat(committed(lazy, KvType.Q4_0, tokens) / full).isLessThan(0.2);
    }

    private long committed(KvPlan plan, KvType type, int tokens) throws IOException {
        Shape wide = new Shape(Architecture.LLAMA, 64, 32, 80, 4, 4, 64, 1e-5, 10000); // 256 values in a row
        ComparedModel compared = ComparedModel.forAnyPlan(wide, LAYERS, 1);
        Path file = compared.writeForText(folder.resolve("fifth.gguf"), plan);
        try (Engine engine = open(file, plan, type, tokens + 256, 1, false)) {
            complete(engine, compared.tokens(tokens, 1), true);
            return engine.kvCacheStats().bytesCommitted();
        }
    }

    /** In a JVM of its own, whose heap, compiler and arenas of malloc do not grow meanwhile. */
    @Test
    void manyRequestsLeaveNothing() throws IOException {
        Path file = model.writeForText(folder.resolve("many.gguf"), ManyRequests.PLAN);
        String output = new ForkedJvm()
                .withRealLibrary()
                .with("-Xms64m")
                .with("-Xmx64m")
                .with("-XX:+AlwaysPreTouch")
                .with("-XX:TieredStopAtLevel=1")
                .with("-XX:+UseSerialGC")
                .withEnvironment("MALLOC_ARENA_MAX", "1")
                .within(Duration.ofMinutes(5))
                .run(ManyRequests.class, file.toString())
                .outputOfSuccess();
        System.out.println(output.strip());
        Matcher numbers = Pattern.compile("cells 0, in use 0, committed at most 0, resident grew by (-?\\d+)")
                .matcher(output);
        assertThat(numbers.find()).as(output).isTrue();
        assertThat(Long.parseLong(numbers.group(1)))
                .as("resident after 1,000 requests, against 204")
                .isLessThan(8 << 20);
    }

    static final class ManyRequests {
        static final KvPlan PLAN = KvPlan.parse("0_1s_2_3s_4_5s_6_7s;window=100;sinks=4");

        private ManyRequests() {}

        public static void main(String[] args) throws IOException {
            ComparedModel model = ComparedModel.forAnyPlan(Shape.tiny(Architecture.LLAMA), LAYERS, 1);
            try (Engine engine = open(Path.of(args[0]), PLAN, KvType.F16, 4096, 4, true)) {
                long most = 0;
                long resident = 0;
                for (int round = 0; round < 250; round++) { // 1,000 requests
                    List<Generation> running = new ArrayList<>();
                    for (int slot = 0; slot < 4; slot++) {
                        running.add(engine.complete(body(
                                model.tokens(1 + (37 * round + 61 * slot) % 220, slot), false)));
                    }
                    for (Generation generation : running) {
                        if (generation.next() == null) {
                            throw new AssertionError("no answer in round " + round);
                        }
                        generation.close();
                    }
                    most = Math.max(most, engine.kvCacheStats().bytesCommitted());
                    if (round == 50 && hasStatm()) {
                        resident = residentBytes();
                    }
                }
                KvCacheStats stats = engine.kvCacheStats();
                System.out.printf(
                        "cells %d, in use %d, committed at most %d, resident grew by %d%n",
                        stats.cellsUsed(), stats.bytesInUse(), most, hasStatm() ? residentBytes() - resident : 0);
            }
        }
    }

    private static void complete(Engine engine, int[] prompt, boolean keep) {
        assertThat(engine.call("/completion", body(prompt, keep))).isNotNull();
    }

    private static ObjectNode body(int[] prompt, boolean keep) {
        ObjectNode body =
                new ObjectMapper().createObjectNode().put("n_predict", 2).put("cache_prompt", keep);
        for (int token : prompt) {
            body.withArray("prompt").add(token);
        }
        return body;
    }

    private static KvCacheStats stats(
            Path file, @Nullable KvPlan plan, KvType type, int context, int slots, boolean unified) {
        try (Engine engine = open(file, plan, type, context, slots, unified)) {
            assertThat(engine.info().kv()).isEqualTo(engine.kvCacheStats());
            return engine.kvCacheStats();
        }
    }

    private static Engine open(Path file, @Nullable KvPlan plan, KvType type, int context, int slots, boolean unified) {
        Engine.Builder builder = Engine.builder()
                .model(file)
                .contextSize(context)
                .option("kv-unified-per-slot", context) // so that this is the pool
                .slots(slots)
                .threads(1)
                .ubatchSize(UBATCH)
                .flashAttention(FlashAttention.ON)
                .kvCacheTypes(type, type)
                .option("kv-unified", unified)
                .option("prefix-sharing", false); // nothing is kept beside what the slots hold
        return plan == null ? builder.open() : builder.kvPlan(plan).open();
    }

    private static boolean hasStatm() {
        return Files.isReadable(Path.of("/proc/self/statm"));
    }

    private static long residentBytes() throws IOException {
        return Long.parseLong(Files.readString(Path.of("/proc/self/statm")).split(" ")[1]) * 4096;
    }
}
