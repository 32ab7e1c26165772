#include "kv/memory/placement.h"

#include "hooks/kv-placement.h"
#include "kv/memory/cell_pages.h"

#include "llama-batch.h"
#include "llama-kv-cache.h"
#include "llama-kv-cells.h"

#include <algorithm>
#include <unordered_map>

namespace kvfold {

static constexpr uint32_t none = UINT32_MAX;

namespace {

// Free cells, for one ubatch.
class search {
public:
    search(const llama_kv_cells & cells, uint32_t n_run) : cells(cells), n_run(n_run) {}

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

    void take(uint32_t at, llama_seq_id seq_id) { taken.emplace(at, seq_id); }

private:
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
    std::unordered_map<uint32_t, llama_seq_id> taken;
    std::unordered_map<llama_seq_id, uint32_t> own; // before it there is none
    uint32_t                                   cell = 0;
};

} // namespace

static uint32_t padded(uint32_t n) {
    return (n + placement::least_run - 1)/placement::least_run*placement::least_run;
}

// Where pages are large, as on a GPU, a run that fills one would leave few sequences a run of their own.
placement::placement(uint32_t n_cells, uint32_t reach)
    : n_run(std::clamp(padded(reach), least_run, std::max(least_run, padded(n_cells/64)))), last(LLAMA_MAX_SEQ, none) {}

std::vector<uint32_t> placement::choose(const llama_kv_cells & cells, const std::vector<llama_seq_id> & seq_ids) {
    search                free(cells, n_run);
    std::vector<uint32_t> idxs;
    for (const llama_seq_id seq_id : seq_ids) {
        const bool forgets = cells.seq_pos_max(seq_id) >= (llama_pos) cells.seq_cells(seq_id);
        uint32_t   at      = forgets ? none : free.in_run_of(seq_id, last[seq_id]);
        at = at == none ? free.first_of_own(seq_id) : at;
        at = at == none ? free.any() : at;
        free.take(at, seq_id);
        idxs.push_back(last[seq_id] = at);
    }
    return idxs;
}

} // namespace kvfold

void kvfold_place_cells(const llama_kv_cache & cache, const llama_ubatch & ubatch, bool fixed, std::vector<std::vector<uint32_t>> & idxs) {
    uint32_t first = 0;
    for (size_t s = 0; s < idxs.size() && !fixed; ++s) {
        std::vector<llama_seq_id> seq_ids;
        for (size_t i = 0; i < idxs[s].size(); ++i) {
            seq_ids.push_back(ubatch.seq_id[first + i][0]);
        }
        idxs[s] = cache.kv_memory->places->choose(cache.get_cells(seq_ids.front()), seq_ids);
        first += (uint32_t) seq_ids.size();
    }
}
