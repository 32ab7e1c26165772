package io.kvfold.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.kvfold.Engine;
import io.kvfold.Generation;
import io.kvfold.GenerationCancelledException;
import io.kvfold.KvCacheStats;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/** The messages of one chat and how it goes on. One thread at a time; {@link #cancel()} from any. */
final class Conversation {

    /** What came of one question. */
    record Answer(boolean cancelled, String finishReason, Timings timings) {}

    private final Engine engine;
    private final SamplingOptions sampling;
    private final @Nullable String system;
    private final ArrayNode messages = JsonNodeFactory.instance.arrayNode();
    private volatile @Nullable Generation running;

    /** @param system the first message, which tells the model how to behave; null for none */
    Conversation(Engine engine, SamplingOptions sampling, @Nullable String system) {
        this.engine = engine;
        this.sampling = sampling;
        this.system = system;
        reset();
    }

    /** Forgets everything that was said. */
    void reset() {
        messages.removeAll();
        if (system != null) {
            add("system", system);
        }
    }

    /**
     * Asks and waits for the end of the answer, which then belongs to the conversation; so does the part of it that came
     * before {@link #cancel()}. A question that fails is forgotten.
     *
     * @param onText gets the answer's text piece by piece
     * @throws io.kvfold.KvfoldException if the model cannot answer, such as when the context is full
     */
    Answer ask(String question, Consumer<String> onText) {
        add("user", question);
        StringBuilder text = new StringBuilder();
        boolean answered = false;
        boolean cancelled = false;
        String finishReason = "";
        Timings timings = Timings.NONE;
        try (Generation generation = engine.chat(body());
                Progress prompt = new Progress("reading", 0, " tokens")) {
            running = generation;
            for (JsonNode chunk = generation.next(); chunk != null; chunk = generation.next()) {
                if (prompt.followPrompt(chunk)) {
                    continue;
                }
                JsonNode choice = chunk.path("choices").path(0);
                String piece = choice.path("delta").path("content").asText("");
                if (!piece.isEmpty()) {
                    prompt.close();
                    text.append(piece);
                    onText.accept(piece);
                }
                finishReason = choice.path("finish_reason").asText(finishReason);
                if (chunk.has("timings")) {
                    timings = Timings.of(chunk.path("timings"));
                }
            }
            answered = true;
        } catch (GenerationCancelledException e) {
            cancelled = true;
            answered = text.length() > 0;
        } finally {
            running = null;
            if (answered) {
                add("assistant", text.toString());
            } else {
                messages.remove(messages.size() - 1);
            }
        }
        return new Answer(cancelled, finishReason, timings);
    }

    /** Ends the running answer, if there is one. */
    void cancel() {
        Generation generation = running;
        if (generation != null) {
            generation.cancel();
        }
    }

    /** One line about the answer and the KV cache behind it. */
    String report(Answer answer) {
        KvCacheStats kv = engine.kvCacheStats();
        String end = answer.cancelled() ? "cancelled; " : answer.finishReason().equals("length") ? "cut off; " : "";
        return Values.format(
                "[%s%s; KV cache %d of %d cells, %s]", end, answer.timings(), kv.cellsUsed(), kv.cells(), memory(kv));
    }

    /** What the KV cache takes: as a whole, layer by layer, and slot by slot with the layers that are lazy in it. */
    List<String> memory() {
        KvCacheStats kv = engine.kvCacheStats();
        List<String> lines = new ArrayList<>();
        lines.add(Values.format("KV cache %d of %d cells, %s", kv.cellsUsed(), kv.cells(), memory(kv)));
        lines.add(Values.format(
                "  %d requests run, %d wait, %d are suspended; %d preemptions, %d tokens computed again",
                kv.slotsBusy(), kv.requestsWaiting(), kv.requestsSuspended(), kv.preemptions(), kv.tokensRecomputed()));
        for (KvCacheStats.Layer layer : kv.byLayer()) {
            lines.add(Values.format(
                    "  layer %-3d %s in use, %s committed of %s",
                    layer.layer(),
                    Values.bytes(layer.bytesInUse()),
                    Values.bytes(layer.bytesCommitted()),
                    Values.bytes(layer.bytesAllocated())));
        }
        for (KvCacheStats.Slot slot : kv.bySlot()) {
            List<Integer> lazy =
                    slot.slot() < kv.lazyLayers().size() ? kv.lazyLayers().get(slot.slot()) : List.of();
            lines.add(Values.format(
                    "  slot %-4d %d tokens%s",
                    slot.slot(), slot.tokens(), lazy.isEmpty() ? "" : ", lazy " + Values.ranges(lazy)));
        }
        KvCacheStats.Ledger ledger = kv.ledger();
        lines.add(Values.format(
                "  memory    %s%s: pages %s, checkpoints %s, states %s; swapped to files %s",
                Values.bytes(ledger.total()),
                kv.bytesBudget() == null ? "" : " of " + Values.bytes(kv.bytesBudget()),
                Values.bytes(ledger.pages()),
                Values.bytes(ledger.checkpoints()),
                Values.bytes(ledger.states()),
                Values.bytes(ledger.swapped())));
        return lines;
    }

    private static String memory(KvCacheStats kv) {
        String lazy = kv.lazyLayers().stream()
                .filter(layers -> !layers.isEmpty())
                .map(Values::ranges)
                .distinct()
                .collect(Collectors.joining(" and "));
        return Values.format(
                "%s in use, %s committed of %s%s",
                Values.bytes(kv.bytesInUse()),
                Values.bytes(kv.bytesCommitted()),
                Values.bytes(kv.bytesAllocated()),
                lazy.isEmpty() ? "" : ", lazy layers " + lazy);
    }

    private ObjectNode body() {
        ObjectNode body = JsonNodeFactory.instance.objectNode();
        body.set("messages", messages.deepCopy());
        body.put("stream", true).put("return_progress", true).put("timings_per_token", true);
        sampling.addTo(body);
        return body;
    }

    private void add(String role, String content) {
        messages.addObject().put("role", role).put("content", content);
    }
}
