#include "kv/memory/caches.h"

#include "kv/memory/folded_memory.h"

#include "llama-kv-cache-iswa.h"
#include "llama-kv-cache.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-hybrid.h"

namespace kvfold {

std::vector<const llama_kv_cache *> kv_caches_of(const llama_memory_i * memory) {
    if (const auto * plain = dynamic_cast<const llama_kv_cache *>(memory)) {
        return { plain };
    }
    if (const auto * folded = dynamic_cast<const folded_memory *>(memory)) {
        std::vector<const llama_kv_cache *> caches;
        for (const layer_class & each : folded->classes()) {
            caches.push_back(each.cells.get());
        }
        return caches;
    }
    if (const auto * windowed = dynamic_cast<const llama_kv_cache_iswa *>(memory)) {
        return { windowed->get_base(), windowed->get_swa() };
    }
    if (const auto * hybrid = dynamic_cast<const llama_memory_hybrid *>(memory)) {
        return { hybrid->get_mem_attn() };
    }
    if (const auto * both = dynamic_cast<const llama_memory_hybrid_iswa *>(memory)) {
        return { both->get_mem_attn()->get_base(), both->get_mem_attn()->get_swa() };
    }
    return {};
}

std::vector<kv_tensors> kv_tensors_of(const llama_kv_cache & cache) {
    std::vector<kv_tensors> tensors;
    for (const uint32_t il : cache.get_layer_ids()) {
        tensors.push_back({ il, cache.get_k_storage((int32_t) il), cache.get_v_storage((int32_t) il), cache.is_v_trans() });
    }
    return tensors;
}

} // namespace kvfold
