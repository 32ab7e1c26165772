// What one sequence has in a ubatch, and what it is doing there.
#pragma once

#include "llama-batch.h"

#include <cstdint>
#include <vector>

struct kv_ubatch_part {
    llama_seq_id           seq_id = -1;
    std::vector<int32_t>   rows;        // its tokens
    std::vector<llama_pos> pos;         // of each of them
    uint32_t               n_outputs = 0;
    bool                   ends_with_output = false;
    bool                   shared    = false; // with another sequence

    llama_pos n_tokens() const { return pos.back() + 1; } // of the sequence, with this ubatch
};

std::vector<kv_ubatch_part> kvfold_ubatch_parts(const llama_ubatch & ubatch);

namespace kvfold {

enum class stage { PROMPT, END_OF_PROMPT, GENERATED, OTHER };

// `prefill` is of kvfold_prefill; in_prompt: the last ubatch of the sequence ended in the middle of a prompt.
stage stage_of(const kv_ubatch_part & part, bool in_prompt, int32_t prefill);

} // namespace kvfold
