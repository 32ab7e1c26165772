// What a context's KV cache consists of. Read once after loading; the tensors do not move while the engine is open.
#pragma once

#include "json.h"

#include <cstdint>
#include <vector>

struct ggml_backend_buffer;
struct llama_context;

namespace kvfold {

struct kv_layout {
    uint64_t cells               = 0; // tokens that fit, all streams together
    uint64_t layers_with_storage = 0;
    uint64_t bytes_per_token     = 0; // one K row and one V row of every layer with storage
    uint64_t bytes_allocated     = 0; // all K and V tensors; address space where memory is committed as it fills

    std::vector<const ggml_backend_buffer *> buffers; // that hold these tensors
};

kv_layout read_kv_layout(const llama_context * context);

// What of bytes_allocated takes memory now. May be called while another thread computes.
uint64_t bytes_committed(const kv_layout & layout);

} // namespace kvfold
