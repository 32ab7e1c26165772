// Where every prompt is cut, and what is drafted of an answer, whatever else is in the batch, so that what is decided or evicted on the
// way does not depend on the load.
#pragma once

#include "hooks/kv-plan.h"

#include <cstdint>

struct llama_context;

namespace kvfold {

// Under plans that decide early: whether a prompt is judged when it has so many tokens. It is when it has twice those that a
// window retains, and whenever it has doubled since.
bool is_judged_at(const kvfold_plan & plan, uint64_t n_tokens);

// The next of these, after n_tokens; UINT64_MAX if there is none.
uint64_t next_judged(const kvfold_plan & plan, uint64_t n_tokens);

// How many more tokens a prompt that has n_tokens can have until it is cut; UINT32_MAX if it is not. And likewise an answer.
uint32_t tokens_to_cut(const llama_context * ctx, uint32_t n_tokens);
uint32_t tokens_to_answer_cut(const llama_context * ctx, uint32_t n_tokens);

} // namespace kvfold
