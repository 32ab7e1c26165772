// What of a KV cache's memory is really there.
#pragma once

#include <cstdint>

struct ggml_backend_buffer;

namespace kvfold {

// Bytes of a buffer that take memory now; all of it where memory is not committed as it fills. May be called while
// another thread computes.
uint64_t committed_bytes(const ggml_backend_buffer * buffer);

} // namespace kvfold
