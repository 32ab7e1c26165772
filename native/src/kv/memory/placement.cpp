#include "kv/memory/placement.h"

#include "hooks/kv-placement.h"
#include "kv/memory/caches.h"
#include "kv/memory/cell_pages.h"

#include "llama-batch.h"
#include "llama-kv-cache.h"
#include "llama-kv-cells.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace kvfold {

static constexpr uint32_t none = UINT32_MAX;

// Of the bytes of used cells: what of their pages may be free before a page is shared.
static constexpr size_t most_idle = 32;

namespace {

// Pages of tensors of one kind in which cells lie.
class pages_in_use {
public:
    pages_in_use(const cell_bytes & bytes, uint32_t n_cells) : bytes(bytes), in_use(bytes.last_page(n_cells - 1) + 1) {}

    bool has(uint32_t at) const {
        size_t page = bytes.first_page(at);
        while (page <= bytes.last_page(at) && in_use[page]) {
            ++page;
        }
        return page > bytes.last_page(at);
    }

    // Whether one is new.
    bool add(uint32_t at) {
        bool is_new = false;
        for (size_t page = bytes.first_page(at); page <= bytes.last_page(at); ++page) {
            if (!in_use[page]) {
                in_use[page] = is_new = true;
                ++n_pages;
            }
        }
        return is_new;
    }

    size_t n_bytes() const { return n_pages*bytes.of_page; }

private:
    const cell_bytes & bytes;
    std::vector<bool>  in_use;
    size_t             n_pages = 0;
};

// Free cells, for one ubatch.
class search {
public:
    search(const llama_kv_cells & cells, uint32_t n_run, const std::vector<cell_bytes> & kinds)
        : cells(cells), n_run(n_run), kinds(kinds), bytes(kinds.front()) {}

    // Whether a page has to be committed for this cell, of the first kind or of any.
    bool opens_page(uint32_t at, bool of_any) const {
        return of_any ? std::any_of(kinds.begin(), kinds.end(), [&](const cell_bytes & each) { return opens_page(at, each); }) : opens_page(at, bytes);
    }

    // Among cells of others, in pages that are in use, if much of those is free, the sequence shares cells already, and has not yet
    // filled some pages itself.
    uint32_t beside_others(llama_seq_id seq_id) {
        look_at_pages();
        const size_t n_bytes = n_used*bytes.of_cell;
        const bool   shares  = in_use.front().n_bytes() > n_bytes + n_bytes/most_idle && has_few_of_its_own(seq_id);
        return shares ? on_page_in_use() : none;
    }

    uint32_t on_page_in_use() {
        look_at_pages();
        while (beside < cells.size() && !(is_free(beside) && in_use.front().has(beside))) {
            ++beside;
        }
        return beside < cells.size() ? beside : none;
    }

    // Of all kinds, or of the first one.
    uint32_t on_pages_in_use() {
        look_at_pages();
        for (uint32_t at = 0; kinds.size() > 1 && at < cells.size(); ++at) {
            if (is_free(at) && std::all_of(in_use.begin(), in_use.end(), [&](const pages_in_use & each) { return each.has(at); })) {
                return at;
            }
        }
        return on_page_in_use();
    }

    // In the run in which a sequence got `last`, after the last cell that it still has there.
    uint32_t in_run_of(llama_seq_id seq_id, uint32_t last) const {
        if (last == none) {
            return none;
        }
        const uint32_t first = last - last%n_run, end = std::min(first + n_run, cells.size());
        uint32_t       at    = last + 1;
        while (at > first && taken.count(at - 1) == 0 && !cells.seq_has(at - 1, seq_id)) {
            --at;
        }
        if (at == first) {
            return none;
        }
        while (at < end && !is_free(at)) {
            ++at;
        }
        return at < end ? at : none;
    }

    // The first one in a run where no cell is another sequence's alone.
    uint32_t first_of_own(llama_seq_id seq_id) {
        uint32_t & at = own[seq_id];
        while (at < cells.size()) {
            if (at%n_run == 0 && !may_share(at, seq_id)) {
                at += n_run;
            } else if (is_free(at)) {
                return at;
            } else {
                ++at;
            }
        }
        return none;
    }

    uint32_t any() {
        while (cell < cells.size() && !is_free(cell)) {
            ++cell;
        }
        return cell < cells.size() ? cell : none;
    }

    void take(uint32_t at, llama_seq_id seq_id) {
        taken.emplace(at, seq_id);
        if (!in_use.empty()) {
            use(at);
            ++n_own[seq_id];
        }
    }

private:
    bool has_few_of_its_own(llama_seq_id seq_id) { return n_alone[seq_id] < cells.seq_cells(seq_id) && n_own[seq_id] < bytes.most_beside_others(); }

    bool opens_page(uint32_t at, const cell_bytes & kind) const {
        bool used = true;
        for (size_t page = kind.first_page(at); used && page <= kind.last_page(at); ++page) {
            used = false;
            for (uint32_t i = kind.first_cell(page); !used && i < cells.size() && kind.first_page(i) <= page; ++i) {
                used = !is_free(i);
            }
        }
        return !used;
    }

    void look_at_pages() {
        if (!in_use.empty()) {
            return;
        }
        for (const cell_bytes & each : kinds) {
            in_use.emplace_back(each, cells.size());
        }
        for (uint32_t at = 0; at < cells.used_max_p1(); ++at) {
            if (!cells.is_empty(at)) {
                use(at);
                if (cells.seq_count(at) == 1) {
                    ++n_alone[cells.seq_get(at)];
                }
            }
        }
        n_own = n_alone;
        for (const auto & [at, seq_id] : taken) {
            use(at);
            ++n_own[seq_id];
        }
    }

    void use(uint32_t at) {
        for (size_t kind = 0; kind < in_use.size(); ++kind) {
            if (in_use[kind].add(at) && kind == 0) {
                beside = std::min(beside, bytes.first_cell(bytes.first_page(at)));
            }
        }
        ++n_used;
    }

    bool is_free(uint32_t at) const { return cells.is_empty(at) && taken.count(at) == 0; }

    bool may_share(uint32_t run, llama_seq_id seq_id) const {
        for (uint32_t at = run; at < std::min(run + n_run, cells.size()); ++at) {
            const auto found = taken.find(at);
            if (found != taken.end() ? found->second != seq_id : !cells.is_empty(at) && !cells.seq_has(at, seq_id)) {
                return false;
            }
        }
        return true;
    }

    const llama_kv_cells &                     cells;
    const uint32_t                             n_run;
    const std::vector<cell_bytes> &            kinds;
    const cell_bytes &                         bytes; // of the first of them
    std::unordered_map<uint32_t, llama_seq_id> taken;
    std::unordered_map<llama_seq_id, uint32_t> own; // before it there is none
    uint32_t                                   cell   = 0;
    uint32_t                                   beside = 0;

    // empty until somebody asks
    std::vector<pages_in_use>                  in_use; // by kind
    size_t                                     n_used  = 0; // cells
    std::unordered_map<llama_seq_id, uint32_t> n_alone; // cells that no other sequence has
    std::unordered_map<llama_seq_id, uint32_t> n_own;   // and those that it got
};

} // namespace

static uint32_t padded(uint32_t n) {
    return (n + placement::least_run - 1)/placement::least_run*placement::least_run;
}

uint32_t cell_bytes::most_beside_others() const {
    constexpr size_t n_pages = 8; // of its own; then what it leaves free is half a page of these on average
    return (uint32_t) std::clamp(n_pages*of_page/of_cell, (size_t) placement::least_run, (size_t) 8*placement::least_run);
}

// Where pages are large, as on a GPU, a run that fills one would leave few sequences a run of their own.
placement::placement(uint32_t n_cells, std::vector<cell_bytes> all)
    : kinds(std::move(all))
    , n_run(std::clamp(padded((uint32_t) kinds.front().cells_in_page()), least_run, std::max(least_run, padded(n_cells/64))))
    , last(LLAMA_MAX_SEQ, none) {}

std::vector<uint32_t> placement::choose(const llama_kv_cells & cells, const std::vector<llama_seq_id> & seq_ids) {
    search                free(cells, n_run, kinds);
    std::vector<uint32_t> idxs;
    for (const llama_seq_id seq_id : seq_ids) {
        const bool forgets = cells.seq_pos_max(seq_id) >= (llama_pos) cells.seq_cells(seq_id);
        uint32_t   at      = forgets ? none : free.in_run_of(seq_id, last[seq_id]);
        at = at == none ? free.first_of_own(seq_id) : at;
        at = at == none ? free.any() : at;
        const bool     opens  = kinds.front().of_page > 0 && free.opens_page(at, spares_pages);
        const uint32_t beside = !opens ? none : spares_pages ? free.on_pages_in_use() : free.beside_others(seq_id);
        if (beside == none) {
            last[seq_id] = at; // it goes on in its own run later
        }
        idxs.push_back(beside == none ? at : beside);
        free.take(idxs.back(), seq_id);
    }
    return idxs;
}

bool spare_pages(llama_memory_i * memory, bool spares) {
    bool any = false;
    for (const llama_kv_cache * cache : kv_caches_of(memory)) {
        any = std::exchange(cache->kv_memory->places->spares_pages, spares) != spares || any;
    }
    return any;
}

} // namespace kvfold

// Where llama.cpp would overwrite what a window does not show any more although others are free, these are taken: it erases all that the
// sequence has before such a token, too, which with "swa-full" somebody counts on.
static bool overwrites_needlessly(const llama_kv_cells & cells, const std::vector<uint32_t> & idxs) {
    const bool any = std::any_of(idxs.begin(), idxs.end(), [&](uint32_t i) { return !cells.is_empty(i); });
    return any && cells.size() - cells.get_used() >= idxs.size();
}

void kvfold_place_cells(const llama_kv_cache & cache, const llama_ubatch & ubatch, bool fixed, std::vector<std::vector<uint32_t>> & idxs) {
    cache.kv_memory->writers.assign(ubatch.seq_id_unq, ubatch.seq_id_unq + ubatch.n_seqs_unq);
    uint32_t first = 0;
    for (std::vector<uint32_t> & of_stream : idxs) {
        std::vector<llama_seq_id> seq_ids;
        for (size_t i = 0; i < of_stream.size(); ++i) {
            seq_ids.push_back(ubatch.seq_id[first + i][0]);
        }
        const llama_kv_cells & cells = cache.get_cells(seq_ids.front());
        if (!fixed || overwrites_needlessly(cells, of_stream)) {
            of_stream = cache.kv_memory->places->choose(cells, seq_ids);
        }
        first += (uint32_t) seq_ids.size();
    }
}
