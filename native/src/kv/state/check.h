// Whether llama.cpp can be given a state without ending the process over it.
#pragma once

#include "kv/state/state.h"

namespace kvfold {

// Throws std::runtime_error.
void check_state(const kv_state & state, const llama_context * context);

} // namespace kvfold
