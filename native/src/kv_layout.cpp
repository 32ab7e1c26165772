#include "kv_layout.h"

#include "ggml-cpp.h"
#include "llama-ext.h"
#include "llama-hparams.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-cache.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-model.h"
#include "llama.h"

#include <algorithm>

namespace kvfold {

static size_t row_bytes(const ggml_tensor * tensor) {
    return ggml_row_size(tensor->type, tensor->ne[0]);
}

// Adds a cache with plain K and V tensors of shape [row, cells, streams] per layer.
static void add_cache(kv_layout & layout, const llama_kv_cache & cache, bool has_values) {
    layout.cells = std::max<uint64_t>(layout.cells, (uint64_t) cache.get_size() * cache.get_n_stream());

    llama_kv_cache::slot_info first_cell;
    first_cell.s0 = first_cell.s1 = 0;
    for (const uint32_t il : cache.get_layer_ids()) {
        ggml_context_ptr    scratch(ggml_init({ 2 * ggml_tensor_overhead(), nullptr, /*.no_alloc =*/true }));
        const ggml_tensor * keys = cache.get_k_storage(il);
        layout.layers_with_storage++;
        layout.bytes_per_token += row_bytes(keys);
        layout.bytes_allocated += ggml_nbytes(keys);
        if (has_values) {
            const ggml_tensor * values = cache.get_v(scratch.get(), il, 1, first_cell)->view_src;
            layout.bytes_per_token += row_bytes(values);
            layout.bytes_allocated += ggml_nbytes(values);
        }
    }
}

kv_layout read_kv_layout(const llama_context * context) {
    const llama_memory_t memory     = llama_get_memory(context);
    const bool           has_values = !llama_get_model(context)->hparams.is_mla();
    kv_layout            layout;
    auto                 add = [&](const llama_kv_cache * cache) { add_cache(layout, *cache, has_values); };

    if (const auto * plain = dynamic_cast<const llama_kv_cache *>(memory)) {
        add(plain);
    } else if (const auto * windowed = dynamic_cast<const llama_kv_cache_iswa *>(memory)) {
        add(windowed->get_base());
        add(windowed->get_swa());
    } else if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid *>(memory)) {
        add(hybrid->get_mem_attn());
    } else if (const auto * both = dynamic_cast<const llama_memory_hybrid_iswa *>(memory)) {
        add(both->get_mem_attn()->get_base());
        add(both->get_mem_attn()->get_swa());
    } else if (memory) {
        // another kind of state: only its total size is known
        for (const auto & [_, bytes] : llama_get_memory_breakdown(context)) {
            layout.bytes_allocated += bytes.context;
        }
    }
    return layout;
}

} // namespace kvfold
