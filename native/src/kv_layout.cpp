#include "kv_layout.h"

#include "kv_caches.h"
#include "kv_memory.h"

#include "llama-ext.h"
#include "llama-kv-cache.h"
#include "llama.h"

#include <algorithm>
#include <set>

namespace kvfold {

static void add_tensor(kv_layout & layout, const ggml_tensor * tensor, bool seen) {
    layout.bytes_per_token += seen ? 0 : ggml_row_size(tensor->type, tensor->ne[0]);
    layout.bytes_allocated += ggml_nbytes(tensor);
    const auto & known = layout.buffers;
    if (tensor->buffer && std::find(known.begin(), known.end(), tensor->buffer) == known.end()) {
        layout.buffers.push_back(tensor->buffer);
    }
}

kv_layout read_kv_layout(const llama_context * context) {
    const llama_memory_t memory = llama_get_memory(context);
    const auto           caches = kv_caches_of(memory);
    kv_layout            layout;
    std::set<uint32_t>   layers;

    for (const llama_kv_cache * cache : caches) {
        layout.cells = std::max<uint64_t>(layout.cells, (uint64_t) cache->get_size() * cache->get_n_stream());
        for (const kv_tensors & tensors : kv_tensors_of(*cache)) {
            const bool seen = !layers.insert(tensors.il).second; // in both caches, and its rows end up in one
            layout.layers_with_storage += !seen;
            add_tensor(layout, tensors.k, seen);
            if (tensors.v) {
                add_tensor(layout, tensors.v, seen);
            }
        }
    }
    if (memory && caches.empty()) {
        // another kind of state: only its total size is known
        for (const auto & [_, bytes] : llama_get_memory_breakdown(context)) {
            layout.bytes_allocated += bytes.context;
        }
    }
    return layout;
}

uint64_t bytes_committed(const kv_layout & layout) {
    if (layout.buffers.empty()) {
        return layout.bytes_allocated;
    }
    uint64_t bytes = 0;
    for (const ggml_backend_buffer * buffer : layout.buffers) {
        bytes += committed_bytes(buffer);
    }
    return bytes;
}

} // namespace kvfold
