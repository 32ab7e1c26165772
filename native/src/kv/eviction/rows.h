// Keys and values of some cells of a cache as bytes, out of the cache and into it.
#pragma once

#include "kv/memory/caches.h"

#include <cstddef>
#include <cstdint>
#include <vector>

struct ggml_tensor;

namespace kvfold {

// What a layer holds of a sequence: keys or values of each of its cells, one row after the other, head after head in each.
class cell_rows {
public:
    // Of n_heads heads with n_embd elements each. `transposed`: the tensor has a row for each element. Reads what is there, so
    // nothing may be computing with it.
    cell_rows(const ggml_tensor * tensor, bool transposed, uint32_t stream, std::vector<uint32_t> cells, uint32_t n_heads, uint32_t n_embd);

    uint32_t n() const { return (uint32_t) cells.size(); }

    // F32 [n][n_embd]. `n_rotated`: elements that llama.cpp has turned together before it stored them; 0: none.
    std::vector<float> head(uint32_t h, uint32_t n_rotated) const;

    // Writes to the first of `to` what the heads choose of these rows; all of them choose equally many.
    void write(const std::vector<std::vector<uint32_t>> & chosen, const std::vector<uint32_t> & to) const;

private:
    template <typename F> void for_each_piece(const std::vector<uint32_t> & cells, F && what) const;

    const ggml_tensor * const tensor;
    const bool                transposed;
    const uint32_t            stream;
    const uint32_t            n_heads;
    const uint32_t            n_embd;
    const size_t              head_bytes;
    const size_t              row_bytes;
    std::vector<uint32_t>     cells;
    std::vector<uint8_t>      bytes; // [n][row_bytes]
};

} // namespace kvfold
