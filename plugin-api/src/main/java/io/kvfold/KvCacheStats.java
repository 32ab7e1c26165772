package io.kvfold;

import java.util.List;
import org.jspecify.annotations.Nullable;

/**
 * The KV cache of an engine at one moment.
 *
 * @param cells tokens the cache can hold, all slots together
 * @param cellsUsed tokens it holds
 * @param layers of the model that attend
 * @param layersWithStorage those that keep keys and values of their own
 * @param bytesPerToken the key row and the value row of one token, summed over the layers with storage
 * @param bytesAllocated by the cache on all devices; address space where memory is committed as it fills
 * @param bytesCommitted what of it takes memory now: in host memory on Linux the pages that hold tokens, elsewhere all
 * @param bytesInUse what the keys and values of the tokens it holds take; they fill the last of their pages in part
 * @param bytesBudget see {@link Engine.Builder#kvBudget}; null if there is none
 * @param bytesPromised what of the budget is set aside for requests, running or about to; 0 if there is none
 * @param slots requests that can be decoded side by side
 * @param slotsBusy those that are
 * @param requestsWaiting requests that wait to begin: for a slot, or for room in the cache
 * @param requestsSuspended requests that have begun and gave their cells up for others; they compute their tokens again when
 *     there is room, and go on where they were
 * @param preemptions how often that has happened since the engine was opened
 * @param tokensRecomputed tokens of answers that were computed again because of it
 * @param byLayer the layers with storage, in their order
 * @param bySlot every slot, in their order
 * @param lazyLayers for each slot the layers that turned out lazy for what it holds, in order; no slot at all under a plan
 *     without {@linkplain KvPlan#automaticRetention() automatic retention}
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
        long bytesPromised,
        int slots,
        int slotsBusy,
        int requestsWaiting,
        int requestsSuspended,
        long preemptions,
        long tokensRecomputed,
        List<Layer> byLayer,
        List<Slot> bySlot,
        List<List<Integer>> lazyLayers) {

    /** Copies the lists. */
    public KvCacheStats {
        byLayer = List.copyOf(byLayer);
        bySlot = List.copyOf(bySlot);
        lazyLayers = lazyLayers.stream().map(List::copyOf).toList();
    }

    /**
     * What one layer takes; as of the whole cache.
     *
     * @param layer its number in the model, from 0
     */
    public record Layer(int layer, long bytesAllocated, long bytesCommitted, long bytesInUse) {}

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
