// Which cells a sequence gets where all sequences share them: runs of its own, so that its pages come back when it ends, and
// that attention, which skips what a query does not see run by run, reads little of what is others'. What it adds to a beginning that
// it shares lies among cells of others at first, where pages would stay half empty: short questions about one document.
#pragma once

#include "llama.h"

#include <cstdint>
#include <vector>

class  llama_kv_cells;
struct llama_memory_i;

namespace kvfold {

// Of tensors of one kind; 0 where memory is not committed by pages.
struct cell_bytes {
    size_t of_cell = 0;
    size_t of_page = 0;

    size_t   first_page(uint32_t cell) const { return cell*of_cell/of_page; }
    size_t   last_page (uint32_t cell) const { return ((cell + 1)*of_cell - 1)/of_page; }
    uint32_t first_cell(size_t page)   const { return (uint32_t) (page*of_page/of_cell); }

    size_t   cells_in_page() const { return of_cell > 0 ? (of_page + of_cell - 1)/of_cell : 0; }
    uint32_t most_beside_others() const;
};

class placement {
public:
    // As many keys as the attention kernel looks at together.
    static constexpr uint32_t least_run = 64;

    // Of each kind of tensors, that of which most cells share a page first. At least one.
    placement(uint32_t n_cells, std::vector<cell_bytes> kinds);

    // Free cells for tokens of these sequences, of which there must be as many. A sequence goes on in its run, then has one that is
    // free, and shares what is left when there is none. One that has forgotten earlier tokens has the first free cells of its runs,
    // so that alone it has no more pages than its cells fill. As long as one that shares cells has fewer of its own than fill eight
    // pages (at least 64, at most 512), it gets no new page while more than a thirty-second of those in use is free: it gets that. If
    // pages are spared, nobody gets one, of any kind if that can be, as long as any cell of those in use is free. For the same cells and sequences before, the
    // same again.
    std::vector<uint32_t> choose(const llama_kv_cells & cells, const std::vector<llama_seq_id> & seq_ids);

    bool spares_pages = false;

    // The sequence has been moved, to cells up to this one.
    void moved(llama_seq_id seq_id, uint32_t to) { last[seq_id] = to; }

    uint32_t                        run()   const { return n_run; }
    const std::vector<cell_bytes> & cells() const { return kinds; }

private:
    const std::vector<cell_bytes> kinds;
    const uint32_t                n_run;
    std::vector<uint32_t> last; // cell that a sequence got in runs of its own, it may have lost it since
};

// From the next batch on, in all caches. Whether that is new to any of them.
bool spare_pages(llama_memory_i * memory, bool spares);

} // namespace kvfold
