// What is left of the tokens of a sequence that has lost some.
#pragma once

#include "hooks/kv-plan.h"

#include "llama.h"

#include <cstdint>
#include <functional>
#include <vector>

class llama_io_write_i;

namespace kvfold {

struct evicted {
    std::vector<llama_pos> points;      // tokens that the sequence had each time it lost some, ascending
    std::vector<llama_pos> begins;      // those that it had when the prompt, or its chunk, that ended there began; in an answer the same
    std::vector<llama_pos> prompts;     // where noise is added: those that it had when the prompt had ended to which the tokens before the beginning answer
    llama_pos              prompt = 0;  // those that it had when its last prompt had ended
    uint32_t               n_cells = 0; // of the tokens up to the last point
    std::vector<uint32_t>  n_rows;      // by producer, in the first of these cells

    // The first tokens of the sequence, whose cells are no tokens any more; 0: none has gone.
    llama_pos n_compact() const { return points.empty() ? 0 : points.back(); }

    // As a saved state has it: where noise is added `prompt`; the number of points; each with its beginning and where noise is added its
    // prompt; and unless there are none n_cells, and n_rows of each layer. All of them uint32_t.
    void write(llama_io_write_i & io, const kvfold_plan & plan) const;

    // Throws std::runtime_error if no sequence under the plan can be so.
    static evicted read(const kvfold_plan & plan, const std::function<uint32_t()> & next);
};

} // namespace kvfold
