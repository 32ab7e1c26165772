// Passes over a ubatch under a plan with upward readers.
#pragma once

#include "hooks/kv-plan-prefill.h"

#include <cstdint>

// Passes over a ubatch that holds n_seq_tokens tokens of each of its sequences; 1 without upward readers.
uint32_t kvfold_n_passes(const kvfold_plan & plan, int32_t prefill, uint32_t n_seq_tokens);

// Share of the model's layers that every further pass computes again.
float kvfold_iterated_share(const kvfold_plan & plan);

namespace kvfold {

// Whether a chunk never has more tokens of a sequence than passes.
bool is_exact(const kvfold_plan & plan, int32_t prefill);

// Passes over a chunk that is long enough.
uint32_t max_passes(const kvfold_plan & plan, int32_t prefill);

} // namespace kvfold
