#include "kv_layout.h"

#include "kv_memory.h"

#include "llama-ext.h"
#include "llama-kv-cache.h"
#include "llama.h"

#include <algorithm>
#include <map>
#include <set>

namespace kvfold {

static void add_tensor(kv_layout & layout, kv_layout::cache & cache, const ggml_tensor * tensor, bool seen) {
    const uint64_t row = ggml_row_size(tensor->type, tensor->ne[0]);
    cache.bytes_per_cell   += row;
    layout.bytes_per_token += seen ? 0 : row;
    layout.bytes_allocated += ggml_nbytes(tensor);
    layout.bytes_whole     += page_size_of(tensor) == 0 ? ggml_nbytes(tensor) : 0;
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

    for (const llama_kv_cache * cells : caches) {
        layout.cells = std::max<uint64_t>(layout.cells, (uint64_t) cells->get_size() * cells->get_n_stream());
        kv_layout::cache cache = { cells, cells->get_size(), 0, kv_tensors_of(*cells) };
        for (const kv_tensors & tensors : cache.layers) {
            const bool seen = !layers.insert(tensors.il).second; // in both caches, and its rows end up in one
            layout.layers_with_storage += !seen;
            add_tensor(layout, cache, tensors.k, seen);
            if (tensors.v) {
                add_tensor(layout, cache, tensors.v, seen);
            }
        }
        layout.caches.push_back(std::move(cache));
    }
    if (memory && caches.empty()) {
        // another kind of state: only its total size is known
        for (const auto & [_, bytes] : llama_get_memory_breakdown(context)) {
            layout.bytes_allocated += bytes.context;
        }
        layout.bytes_whole = layout.bytes_allocated;
    }
    return layout;
}

// tensor: [row, cells, streams], or [cells, row, streams] where values are stored transposed
static uint64_t tensor_bytes_for(const ggml_tensor * tensor, bool transposed, uint64_t n_cells) {
    const uint64_t page = page_size_of(tensor);
    if (page == 0 || n_cells == 0) {
        return 0; // there from the beginning
    }
    const auto     pages_of = [&](uint64_t bytes) { return (bytes + page - 1)/page*page; };
    const uint64_t stream   = tensor->nb[2];
    const uint64_t edge     = tensor->ne[2] > 1 && stream % page != 0 ? page : 0; // shared with the next stream
    if (!transposed) {
        return pages_of(n_cells*tensor->nb[1]) + edge;
    }
    const uint64_t piece = n_cells*ggml_type_size(tensor->type);
    return std::min<uint64_t>(pages_of(stream) + edge, tensor->ne[0]*(pages_of(piece) + page));
}

uint64_t kv_layout::bytes_for(const cache & each, uint64_t n_tokens) const {
    const uint64_t n_cells = std::min(n_tokens, each.cells_per_stream);
    uint64_t       bytes   = 0;
    for (const kv_tensors & layer : each.layers) {
        bytes += tensor_bytes_for(layer.k, false, n_cells);
        bytes += layer.v ? tensor_bytes_for(layer.v, layer.v_transposed, n_cells) : 0;
    }
    return bytes;
}

uint64_t kv_layout::bytes_for(uint64_t n_tokens) const {
    uint64_t bytes = 0;
    for (const cache & each : caches) {
        bytes += bytes_for(each, n_tokens);
    }
    return bytes;
}

uint64_t kv_layout::tokens_for(uint64_t bytes) const {
    uint64_t fits = 0, too_many = cells + 1;
    while (too_many - fits > 1) {
        const uint64_t middle = fits + (too_many - fits)/2;
        (bytes_for(middle) <= bytes ? fits : too_many) = middle;
    }
    return fits;
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

uint64_t bytes_in_use(const kv_layout & layout) {
    uint64_t bytes = 0;
    for (const auto & cache : layout.caches) {
        bytes += cells_in_use(*cache.cells)*cache.bytes_per_cell;
    }
    return std::min(bytes, bytes_committed(layout)); // a layer that may be lazy has a cell in both caches
}

uint64_t bytes_in_use(const kv_layout & layout, int32_t seq_id) {
    uint64_t bytes = 0;
    for (const auto & cache : layout.caches) {
        bytes += cells_in_use(*cache.cells, seq_id)*cache.bytes_per_cell;
    }
    return bytes;
}

json describe_layers(const kv_layout & layout) {
    struct sums { uint64_t allocated = 0, committed = 0, in_use = 0; };
    std::map<uint32_t, sums> layers; // one that may be lazy is in both caches
    for (const auto & cache : layout.caches) {
        for (const kv_tensors & layer : cache.layers) {
            uint64_t allocated = 0, committed = 0, per_cell = 0;
            for (const ggml_tensor * tensor : { layer.k, layer.v }) {
                if (tensor) {
                    allocated += ggml_nbytes(tensor);
                    committed += committed_bytes(tensor);
                    per_cell  += ggml_row_size(tensor->type, tensor->ne[0]);
                }
            }
            sums & layer_sums = layers[layer.il];
            layer_sums.allocated += allocated;
            layer_sums.committed += committed;
            layer_sums.in_use    += std::min(committed, cells_in_use(*cache.cells)*per_cell);
        }
    }
    json list = json::array();
    for (const auto & [il, layer] : layers) {
        list.push_back(json({ { "layer", il },
                              { "bytes_allocated", layer.allocated },
                              { "bytes_committed", layer.committed },
                              { "bytes_in_use", layer.in_use } }));
    }
    return list;
}

} // namespace kvfold
