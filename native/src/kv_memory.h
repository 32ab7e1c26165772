// What of a KV cache's memory is really there.
#pragma once

#include <cstdint>
#include <functional>

struct ggml_backend_buffer;
class  llama_kv_cache;
class  llama_kv_cells;

namespace kvfold {

// Bytes of a buffer that take memory now; all of it where memory is not committed as it fills. May be called while
// another thread computes.
uint64_t committed_bytes(const ggml_backend_buffer * buffer);

// Gives the memory back in which layer il of a cache holds only cells that it does not need.
void release_layer(const llama_kv_cache & cache, uint32_t il, const std::function<bool(const llama_kv_cells & cells, uint32_t cell)> & unneeded);

} // namespace kvfold
