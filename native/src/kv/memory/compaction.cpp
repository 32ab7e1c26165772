#include "kv/memory/compaction.h"

#include "hooks/kv-memory.h"
#include "kv/memory/caches.h"
#include "kv/memory/cell_pages.h"
#include "kv/memory/decided_rows.h"
#include "kv/memory/folded_memory.h"
#include "kv/memory/page_ledger.h"
#include "kv/retention/retention.h"

#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-kv-cells.h"

#include <algorithm>
#include <list>
#include <set>
#include <utility>
#include <vector>

namespace kvfold {

namespace {

struct move {
    uint32_t                  from, to;
    std::vector<llama_seq_id> seq_ids; // whose cell it is
};

std::vector<llama_seq_id> sequences_of(const llama_kv_cells & cells, uint32_t cell) {
    std::vector<llama_seq_id> all;
    for (llama_seq_id seq_id = 0; seq_id < LLAMA_MAX_SEQ; ++seq_id) {
        if (cells.seq_has(cell, seq_id)) {
            all.push_back(seq_id);
        }
    }
    return all;
}

// What lies where before cells are moved.
class page_fill {
public:
    // coarser: of tensors of which more cells share a page, which get no further pages; or null.
    page_fill(const llama_kv_cells & cells, const cell_bytes & bytes, const page_fill * coarser)
        : cells(cells), bytes(bytes), coarser(coarser), n_used(bytes.last_page(cells.size() - 1) + 1) {
        for (uint32_t i = 0; i < cells.used_max_p1(); ++i) {
            for (size_t page = bytes.first_page(i); !cells.is_empty(i) && page <= bytes.last_page(i); ++page) {
                ++n_used[page];
            }
        }
        for (size_t page = 0; page < n_used.size(); ++page) {
            if (n_used[page] > 0) {
                ++n_in_use;
                if (n_used[page] < end_of(page) - bytes.first_cell(page)) {
                    in_part.push_back(page);
                }
            }
        }
        std::stable_sort(in_part.begin(), in_part.end(), [&](size_t a, size_t b) { return n_used[a] < n_used[b]; });
    }

    bool is_sparse() const {
        size_t n_seqs = 0;
        for (llama_seq_id seq_id = 0; seq_id < LLAMA_MAX_SEQ; ++seq_id) {
            n_seqs += cells.seq_cells(seq_id) > 0;
        }
        const size_t n_bytes = cells.get_used()*bytes.of_cell;
        return in_part.size() > n_seqs && n_in_use*bytes.of_page > n_bytes + n_bytes/16;
    }

    // Whether cells of more than one page could lie on one.
    bool can_move() const { return in_part.size() > 1; }

    // From the emptiest pages into the fullest of those that are filled in part.
    std::vector<move> moves() const {
        std::vector<move>     all;
        std::vector<bool>     gone(n_used.size());  // by page
        std::vector<bool>     moved(cells.size());
        size_t                fullest = in_part.size();
        std::vector<uint32_t> free; // cells on pages that stay, the last one is to be filled first
        for (size_t emptiest = 0; emptiest < fullest; ++emptiest) {
            const size_t          page = in_part[emptiest];
            std::vector<uint32_t> own;
            gone[page] = true;
            for (uint32_t i = bytes.first_cell(page); i < end_of(page); ++i) {
                if (!cells.is_empty(i) && !moved[i]) {
                    own.push_back(i);
                }
            }
            while (free.size() < own.size() && fullest > emptiest + 1) {
                const auto more = free_of(in_part[--fullest], gone);
                free.insert(free.begin(), more.rbegin(), more.rend());
            }
            if (free.size() < own.size()) {
                break;
            }
            for (const uint32_t i : own) {
                all.push_back({ i, free.back(), sequences_of(cells, i) });
                free.pop_back();
                moved[i] = true;
            }
        }
        return all;
    }

private:
    // Whether a cell lies on pages in use.
    bool has(uint32_t cell) const {
        bool in_use = !coarser || coarser->has(cell);
        for (size_t page = bytes.first_page(cell); page <= bytes.last_page(cell); ++page) {
            in_use = in_use && n_used[page] > 0;
        }
        return in_use;
    }

    uint32_t end_of(size_t page) const {
        const uint32_t next = bytes.first_cell(page + 1);
        return std::min(cells.size(), bytes.first_page(next) <= page ? next + 1 : next);
    }

    std::vector<uint32_t> free_of(size_t page, const std::vector<bool> & gone) const {
        std::vector<uint32_t> cells_of_page;
        for (uint32_t i = bytes.first_cell(page); i < end_of(page); ++i) {
            bool stays = cells.is_empty(i) && page == bytes.first_page(i) && (!coarser || coarser->has(i)); // once, where it lies on two
            for (size_t p = bytes.first_page(i); p <= bytes.last_page(i); ++p) {
                stays = stays && n_used[p] > 0 && !gone[p];
            }
            if (stays) {
                cells_of_page.push_back(i);
            }
        }
        return cells_of_page;
    }

    const llama_kv_cells & cells;
    const cell_bytes &     bytes;
    const page_fill *      coarser;
    std::vector<uint32_t>  n_used; // cells that lie there, by page
    std::vector<size_t>    in_part; // pages, the emptiest first
    size_t                 n_in_use = 0;
};

} // namespace

// Bytes of the memory behind these.
static uint64_t committed(const std::vector<cell_area> & areas) {
    std::set<const page_map *> all;
    for (const cell_area & area : areas) {
        if (area.pages) {
            all.insert(area.pages);
        }
    }
    uint64_t bytes = 0;
    for (const page_map * each : all) {
        bytes += each->committed();
    }
    return bytes;
}

// Bytes of the pages in which these runs of cells lie.
static uint64_t bytes_of_pages(const std::vector<cell_area> & areas, const std::vector<kvfold_cell_range> & runs) {
    uint64_t bytes = 0;
    for (const cell_area & area : areas) {
        const size_t page_size = area.pages ? area.pages->page_size() : 1;
        size_t       next      = 0; // page
        for (size_t row = 0; row < area.n_rows; ++row) {
            for (const kvfold_cell_range & run : runs) {
                const size_t start = area.offset + row*area.n_row();
                const size_t first = std::max(next, (start + run.first*area.n_bytes)/page_size);
                const size_t end   = (start + run.last*area.n_bytes - 1)/page_size + 1;
                bytes += first < end ? (end - first)*page_size : 0;
                next   = std::max(next, end);
            }
        }
    }
    return bytes;
}

// All cells into the first ones, if that leaves fewer pages in use: where a cell, or a row of transposed values, lies on two pages, others
// may be nowhere near full.
static std::vector<move> moves_to_front(const llama_kv_cells & cells, const std::vector<cell_area> & areas) {
    std::vector<move>              all;
    std::vector<kvfold_cell_range> runs;
    const uint32_t                 n_cells = cells.get_used();
    uint32_t                       to      = 0;
    for (uint32_t i = 0; i < cells.used_max_p1(); ++i) {
        if (cells.is_empty(i)) {
            continue;
        }
        if (runs.empty() || runs.back().last != i) {
            runs.push_back({ i, i });
        }
        runs.back().last = i + 1;
        if (i >= n_cells) {
            while (!cells.is_empty(to)) {
                ++to;
            }
            all.push_back({ i, to++, sequences_of(cells, i) });
        }
    }
    if (all.empty() || bytes_of_pages(areas, { { 0, n_cells } }) >= bytes_of_pages(areas, runs)) {
        all.clear();
    }
    return all;
}

// In parts of so many, each of which gives its pages back before the next one. False, and nothing has moved, if there is no memory for
// the first of them: pages may be in use, but not in each layer.
static bool move_cells(
        llama_kv_cache & cache, const std::vector<cell_area> & areas, const std::vector<move> & moves, size_t n_part, const stores_rows & stores) {
    kvfold_kv_memory &     memory  = *cache.kv_memory;
    const llama_kv_cells & cells   = cache.get_cells(0);
    const auto             has_row = [&](const cell_area & area, const move & each) {
        return !stores || std::any_of(each.seq_ids.begin(), each.seq_ids.end(), [&](llama_seq_id id) { return stores(area.il, id); });
    };
    for (size_t first = 0; first < moves.size(); first += n_part) {
        const std::vector<move> part(moves.begin() + (ptrdiff_t) first, moves.begin() + (ptrdiff_t) std::min(first + n_part, moves.size()));
        for (const cell_area & area : areas) {
            for (const move & each : part) {
                if (area.pages && has_row(area, each) && !area.commit(0, each.to, each.to + 1)) {
                    memory.release_empty(cache);
                    return first > 0;
                }
            }
        }
        memory.await_computation();
        for (const cell_area & area : areas) {
            for (const move & each : part) {
                if (has_row(area, each)) {
                    area.copy(0, each.from, 1, area, 0, each.to);
                }
            }
        }
        std::vector<uint32_t> from, to;
        for (const move & each : part) {
            from.push_back(each.from);
            to.push_back(each.to);
        }
        llama_kv_cells & edited = cache.edit_cells(0);
        edited.set(to, edited.cp(from));
        for (const uint32_t i : from) {
            edited.rm(i);
        }
        for (const move & each : part) {
            for (const llama_seq_id seq_id : each.seq_ids) {
                if (cells.pos_get(each.to) == cells.seq_pos_max(seq_id)) {
                    memory.places->moved(seq_id, each.to);
                }
            }
        }
        memory.release_erased(cache);
    }
    LLAMA_LOG_DEBUG("%s: %zu cells onto other pages\n", __func__, moves.size());
    return true;
}

// stores: of a cache in which not every layer has a row in every cell.
static bool compact(llama_kv_cache & cache, const stores_rows & stores, bool wanted) {
    kvfold_kv_memory &     memory = *cache.kv_memory;
    const llama_kv_cells & cells  = cache.get_cells(0);
    const uint32_t         n_used = cells.get_used();
    const bool             looks  = n_used < memory.n_compact || wanted;
    if (cache.get_n_stream() > 1 || memory.places->cells().front().of_page == 0 || !looks || cells.get_has_shift()) {
        memory.n_compact = n_used;
        return false; // the usual case: nothing has gone
    }
    memory.n_compact = n_used;
    const std::vector<cell_area>    areas  = areas_of(cache);
    const std::vector<cell_bytes> & kinds  = memory.places->cells();
    const uint64_t                  before = committed(areas);
    const size_t                    n_part = wanted ? kinds.back().cells_in_page() : cells.size(); // through memory that is short
    for (size_t n_kinds = 1; n_kinds <= kinds.size(); ++n_kinds) {
        std::list<page_fill> fills; // anew, as cells may have moved for nothing
        for (size_t kind = 0; kind < n_kinds; ++kind) {
            fills.emplace_back(cells, kinds[kind], fills.empty() ? nullptr : &fills.back());
        }
        const page_fill & fill = fills.back();
        if (wanted ? fill.can_move() : fill.is_sparse()) {
            const std::vector<move> moves = fill.moves();
            if (!moves.empty() && move_cells(cache, areas, moves, n_part, stores) && (!wanted || committed(areas) < before)) {
                return true;
            }
        }
    }
    const std::vector<move> moves = wanted ? moves_to_front(cells, areas) : std::vector<move>();
    return !moves.empty() && move_cells(cache, areas, moves, n_part, stores);
}

bool compact(llama_memory_i * memory, bool wanted) {
    if (evictor_of(memory)) {
        return false;
    }
    kvfold_retention * const    lazy = retention_of(memory);
    const kvfold_release_unused release(memory);
    const auto                  caches = kv_caches_of(memory);
    std::vector<cell_area>      areas;
    for (const llama_kv_cache * cache : wanted ? caches : decltype(caches)()) {
        const auto more = areas_of(*cache);
        areas.insert(areas.end(), more.begin(), more.end());
    }
    const uint64_t before = committed(areas);
    bool           any    = false;
    if (lazy && wanted) {
        lazy->release_all();
    }
    for (size_t c = 0; c < caches.size(); ++c) {
        any = compact(const_cast<llama_kv_cache &>(*caches[c]), lazy ? stored_in(*lazy, c > 0) : stores_rows(), wanted) || any;
    }
    if (lazy && wanted && any) {
        lazy->release_all();
    }
    return wanted ? committed(areas) < before : any; // who asks for memory asks again as long as there is more of it
}

bool tries_of_compaction::helps(llama_memory_i * memory) {
    const bool     any    = compact(memory, true);
    const auto     ledger = current_ledger();
    const uint64_t held   = ledger ? ledger->total() : 0;
    return any && held < std::exchange(least, std::min(least, held));
}

} // namespace kvfold
