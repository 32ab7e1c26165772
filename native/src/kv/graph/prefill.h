// Chunks and passes of prefill under a plan with upward readers.
#pragma once

#include "hooks/kv-plan-prefill.h"

// Passes over a ubatch that holds n_seq_tokens tokens of each of its sequences; 1 without upward readers.
uint32_t kvfold_n_passes(const kvfold_plan & plan, int32_t prefill, uint32_t n_seq_tokens);

// Share of the model's layers that every further pass computes again.
float kvfold_iterated_share(const kvfold_plan & plan);

// Tokens per sequence of the next ubatch, when n_seqs sequences each have at least n_left tokens left. With `verifies` no
// more than are exact.
uint32_t kvfold_choose_seq_tokens(
        const kvfold_split_policy & policy, uint32_t n_seqs, uint32_t n_left, uint32_t n_ubatch, bool verifies);
