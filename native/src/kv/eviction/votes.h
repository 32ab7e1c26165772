// What queries have said of the rows of a sequence, and how a saved state has it.
#pragma once

#include <cstdint>
#include <vector>

struct llama_hparams;
class  llama_io_read_i;
class  llama_io_write_i;

namespace kvfold {

// [producer][head][row]; none of a layer that nobody asks. Where queries mark keys first those of all heads that say how often a row was
// marked, then those that say which query did last.
using votes_by_head = std::vector<std::vector<std::vector<float>>>;

// The number of layers, 0 or all; of each the number of heads, and of each head that of its rows and what they have. Numbers are uint32_t.
void write_votes(llama_io_write_i & io, const votes_by_head & votes);

// Throws std::runtime_error if there are other layers or heads. The rest of a saved conversation has been checked (kv/state/check.cpp).
votes_by_head read_votes(llama_io_read_i & io, const llama_hparams & hparams);

// Lists of votes that a layer with n_heads KV heads has.
uint32_t n_votes_of(const llama_hparams & hparams, uint32_t n_heads);

} // namespace kvfold
