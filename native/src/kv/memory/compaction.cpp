#include "kv/memory/compaction.h"

#include "hooks/kv-memory.h"
#include "kv/memory/caches.h"
#include "kv/memory/cell_pages.h"
#include "kv/memory/decided_rows.h"
#include "kv/memory/folded_memory.h"

#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-kv-cells.h"

#include <algorithm>
#include <list>
#include <vector>

namespace kvfold {

namespace {

struct move {
    uint32_t                  from, to;
    std::vector<llama_seq_id> seq_ids; // whose cell it is
};

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
                all.push_back({ i, free.back(), sequences_of(i) });
                free.pop_back();
                moved[i] = true;
            }
        }
        return all;
    }

    // All cells into the first ones, if that leaves fewer pages in use: where a cell lies on two pages, others may be nowhere near full.
    std::vector<move> moves_to_front() const {
        std::vector<move> all;
        const uint32_t    n_cells = cells.get_used();
        if (n_cells == 0 || bytes.last_page(n_cells - 1) + 1 >= n_in_use) {
            return all;
        }
        uint32_t to = 0;
        for (uint32_t i = n_cells; i < cells.used_max_p1(); ++i) {
            if (!cells.is_empty(i)) {
                while (!cells.is_empty(to)) {
                    ++to;
                }
                all.push_back({ i, to++, sequences_of(i) });
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

    std::vector<llama_seq_id> sequences_of(uint32_t cell) const {
        std::vector<llama_seq_id> all;
        for (llama_seq_id seq_id = 0; seq_id < LLAMA_MAX_SEQ; ++seq_id) {
            if (cells.seq_has(cell, seq_id)) {
                all.push_back(seq_id);
            }
        }
        return all;
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
    std::vector<move>    moves;
    std::list<page_fill> fills;
    for (const cell_bytes & kind : memory.places->cells()) {
        const page_fill & fill = fills.emplace_back(cells, kind, fills.empty() ? nullptr : &fills.back());
        if (wanted ? fill.can_move() : fill.is_sparse()) {
            moves = fill.moves();
        }
        if (!moves.empty()) {
            break;
        }
    }
    for (auto fill = fills.begin(); wanted && moves.empty() && fill != fills.end(); ++fill) {
        moves = fill->moves_to_front();
    }
    if (moves.empty()) {
        return false;
    }
    const auto              has_row = [&](const cell_area & area, const move & each) {
        return !stores || std::any_of(each.seq_ids.begin(), each.seq_ids.end(), [&](llama_seq_id id) { return stores(area.il, id); });
    };
    const std::vector<cell_area> areas = areas_of(cache);
    for (const cell_area & area : areas) {
        for (const move & each : moves) { // these are pages in use, but not in each layer
            if (area.pages && has_row(area, each) && !area.commit(0, each.to, each.to + 1)) {
                memory.release_empty(cache);
                return false;
            }
        }
    }
    memory.await_computation();
    for (const cell_area & area : areas) {
        for (const move & each : moves) {
            if (has_row(area, each)) {
                area.copy(0, each.from, 1, area, 0, each.to);
            }
        }
    }
    std::vector<uint32_t> from, to;
    for (const move & each : moves) {
        from.push_back(each.from);
        to.push_back(each.to);
    }
    llama_kv_cells & edited = cache.edit_cells(0);
    edited.set(to, edited.cp(from));
    for (const uint32_t i : from) {
        edited.rm(i);
    }
    for (const move & each : moves) {
        for (const llama_seq_id seq_id : each.seq_ids) {
            if (cells.pos_get(each.to) == cells.seq_pos_max(seq_id)) {
                memory.places->moved(seq_id, each.to);
            }
        }
    }
    LLAMA_LOG_DEBUG("%s: %zu cells onto other pages\n", __func__, moves.size());
    return true;
}

bool compact(llama_memory_i * memory, bool wanted) {
    if (evictor_of(memory)) {
        return false;
    }
    const kvfold_retention * const lazy = retention_of(memory);
    const kvfold_release_unused    release(memory);
    const auto                     caches = kv_caches_of(memory);
    bool                           any    = false;
    for (size_t c = 0; c < caches.size(); ++c) {
        any = compact(const_cast<llama_kv_cache &>(*caches[c]), lazy ? stored_in(*lazy, c > 0) : stores_rows(), wanted) || any;
    }
    return any;
}

} // namespace kvfold
