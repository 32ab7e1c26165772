// What of a KV cache's memory is really there.
#pragma once

#include <cstdint>
#include <functional>

struct ggml_backend_buffer;
struct ggml_backend_buffer_type;
struct ggml_tensor;
class  llama_kv_cache;
class  llama_kv_cells;

namespace kvfold {

// Whether memory of this type is committed as cells fill and goes back as they empty, or is there as a whole.
bool committed_as_it_fills(const ggml_backend_buffer_type * type);

// The unit in which a tensor's memory is committed as it fills; 0 where it is there as a whole.
uint64_t page_size_of(const ggml_tensor * tensor);

// Bytes of a buffer, or of a tensor but the first n_ahead of it, that take memory now; all of them where memory is not committed as
// it fills. These and those below may be called while another thread computes.
uint64_t committed_bytes(const ggml_backend_buffer * buffer);
uint64_t committed_bytes(const ggml_tensor * tensor, uint64_t n_ahead = 0);

// Cells that hold a token: of all sequences, or of one.
uint64_t cells_in_use(const llama_kv_cache & cache);
uint64_t cells_in_use(const llama_kv_cache & cache, int32_t seq_id);

enum class unneeded_cells {
    RECENT,  // used ones among those that were committed since settle_recent()
    USED,
    ALL,     // between two batches
};

// Gives the memory back in which layer il of a cache holds only cells that it does not need.
void release_layer(
        const llama_kv_cache & cache,
        uint32_t il,
        const std::function<bool(const llama_kv_cells & cells, uint32_t cell)> & unneeded,
        unneeded_cells which);

// Copies the rows of layer il of what a sequence has in the second cache from the first one. False if that lacks a token, or if
// there is no memory for them; pages that were committed before are left to release_layer().
bool copy_layer(const llama_kv_cache & from, const llama_kv_cache & to, uint32_t il, int32_t seq_id);

// Cells that are committed for a ubatch to come, and still empty, stay recent.
void settle_recent(const llama_kv_cache & cache);

} // namespace kvfold
