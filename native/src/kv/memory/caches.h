// The caches with keys and values that a context's memory consists of, and their tensors.
#pragma once

#include <cstdint>
#include <vector>

struct ggml_tensor;
struct llama_memory_i;
class  llama_kv_cache;

namespace kvfold {

struct kv_tensors {
    uint32_t            il;
    const ggml_tensor * k;            // [row, cells, streams]
    const ggml_tensor * v;            // the same shape; null where keys hold the values as well (MLA)
    bool                v_transposed; // a stream's memory is [cells, row]
};

// One, or two where some layers have a window-sized cache; none of a memory of another kind.
std::vector<const llama_kv_cache *> kv_caches_of(const llama_memory_i * memory);

std::vector<kv_tensors> kv_tensors_of(const llama_kv_cache & cache);

} // namespace kvfold
