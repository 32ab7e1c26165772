package io.kvfold;

import java.util.List;

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
 * @param slots requests that can be decoded side by side
 * @param slotsBusy those that are
 * @param requestsWaiting requests that wait for a slot
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
        int slots,
        int slotsBusy,
        int requestsWaiting,
        List<List<Integer>> lazyLayers) {

    /** Copies the lists. */
    public KvCacheStats {
        lazyLayers = lazyLayers.stream().map(List::copyOf).toList();
    }
}
