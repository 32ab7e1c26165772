package io.kvfold.reference;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.FlashAttention;
import io.kvfold.KvCacheStats;
import io.kvfold.KvPlan;
import io.kvfold.KvType;
import io.kvfold.RealLibrary;
import io.kvfold.reference.Shape.Architecture;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.stream.IntStream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** What chats take besides the cells of their tokens: checkpoints of windows, and the shift of a full context. */
final class MemoryOfLongChatsTest {
    private static final int LAYERS = 4;
    private static final int WINDOW = 256;
    private static final ObjectMapper JSON = new ObjectMapper();

    /** A row of keys is a page. */
    private static final Shape WIDE = new Shape(Architecture.LLAMA, 96, 48, 80, 8, 8, 128, 1e-5, 10000);

    private static final long ROW = 2L * 8 * 128 * Float.BYTES;

    /** What a checkpoint of all layers holds at most: the window, its sinks and the last ubatch. */
    private static final long CHECKPOINT = LAYERS * (WINDOW + 4 + 64) * ROW;

    /** Of a slot: {@code ctx-checkpoints}. */
    private static final int CHECKPOINTS = 3;

    @TempDir
    private static Path folder;

    @BeforeAll
    static void needsTheLibrary() {
        RealLibrary.require();
    }

    @Test
    void thirtyTurnsUnderAWindowTakeWhatTheLedgerSays() throws IOException {
        assumeTrue(Files.isReadable(Path.of("/proc/self/statm")), "resident memory NOT compared: no /proc/self/statm");
        ComparedModel model = ComparedModel.forAnyPlan(WIDE, LAYERS, 1);
        List<Long> beside = new ArrayList<>();
        try (Engine engine = open(model, "streaming:" + WINDOW, 1 << 14, 1)) {
            List<Integer> chat = new ArrayList<>();
            long opened = residentBytes();
            long most = 0;
            for (int turn = 0; turn < 30; turn++) {
                for (int token : model.tokens(60, turn)) {
                    chat.add(token);
                }
                JsonNode answer = engine.call("/completion", request(chat, 40));
                answer.path("tokens").forEach(token -> chat.add(token.intValue()));
                KvCacheStats.Ledger ledger = engine.kvCacheStats().ledger();
                most = Math.max(most, ledger.checkpoints());
                assertThat(ledger.checkpoints()).as("turn %d", turn).isLessThanOrEqualTo(CHECKPOINTS * CHECKPOINT);
                beside.add(residentBytes() - opened - ledger.total());
            }
            System.out.printf(
                    "%d tokens: %s, checkpoints at most %d; resident beside the ledger %s%n",
                    chat.size(), engine.kvCacheStats().ledger(), most, beside);
            assertThat(most).isPositive();
        }
        // the first turns touch what every engine does; after that only the ledger may grow. Now and then malloc keeps
        // a
        // copy that is gone, so it is the turn in the middle that counts
        List<Long> growth = IntStream.range(5, 30)
                .mapToObj(turn -> beside.get(turn) - beside.get(turn - 1))
                .sorted()
                .toList();
        assertThat(growth.size() * growth.get(growth.size() / 2)).isLessThan(CHECKPOINT);
        assertThat(beside.get(29)).isLessThan(3 * CHECKPOINT);
    }

    @Test
    void checkpointsGiveWayToTokens() throws IOException {
        ComparedModel model = ComparedModel.forAnyPlan(WIDE, LAYERS, 1);
        long budget = CHECKPOINT * 5 / 2; // the windows of two slots, and no copy of either
        try (Engine free = open(model, "streaming:" + WINDOW, 4096, 2);
                Engine engine = open(model, "streaming:" + WINDOW, 4096, 2, budget)) {
            for (int i = 0; i < 6; i++) {
                List<Integer> prompt = new ArrayList<>();
                for (int token : model.tokens(600, i)) {
                    prompt.add(token);
                }
                JsonNode answer = engine.call("/completion", request(prompt, 20));
                KvCacheStats stats = engine.kvCacheStats();
                assertThat(stats.ledger().total()).isLessThanOrEqualTo(budget);
                assertThat(stats.bytesBudget()).isEqualTo(budget);
                assertThat(answer.path("tokens"))
                        .isEqualTo(free.call("/completion", request(prompt, 20)).path("tokens"));
            }
        }
    }

    @Test
    void theFirstShiftOfAContextTakesNoMoreThanItsTokens() throws IOException {
        assumeTrue(Files.isWritable(Path.of("/proc/self/clear_refs")), "peak memory NOT compared: no /proc");
        ComparedModel model = ComparedModel.forAnyPlan(WIDE, LAYERS, 1);
        try (Engine engine = builder(model, "standard", 1024, 8)
                .option("context-shift", true)
                .open()) {
            List<Integer> prompt = new ArrayList<>();
            for (int token : model.tokens(900, 1)) {
                prompt.add(token);
            }
            engine.call("/completion", request(prompt, 1));
            Files.writeString(Path.of("/proc/self/clear_refs"), "5"); // the peak is from here
            long before = peakBytes();
            JsonNode answer = engine.call("/completion", request(prompt, 300));
            assertThat(answer.path("tokens")).hasSize(300);
            KvCacheStats stats = engine.kvCacheStats();
            System.out.printf(
                    "after a shift: %d of %d bytes committed, peak %d above%n",
                    stats.bytesCommitted(), stats.bytesAllocated(), peakBytes() - before);
            assertThat(peakBytes() - before).as("keys of all slots are 128 MiB").isLessThan(32 << 20);
            assertThat(stats.bytesAllocated()).as("of all slots").isEqualTo(8 * 1024 * LAYERS * ROW);
            assertThat(stats.bytesCommitted()).isLessThanOrEqualTo((1024 + 256) * LAYERS * ROW);
        }
    }

    /** Cells of one slot end, and those of the next begin, within a page. */
    @Test
    void slotsWithCellsOfTheirOwnLeaveNothingBehind() throws IOException {
        Shape shape = new Shape(Architecture.LLAMA, 96, 48, 80, 4, 2, 64, 1e-5, 10000);
        ComparedModel model = ComparedModel.forAnyPlan(shape, LAYERS, 1);
        List<Integer> prompt = List.of(1, 2, 3, 4, 5, 6);
        try (Engine engine = builder(model, "standard", 700, 8)
                .kvCacheTypes(KvType.Q8_0, KvType.Q8_0)
                .option("kv-unified", false)
                .open()) {
            for (int slot = 0; slot < 8; slot++) {
                engine.call(
                        "/completion",
                        request(prompt, 1).put("cache_prompt", false).put("id_slot", slot));
            }
            KvCacheStats stats = engine.kvCacheStats();
            assertThat(stats.bytesInUse()).isZero();
            assertThat(stats.bytesCommitted()).isZero();
        }
    }

    /** Heads of 64 are rotated by a Hadamard matrix when they are quantised, others are not. */
    @ParameterizedTest
    @ValueSource(ints = {64, 96})
    void quantisedKeysAreShifted(int headSize) throws IOException {
        Shape shape = new Shape(Architecture.LLAMA, 96, 48, 80, 4, 2, headSize, 1e-5, 10000);
        ComparedModel model = ComparedModel.forAnyPlan(shape, LAYERS, 1);
        try (Engine engine = builder(model, "standard", 256, 1)
                .kvCacheTypes(KvType.Q8_0, KvType.Q8_0)
                .option("context-shift", true)
                .open()) {
            List<Integer> prompt = new ArrayList<>();
            for (int token : model.tokens(200, 1)) {
                prompt.add(token);
            }
            assertThat(engine.call("/completion", request(prompt, 400)).path("tokens"))
                    .hasSize(400);
        }
    }

    private static Engine open(ComparedModel model, String plan, int context, int slots) throws IOException {
        return builder(model, plan, context, slots).open();
    }

    private static Engine open(ComparedModel model, String plan, int context, int slots, long budget)
            throws IOException {
        return builder(model, plan, context, slots).kvBudget(budget).open();
    }

    private static Engine.Builder builder(ComparedModel model, String plan, int context, int slots) throws IOException {
        KvPlan parsed = KvPlan.parse(plan, LAYERS);
        Path file = model.writeForText(Files.createTempFile(folder, "chat", ".gguf"), KvPlan.of(parsed.kvLayers()));
        return Engine.builder()
                .model(file)
                .kvPlan(parsed)
                .contextSize(context)
                .slots(slots)
                .threads(1)
                .ubatchSize(64)
                .flashAttention(FlashAttention.ON)
                .kvCacheTypes(KvType.F32, KvType.F32);
    }

    private static ObjectNode request(List<Integer> prompt, int answer) {
        ObjectNode body = JSON.createObjectNode()
                .put("n_predict", answer)
                .put("ignore_eos", true)
                .put("temperature", 0.0)
                .put("return_tokens", true);
        prompt.forEach(body.withArray("prompt")::add);
        return Objects.requireNonNull(body);
    }

    private static long peakBytes() throws IOException {
        return Files.readAllLines(Path.of("/proc/self/status")).stream()
                        .filter(line -> line.startsWith("VmHWM:"))
                        .mapToLong(line -> Long.parseLong(line.replaceAll("\\D", "")))
                        .sum()
                * 1024;
    }

    private static long residentBytes() throws IOException {
        return Long.parseLong(Files.readString(Path.of("/proc/self/statm")).split(" ")[1]) * 4096;
    }
}
