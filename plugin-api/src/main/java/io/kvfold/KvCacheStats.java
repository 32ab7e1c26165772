package io.kvfold;

import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * The KV cache of an engine at one moment.
 *
 * @param cells tokens the cache can hold, all slots together
 * @param cellsUsed those that hold a token, of one sequence or of several that begin alike
 * @param layers of the model that attend
 * @param layersWithStorage those that keep keys and values of their own
 * @param bytesPerToken the key row and the value row of one token, summed over the layers with storage
 * @param bytesAllocated by the cache on all devices; address space where memory is committed as it fills
 * @param bytesCommitted what of it takes memory now: in host memory on Linux the pages that hold tokens, elsewhere all
 * @param bytesInUse what the keys and values of the tokens it holds take; they fill the last of their pages in part
 * @param bytesBudget the most that keys and values may take, see {@link Engine.Builder#kvBudget}; null if nothing limits
 *     them
 * @param ledger what counts against it now
 * @param bytesPromised what of the budget is set aside for requests, running or about to; 0 if there is none
 * @param slots requests that can be decoded side by side
 * @param slotsBusy those that are
 * @param requestsWaiting requests that wait to begin: for a slot, or for room in the cache
 * @param requestsSuspended requests that have begun and gave their cells up for others; they compute their tokens again when
 *     there is room, and go on where they were
 * @param preemptions how often that has happened since the engine was opened
 * @param tokensRecomputed tokens of answers that were computed again because of it
 * @param prefixes what requests that begin alike have in common
 * @param lazyAtLeast of the layers that may turn out lazy, how many do by the plan, whatever the prompt
 * @param byLayer the layers with storage, in their order
 * @param bySlot every slot, in their order
 * @param lazyLayers for each slot the layers that turned out lazy for what it holds, in order; no slot at all under a plan
 *     without {@linkplain KvPlan#automaticRetention() automatic retention}
 * @param evictions what prompts lost
 */
public record KvCacheStats(
        long cells,
        long cellsUsed,
        int layers,
        int layersWithStorage,
        long bytesPerToken,
        long bytesAllocated,
        long bytesCommitted,
        long bytesInUse,
        @Nullable Long bytesBudget,
        Ledger ledger,
        long bytesPromised,
        int slots,
        int slotsBusy,
        int requestsWaiting,
        int requestsSuspended,
        long preemptions,
        long tokensRecomputed,
        Prefixes prefixes,
        int lazyAtLeast,
        List<Layer> byLayer,
        List<Slot> bySlot,
        List<List<Integer>> lazyLayers,
        Evictions evictions) {

    /** Copies the lists. */
    public KvCacheStats {
        byLayer = List.copyOf(byLayer);
        bySlot = List.copyOf(bySlot);
        lazyLayers = lazyLayers.stream().map(List::copyOf).toList();
    }

    /**
     * Bytes that keys and values take in all contexts of the engine, those of a draft model and of evaluations included.
     *
     * @param pages committed for cells
     * @param checkpoints copies of what windows held, for prompts that depart from the cached one
     * @param swapped of sequences that gave their cells up, in files of {@link Engine.Builder#swapFolder}: that is no memory
     *     and does not count against the budget
     * @param states buffers of conversations that are saved or restored
     */
    public record Ledger(long pages, long checkpoints, long swapped, long states) {

        /** What counts against the budget. */
        public long total() {
            return pages + checkpoints + states;
        }
    }

    /**
     * What was computed once for several requests.
     *
     * @param prompts prompts that could have begun with what another request had computed, since the engine was opened
     * @param hits those of them that did
     * @param tokensShared their tokens that were not computed again
     * @param kept beginnings of prompts that are kept although their slots have begun something else
     * @param cellsShared cells that would be there once more now if sequences shared none
     * @param bytesSaved what their keys and values would take
     */
    public record Prefixes(long prompts, long hits, long tokensShared, int kept, long cellsShared, long bytesSaved) {

        /** The share of prompts that began with what another request had computed, in [0, 1]; 0 before the first one. */
        public double hitRate() {
            return prompts == 0 ? 0 : (double) hits / prompts;
        }
    }

    /**
     * Tokens that were evicted, since the engine was opened.
     *
     * @param prompts that lost some
     * @param seconds that it took
     * @param bytes of their keys and values
     * @param byLayer the layers with storage, in their order; none before the first eviction
     */
    public record Evictions(long prompts, double seconds, long bytes, List<LayerRows> byLayer) {

        /** Copies the list. */
        public Evictions {
            byLayer = List.copyOf(byLayer);
        }

        /**
         * Rows of keys and values of one layer.
         *
         * @param layer its number in the model, from 0
         * @param kept when prompts had ended
         * @param evicted the others
         */
        public record LayerRows(int layer, long kept, long evicted) {}
    }

    /** What sequences take, whatever the cache holds now. */
    public Rows rows() {
        return new Rows(byLayer, lazyAtLeast);
    }

    /**
     * What one layer takes; as of the whole cache.
     *
     * @param layer its number in the model, from 0
     * @param bytesPerToken the key row and the value row of one token
     * @param window tokens of a sequence that are kept at most; null for a layer that keeps all
     * @param mayBeLazy whether a layer may turn out to keep all tokens or only {@code window} of them, by sequence
     */
    public record Layer(
            int layer,
            long bytesPerToken,
            @Nullable Long window,
            boolean mayBeLazy,
            long bytesAllocated,
            long bytesCommitted,
            long bytesInUse) {

        private long forgotten(long tokens) {
            return window == null ? 0 : bytesPerToken * Math.max(0, tokens - window);
        }
    }

    /**
     * The rows of keys and values that an engine keeps.
     *
     * @param byLayer the layers with storage
     * @param lazyAtLeast as in {@link KvCacheStats}
     */
    public record Rows(List<Layer> byLayer, int lazyAtLeast) {

        /** Copies the list. */
        public Rows {
            byLayer = List.copyOf(byLayer);
        }

        /**
         * Bytes that a sequence of so many tokens takes once it is computed. A layer that keeps a window counts no more than
         * that; of those that may turn out lazy the narrowest {@link #lazyAtLeast} count so, the others all of their tokens.
         */
        public long bytes(long tokens) {
            long all = byLayer.stream()
                    .mapToLong(
                            layer -> layer.bytesPerToken() * tokens - (layer.mayBeLazy() ? 0 : layer.forgotten(tokens)))
                    .sum();
            long lazy = byLayer.stream()
                    .filter(Layer::mayBeLazy)
                    .mapToLong(layer -> layer.forgotten(tokens))
                    .sorted()
                    .limit(lazyAtLeast)
                    .sum();
            return all - lazy;
        }
    }

    /**
     * What one slot holds.
     *
     * @param slot its number, from 0
     * @param busy whether it runs a request
     * @param tokens of its request, or kept of the last one for the next prompt that begins alike
     * @param bytesInUse what their keys and values take; several answers to one prompt count what they share once each
     * @param bytesPromised what of the budget is set aside for its request; 0 if there is none
     */
    public record Slot(int slot, boolean busy, long tokens, long bytesInUse, long bytesPromised) {}
}
