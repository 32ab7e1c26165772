// Lazy layers by sequence (SimLayerKV, arXiv 2410.13846, whose second version is LightTransfer).
//
// A layer is lazy when the attention of the last queries of the prompt falls on the sinks and the most recent tokens. Until its
// sequence has decided, a layer's keys and values are in the full cache alone, although the other one has cells for its tokens, too.
// Before the next batch those that a lazy layer keeps are copied there, and the full cache gives its pages back.

#include "kv/retention/cuts.h"
#include "kv/retention/retention.h"

#include "kv/memory/memory.h"

#include "llama-impl.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <string>

using kvfold::stage;
using kvfold::stage_of;

kv_read kvfold_fixed_read(const kvfold_plan & plan, int il) {
    if (plan.in_swa[plan.kv[il]]) {
        return kv_read::WINDOW;
    }
    return plan.window[il] ? kv_read::ALL_BY_WINDOW : kv_read::ALL;
}

kvfold_retention::kvfold_retention(const kvfold_plan & plan, llama_kv_cache & full, llama_kv_cache & window) :
    plan(plan), full(full), window(window), sequences(LLAMA_MAX_SEQ), need_full(plan.n_layer), need_window(plan.n_layer) {
    for (llama_seq_id seq_id = 0; seq_id < LLAMA_MAX_SEQ; ++seq_id) {
        reset(seq_id);
    }
}

void kvfold_retention::reset(llama_seq_id seq_id) {
    sequences[seq_id] = {};
    sequences[seq_id].lazy.resize(plan.n_layer);
    sequences[seq_id].in_window.resize(plan.n_layer);
    note_needs(seq_id);
}

void kvfold_retention::note_needs(llama_seq_id seq_id) {
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        if (plan.in_both[il]) {
            need_full[il][seq_id]   = !is_in_window(seq_id, (int) il);
            need_window[il][seq_id] = is_in_window(seq_id, (int) il);
        }
    }
}

bool kvfold_retention::judges(llama_seq_id seq_id, int il) const {
    const sequence & seq = sequences[seq_id];
    return plan.candidate[il] && !seq.final && !seq.lazy[il];
}

bool kvfold_retention::is_to_move(const sequence & seq, int il) const {
    if (!plan.in_both[il] || seq.in_window[il]) {
        return false;
    }
    for (uint32_t reader = 0; reader < plan.n_layer; ++reader) {
        if (plan.kv[reader] == il && plan.candidate[reader] && !seq.lazy[reader]) {
            return false;
        }
    }
    return true;
}

bool kvfold_retention::is_settled(llama_seq_id seq_id) const {
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        if (is_to_move(sequences[seq_id], (int) il)) {
            return false;
        }
    }
    return true;
}

std::vector<llama_seq_id> kvfold_retention::unsettled(llama_seq_id only) const {
    std::vector<llama_seq_id> seq_ids;
    for (llama_seq_id seq_id = 0; seq_id < LLAMA_MAX_SEQ; ++seq_id) {
        if ((only < 0 || seq_id == only) && !is_settled(seq_id)) {
            seq_ids.push_back(seq_id);
        }
    }
    return seq_ids;
}

// Layer by layer, since each leaves memory for the next one.
void kvfold_retention::settle(llama_seq_id only) {
    const std::vector<llama_seq_id> seq_ids = unsettled(only);
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        bool any = false;
        for (const llama_seq_id seq_id : seq_ids) {
            if (!is_to_move(sequences[seq_id], (int) il)) {
                continue;
            }
            any = true;
            if (kvfold::copy_layer(full, window, il, seq_id)) {
                const std::lock_guard<std::mutex> lock(mutex);
                sequences[seq_id].in_window[il] = 1;
                note_needs(seq_id);
            }
        }
        if (any) { // also where memory was refused, for what was there in part
            release_layer((int) il, kvfold::unneeded_cells::ALL);
        }
    }
    due = !unsettled().empty();
}

kv_read kvfold_retention::read_of(llama_seq_id seq_id, int il) const {
    const bool lazy = sequences[seq_id].lazy[il];
    if (plan.in_both[plan.kv[il]]) {
        if (is_in_window(seq_id, plan.kv[il])) {
            return kv_read::WINDOW;
        }
        return lazy || plan.window[il] ? kv_read::ALL_BY_WINDOW : kv_read::ALL;
    }
    const kv_read fixed = kvfold_fixed_read(plan, il);
    return fixed == kv_read::ALL && lazy ? kv_read::ALL_BY_WINDOW : fixed;
}

void kvfold_retention::advance(
        const kv_ubatch_part & part, int32_t prefill, const std::vector<std::vector<float>> & masses, const kv_kept_queries & kept) {
    sequence &  seq = sequences[part.seq_id];
    const stage now = stage_of(part, seq.in_prompt, prefill);
    if (now == stage::OTHER) {
        return;
    }
    const llama_pos n_tokens = part.n_tokens();
    if (now == stage::GENERATED) {
        seq.in_prompt = seq.awaits_first = false;
        if (!masses.empty() && decide(seq, masses, part.pos.front() + 1, true)) {
            tell(part.seq_id, "its first generated token");
        }
        return;
    }
    const bool last = now == stage::END_OF_PROMPT;
    if (!seq.in_prompt || last) {
        seq.kept = {};
    }
    seq.in_prompt    = !last;
    seq.awaits_first = last && !seq.final && plan.decide == KVFOLD_DECIDE_DECODE;
    if (!kept.pos.empty()) {
        std::vector<bool> judged(plan.n_layer);
        for (uint32_t il = 0; il < plan.n_layer; ++il) {
            judged[il] = plan.candidate[il] && !seq.lazy[il];
        }
        kvfold::keep_last(seq.kept, kept, plan.n_queries, judged);
    }
    if (!masses.empty()) {
        seq.n_next = 2*n_tokens;
        if (decide(seq, masses, n_tokens, last)) {
            tell(part.seq_id, last ? "the end of its prompt" : "a part of its prompt");
        }
    }
}

bool kvfold_retention::decide(sequence & seq, const std::vector<std::vector<float>> & masses, llama_pos n_tokens, bool last) {
    std::vector<int>    candidates;
    std::vector<double> score(plan.n_layer);
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        if (!plan.candidate[il] || seq.lazy[il]) {
            continue;
        }
        candidates.push_back((int) il);
        for (const auto & query : masses) {
            score[il] += query[il]/masses.size();
        }
    }
    std::vector<int> lazy;
    if (plan.automatic == KVFOLD_BY_THRESHOLD) {
        const double threshold = (double) plan.threshold/KVFOLD_THRESHOLD_ONE;
        std::copy_if(candidates.begin(), candidates.end(), std::back_inserter(lazy), [&](int il) { return score[il] > threshold; });
    } else {
        // the lower of two layers that are equally lazy stays full
        std::stable_sort(candidates.begin(), candidates.end(), [&](int a, int b) { return score[a] < score[b]; });
        lazy.assign(candidates.begin() + plan.n_full, candidates.end());
        last = true;
    }
    const std::lock_guard<std::mutex> lock(mutex);
    for (const int il : lazy) {
        seq.lazy[il] = 1;
    }
    due = due || !lazy.empty();
    seq.final = last || lazy.size() == candidates.size();
    if (seq.final || !lazy.empty()) { // that none is lazy holds for these tokens only, too
        seq.n_decisive = n_tokens;
    }
    if (seq.final) {
        seq.kept = {};
    }
    return seq.final || !lazy.empty();
}

void kvfold_retention::tell(llama_seq_id seq_id, const char * when) const {
    const auto  lazy = lazy_layers(seq_id + 1).back();
    std::string list;
    for (const int il : lazy) {
        list += (list.empty() ? "" : ", ") + std::to_string(il);
    }
    LLAMA_LOG_INFO("%s: sequence %d: %zu of %u layers are lazy by %s: %s\n", __func__, seq_id, lazy.size(), plan.n_layer, when,
            list.empty() ? "none" : list.c_str());
}

void kvfold_retention::release_layer(int il, kvfold::unneeded_cells which) {
    const auto release_from = [&](llama_kv_cache & cache, const llama_kv_cells::seq_set_t & needed) {
        kvfold::release_layer(cache, (uint32_t) il, [&](const llama_kv_cells & cells, uint32_t cell) {
            return cells.is_empty(cell) || (cells.seq_get_all(cell) & needed).none();
        }, which);
    };
    release_from(full,   need_full[il]);
    release_from(window, need_window[il]);
}

void kvfold_retention::release(bool recent) {
    recent   = recent && !refilled;
    refilled = false;
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        if (plan.in_both[il]) {
            release_layer((int) il, recent ? kvfold::unneeded_cells::RECENT : kvfold::unneeded_cells::USED);
        }
    }
    kvfold::settle_recent(full);
    kvfold::settle_recent(window);
}

void kvfold_retention::release_all() {
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        if (plan.in_both[il]) {
            release_layer((int) il, kvfold::unneeded_cells::ALL);
        }
    }
}

void kvfold_retention::remove(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (llama_seq_id id = seq_id < 0 ? 0 : seq_id; id <= (seq_id < 0 ? LLAMA_MAX_SEQ - 1 : seq_id); ++id) {
        sequence & seq = sequences[id];
        if (seq_id < 0 && p0 <= 0 && p1 < 0) {
            reset(id);
            continue;
        }
        if (full.get_n_stream() > 1 && (uint32_t) id >= full.get_n_stream()) {
            break;
        }
        const llama_pos pos_max = full.seq_pos_max(id);
        if (p0 <= 0 && (p1 < 0 || p1 > pos_max)) {
            reset(id);
        } else if (p0 <= pos_max) {
            seq.kept      = {};
            seq.n_next    = 0;
            seq.in_prompt = seq.awaits_first = false;
        }
    }
}

void kvfold_retention::copy(llama_seq_id from, llama_seq_id to) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (from != to) {
        sequences[to] = sequences[from];
        note_needs(to);
    }
}

bool kvfold_retention::is_open(llama_seq_id seq_id, llama_pos n) const {
    const sequence & seq = sequences[seq_id];
    return !seq.final && seq.n_decisive == 0 && (uint64_t) n <= (uint64_t) plan.n_sinks + plan.n_swa;
}

bool kvfold_retention::has_queries(llama_seq_id seq_id) const {
    const sequence & seq = sequences[seq_id];
    return seq.in_prompt && (seq.final || plan.decide == KVFOLD_DECIDE_DECODE || seq.kept.pos.size() >= plan.n_queries);
}

bool kvfold_retention::may_go_on(llama_seq_id seq_id, llama_pos n, llama_pos n_prompt) const {
    if (n == 0 || sequences[seq_id].final) {
        return true;
    }
    if (plan.decide == KVFOLD_DECIDE_DECODE) {
        return n_prompt >= n + 2; // a single token would be taken for one of the answer
    }
    if (is_open(seq_id, n)) {
        return true;
    }
    const uint64_t next = std::min((uint64_t) n_prompt, kvfold::next_judged(plan, (uint64_t) n));
    return next >= (uint64_t) n + plan.n_queries;
}

void kvfold_retention::begin(llama_seq_id seq_id) {
    const std::lock_guard<std::mutex> lock(mutex);
    reset(seq_id);
    sequences[seq_id].in_prompt = true;
}

void kvfold_retention::keep(llama_seq_id seq_id) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (llama_seq_id id = 0; id < LLAMA_MAX_SEQ; ++id) {
        if (id != seq_id) {
            reset(id);
        }
    }
}

bool kvfold_retention::keeps_all(llama_seq_id seq_id) const {
    const sequence & seq = sequences[seq_id];
    return seq.final && std::none_of(seq.lazy.begin(), seq.lazy.end(), [](uint8_t lazy) { return lazy; }) &&
           std::none_of(plan.in_swa.begin(), plan.in_swa.end(), [](uint8_t in_swa) { return in_swa; });
}

kvfold_retention::needs kvfold_retention::needs_now() const {
    const std::lock_guard<std::mutex> lock(mutex);
    return { need_full, need_window };
}

std::vector<std::vector<int>> kvfold_retention::lazy_layers(uint32_t n_seqs) const {
    const std::lock_guard<std::mutex> lock(mutex);
    std::vector<std::vector<int>>     layers(std::min<uint32_t>(n_seqs, LLAMA_MAX_SEQ));
    for (uint32_t s = 0; s < layers.size(); ++s) {
        for (uint32_t il = 0; il < plan.n_layer; ++il) {
            if (sequences[s].lazy[il]) {
                layers[s].push_back((int) il);
            }
        }
    }
    return layers;
}
