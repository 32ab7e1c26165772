// Which cells a sequence gets where all sequences share them: runs of its own, so that its pages come back when it ends, and
// that attention, which skips what a query does not see run by run, reads little of what is others'.
#pragma once

#include "llama.h"

#include <cstdint>
#include <vector>

class llama_kv_cells;

namespace kvfold {

class placement {
public:
    // As many keys as the attention kernel looks at together.
    static constexpr uint32_t least_run = 64;

    // `reach`: cells that may share a page; 0 where memory is not committed by pages.
    placement(uint32_t n_cells, uint32_t reach);

    // Free cells for tokens of these sequences, of which there must be as many. A sequence goes on in its run, then has one that is
    // free, and shares what is left when there is none. One that has forgotten earlier tokens has the first free cells of its runs,
    // so that alone it has no more pages than its cells fill. For the same cells and sequences before, the same again.
    std::vector<uint32_t> choose(const llama_kv_cells & cells, const std::vector<llama_seq_id> & seq_ids);

    // The sequence has been moved, to cells up to this one.
    void moved(llama_seq_id seq_id, uint32_t to) { last[seq_id] = to; }

    uint32_t run() const { return n_run; }

private:
    const uint32_t        n_run;
    std::vector<uint32_t> last; // cell that a sequence got, it may have lost it since
};

} // namespace kvfold
