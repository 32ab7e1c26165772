// What a context's KV cache consists of. Read once after loading; the tensors do not move while the engine is open.
#pragma once

#include "json.h"

#include <cstdint>

struct llama_context;

namespace kvfold {

struct kv_layout {
    uint64_t cells               = 0; // tokens that fit, all streams together
    uint64_t layers_with_storage = 0;
    uint64_t bytes_per_token     = 0; // one K row and one V row of every layer with storage
    uint64_t bytes_allocated     = 0; // all K and V tensors
};

kv_layout read_kv_layout(const llama_context * context);

} // namespace kvfold
