// Lazy layers by sequence (SimLayerKV, arXiv 2410.13846, whose second version is LightTransfer).
//
// A layer is lazy when the attention of the last queries of the prompt falls on the sinks and the most recent tokens. Until
// its sequence has decided, a layer's keys and values stand in both caches and it reads the full one. Then the one that it
// does not need gives its pages back. So nothing is copied, and every token keeps its position.

#include "kv/retention/retention.h"

#include "hooks/kv-lazy-layers.h"
#include "kv/memory/memory.h"
#include "kv/state/plan_hash.h"

#include "llama-hparams.h"
#include "llama-impl.h"
#include "llama-io.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

kv_read kvfold_fixed_read(const kvfold_plan & plan, int il) {
    if (plan.in_swa[plan.kv[il]]) {
        return kv_read::WINDOW;
    }
    return plan.window[il] ? kv_read::ALL_BY_WINDOW : kv_read::ALL;
}

std::vector<kv_ubatch_part> kvfold_ubatch_parts(const llama_ubatch & ubatch) {
    std::vector<kv_ubatch_part> parts(ubatch.n_seqs_unq);
    for (uint32_t s = 0; s < ubatch.n_seqs_unq; ++s) {
        parts[s].seq_id = ubatch.seq_id_unq[s];
    }
    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        for (int32_t n = 0; n < ubatch.n_seq_id[i]; ++n) {
            kv_ubatch_part & part = parts[ubatch.seq_idx[ubatch.seq_id[i][n]]];
            const bool output = ubatch.output && ubatch.output[i];
            part.rows.push_back((int32_t) i);
            part.pos.push_back(ubatch.pos[i]);
            part.n_outputs       += output;
            part.ends_with_output = output;
            part.shared          |= ubatch.n_seq_id[i] > 1;
        }
    }
    return parts;
}

static constexpr int64_t SCORED_AT_ONCE  = 8;
static constexpr int64_t MAX_SCORE_PARTS = 64;

int64_t kvfold_scored_at_once(int64_t n) {
    return std::max(SCORED_AT_ONCE, (n + MAX_SCORE_PARTS - 1)/MAX_SCORE_PARTS);
}

uint32_t kvfold_score_max_nodes(const kvfold_plan & plan, uint32_t n_seqs) {
    const int64_t n        = (int64_t) plan.n_queries*n_seqs;
    const int64_t at_once  = kvfold_scored_at_once(n);
    const int64_t of_layer = 16*((n + at_once - 1)/at_once) + 16; // each part, and what they share
    return (uint32_t) (plan.n_layer*of_layer);
}

kvfold_retention::kvfold_retention(const kvfold_plan & plan, llama_kv_cache & full, llama_kv_cache & window) :
    plan(plan), full(full), window(window), sequences(LLAMA_MAX_SEQ) {
    for (sequence & seq : sequences) {
        reset(seq);
    }
}

void kvfold_retention::reset(sequence & seq) {
    seq = {};
    seq.lazy.resize(plan.n_layer);
}

bool kvfold_retention::is_undecided(llama_seq_id seq_id, int il) const {
    const sequence & seq = sequences[seq_id];
    return plan.candidate[il] && !seq.final && !seq.lazy[il];
}

bool kvfold_retention::needs_full(llama_seq_id seq_id, int il) const {
    for (uint32_t reader = 0; reader < plan.n_layer; ++reader) {
        if (plan.kv[reader] == il && plan.candidate[reader] && !sequences[seq_id].lazy[reader]) {
            return true;
        }
    }
    return false;
}

bool kvfold_retention::needs_window(llama_seq_id seq_id, int il) const {
    return !sequences[seq_id].final || !needs_full(seq_id, il);
}

kv_read kvfold_retention::read_of(llama_seq_id seq_id, int il) const {
    const bool lazy = sequences[seq_id].lazy[il];
    if (plan.in_both[plan.kv[il]]) {
        if (!needs_full(seq_id, plan.kv[il])) {
            return kv_read::WINDOW;
        }
        return lazy || plan.window[il] ? kv_read::ALL_BY_WINDOW : kv_read::ALL;
    }
    const kv_read fixed = kvfold_fixed_read(plan, il);
    return fixed == kv_read::ALL && lazy ? kv_read::ALL_BY_WINDOW : fixed;
}

bool kvfold_retention::enough(llama_pos n_tokens) const {
    const uint32_t n_scored = plan.decide == KVFOLD_DECIDE_DECODE ? 1 : plan.n_queries;
    return (uint64_t) n_tokens > (uint64_t) plan.n_sinks + plan.n_swa + n_scored;
}

namespace {

enum class stage { PROMPT, END_OF_PROMPT, GENERATED, OTHER };

// A prompt's chunk has no output but that of its very end; drafted tokens, and texts to embed, have one at each token.
stage stage_of(const kv_ubatch_part & part, bool in_prompt, int32_t prefill) {
    if (prefill == KVFOLD_PREFILL_OBSERVATION || part.shared || part.rows.empty()) {
        return stage::OTHER;
    }
    if (prefill == KVFOLD_PREFILL_EVALUATION || part.n_outputs == 0) {
        return stage::PROMPT;
    }
    if (part.n_outputs == 1 && part.ends_with_output && (in_prompt || part.rows.size() > 1)) {
        return stage::END_OF_PROMPT;
    }
    return part.rows.size() == part.n_outputs ? stage::GENERATED : stage::OTHER;
}

} // namespace

// A prompt is judged when it has twice the tokens that a window retains, whenever it has doubled since, and at its end. Of a
// shorter one attention falls on the window for want of anything else, and scores after each ubatch cost 6% of a prefill.
std::vector<kv_query> kvfold_retention::scored_queries(const kv_ubatch_part & part, int32_t prefill) const {
    const sequence & seq = sequences[part.seq_id];
    if (seq.final || part.rows.empty()) {
        return {};
    }
    const stage     now      = stage_of(part, seq.in_prompt, prefill);
    const llama_pos n_tokens = part.n_tokens();
    if (plan.decide == KVFOLD_DECIDE_DECODE) {
        if (now != stage::GENERATED || !seq.awaits_first || !enough(part.pos.front() + 1)) {
            return {};
        }
        return { { part.seq_id, part.pos.front(), part.rows.front(), -1 } };
    }
    if ((now != stage::PROMPT && now != stage::END_OF_PROMPT) || !enough(n_tokens)) {
        return {};
    }
    const size_t n_kept    = seq.in_prompt ? seq.kept.pos.size() : 0;
    const size_t n_own     = std::min<size_t>(plan.n_queries, part.rows.size());
    const size_t n_carried = std::min<size_t>(plan.n_queries - n_own, n_kept);
    if (now == stage::PROMPT) {
        const uint64_t retained = (uint64_t) plan.n_sinks + plan.n_swa;
        if (plan.decide == KVFOLD_DECIDE_END || (uint64_t) n_tokens < 2*retained || n_tokens < seq.n_next || n_own + n_carried < plan.n_queries) {
            return {};
        }
    }
    std::vector<kv_query> queries;
    for (size_t i = n_kept - n_carried; i < n_kept; ++i) {
        queries.push_back({ part.seq_id, seq.kept.pos[i], -1, (int32_t) i });
    }
    for (size_t i = part.rows.size() - n_own; i < part.rows.size(); ++i) {
        queries.push_back({ part.seq_id, part.pos[i], part.rows[i], -1 });
    }
    return queries;
}

std::vector<int32_t> kvfold_retention::kept_rows(const kv_ubatch_part & part, int32_t prefill) const {
    const sequence & seq = sequences[part.seq_id];
    if (seq.final || part.rows.empty()) {
        return {};
    }
    const bool all_seen = (uint64_t) part.n_tokens() <= (uint64_t) plan.n_sinks + plan.n_swa; // what is retained is all there is
    if (all_seen || plan.decide == KVFOLD_DECIDE_DECODE || stage_of(part, seq.in_prompt, prefill) != stage::PROMPT) {
        return {};
    }
    const size_t n = std::min<size_t>(plan.n_queries, part.rows.size());
    return { part.rows.end() - n, part.rows.end() };
}

void kvfold_retention::keep_queries(sequence & seq, const kv_kept_queries & more) {
    kv_kept_queries & kept = seq.kept;
    kept.values.resize(plan.n_layer);
    const size_t n      = kept.pos.size() + more.pos.size();
    const size_t n_gone = n - std::min<size_t>(n, plan.n_queries); // no more than there were: a ubatch keeps n_queries at most
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        auto & values = kept.values[il];
        if (!plan.candidate[il] || seq.lazy[il]) {
            values.clear();
            continue;
        }
        if (!kept.pos.empty()) {
            values.erase(values.begin(), values.begin() + (ptrdiff_t) (values.size()/kept.pos.size()*n_gone));
        }
        values.insert(values.end(), more.values[il].begin(), more.values[il].end());
    }
    kept.pos.erase(kept.pos.begin(), kept.pos.begin() + (ptrdiff_t) n_gone);
    kept.pos.insert(kept.pos.end(), more.pos.begin(), more.pos.end());
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
            settle(part.seq_id, "its first generated token");
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
        keep_queries(seq, kept);
    }
    if (!masses.empty()) {
        seq.n_next = 2*n_tokens;
        if (decide(seq, masses, n_tokens, last)) {
            settle(part.seq_id, last ? "the end of its prompt" : "a part of its prompt");
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
        seq.lazy[il]   = 1;
        seq.n_decisive = n_tokens;
    }
    seq.final = last || lazy.size() == candidates.size();
    if (seq.final) {
        seq.kept = {};
    }
    return seq.final || !lazy.empty();
}

void kvfold_retention::settle(llama_seq_id seq_id, const char * when) {
    const auto  lazy = lazy_layers(seq_id + 1).back();
    std::string list;
    for (const int il : lazy) {
        list += (list.empty() ? "" : ", ") + std::to_string(il);
    }
    LLAMA_LOG_INFO("%s: sequence %d: %zu of %u layers are lazy by %s: %s\n", __func__, seq_id, lazy.size(), plan.n_layer, when,
            list.empty() ? "none" : list.c_str());
    release();
}

void kvfold_retention::release(bool recent) {
    recent   = recent && !refilled;
    refilled = false;
    const auto release_from = [&](llama_kv_cache & cache, uint32_t il, bool (kvfold_retention::*needs)(llama_seq_id, int) const) {
        llama_kv_cells::seq_set_t needed;
        for (llama_seq_id seq_id = 0; seq_id < LLAMA_MAX_SEQ; ++seq_id) {
            needed[seq_id] = (this->*needs)(seq_id, (int) il);
        }
        kvfold::release_layer(cache, il, [&](const llama_kv_cells & cells, uint32_t cell) {
            return cells.is_empty(cell) || (cells.seq_get_all(cell) & needed).none();
        }, recent);
    };
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        if (plan.in_both[il]) {
            release_from(full,   il, &kvfold_retention::needs_full);
            release_from(window, il, &kvfold_retention::needs_window);
        }
    }
    kvfold::settle_recent(full);
    kvfold::settle_recent(window);
}

void kvfold_retention::remove(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (llama_seq_id id = seq_id < 0 ? 0 : seq_id; id <= (seq_id < 0 ? LLAMA_MAX_SEQ - 1 : seq_id); ++id) {
        sequence & seq = sequences[id];
        if (seq_id < 0 && p0 <= 0 && p1 < 0) {
            reset(seq);
            continue;
        }
        if (full.get_n_stream() > 1 && (uint32_t) id >= full.get_n_stream()) {
            break;
        }
        const llama_pos pos_max = full.seq_pos_max(id);
        if (p0 <= 0 && (p1 < 0 || p1 > pos_max)) {
            reset(seq);
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
    }
}

void kvfold_retention::keep(llama_seq_id seq_id) {
    const std::lock_guard<std::mutex> lock(mutex);
    for (llama_seq_id id = 0; id < LLAMA_MAX_SEQ; ++id) {
        if (id != seq_id) {
            reset(sequences[id]);
        }
    }
}

bool kvfold_retention::keeps_all(llama_seq_id seq_id) const {
    const sequence & seq = sequences[seq_id];
    return seq.final && std::none_of(seq.lazy.begin(), seq.lazy.end(), [](uint8_t lazy) { return lazy; }) &&
           std::none_of(plan.in_swa.begin(), plan.in_swa.end(), [](uint8_t in_swa) { return in_swa; });
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

// ---- saved states: for each sequence its id, whether it is final, n_decisive, and a byte per layer

void kvfold_retention::write(llama_io_write_i & io, llama_seq_id seq_id) const {
    const uint32_t n = seq_id < 0 ? (uint32_t) sequences.size() : 1;
    io.write(&n, sizeof(n));
    for (uint32_t i = 0; i < n; ++i) {
        const sequence & seq = sequences[seq_id < 0 ? (llama_seq_id) i : seq_id];
        const uint32_t final = seq.final;
        io.write(&final, sizeof(final));
        io.write(&seq.n_decisive, sizeof(seq.n_decisive));
        io.write(seq.lazy.data(), seq.lazy.size());
    }
}

void kvfold_retention::read(llama_io_read_i & io, llama_seq_id seq_id) {
    uint32_t n = 0;
    io.read(&n, sizeof(n));
    if (n != (seq_id < 0 ? sequences.size() : 1)) {
        throw std::runtime_error("the saved state has the lazy layers of " + std::to_string(n) + " sequences");
    }
    for (uint32_t i = 0; i < n; ++i) {
        sequence seq;
        reset(seq);
        uint32_t final = 0;
        io.read(&final, sizeof(final));
        io.read(&seq.n_decisive, sizeof(seq.n_decisive));
        io.read(seq.lazy.data(), seq.lazy.size());
        for (uint32_t il = 0; il < plan.n_layer; ++il) {
            if (seq.lazy[il] > plan.candidate[il]) {
                throw std::runtime_error("the saved state says that layer " + std::to_string(il) + " is lazy");
            }
        }
        seq.final = final != 0;
        const std::lock_guard<std::mutex> lock(mutex);
        sequences[seq_id < 0 ? (llama_seq_id) i : seq_id] = std::move(seq);
    }
}

// The cells of a state fill both caches. llama.cpp writes what it has read at the end only, so nothing is given back before
// the next batch.
void kvfold_retention::restored() {
    refilled = true;
}

// ---- what patched code calls

void kvfold_attach_retention(const kvfold_plan & plan, llama_kv_cache & full, llama_kv_cache & window) {
    if (plan.is_automatic()) {
        full.retention = window.retention = std::make_shared<kvfold_retention>(plan, full, window);
    }
}

void kvfold_retention_rm(llama_kv_cache & full, int32_t seq_id, int32_t p0, int32_t p1) {
    if (full.retention) {
        full.retention->remove(seq_id, p0, p1);
    }
}

void kvfold_retention_cp(llama_kv_cache & full, int32_t seq_id_src, int32_t seq_id_dst) {
    if (full.retention) {
        full.retention->copy(seq_id_src, seq_id_dst);
    }
}

void kvfold_retention_keep(llama_kv_cache & full, int32_t seq_id) {
    if (full.retention) {
        full.retention->keep(seq_id);
    }
}

bool kvfold_retention_keeps_all(const llama_kv_cache & full, int32_t seq_id) {
    return full.retention && full.retention->keeps_all(seq_id);
}

void kvfold_retention_write(const llama_kv_cache & full, llama_io_write_i & io, int32_t seq_id) {
    if (full.retention) {
        kvfold_plan_hash_write(full.retention->plan, io);
        full.retention->write(io, seq_id);
    }
}

void kvfold_retention_read(llama_kv_cache & full, llama_io_read_i & io, int32_t seq_id) {
    if (full.retention) {
        kvfold_plan_hash_read(full.retention->plan, io);
        full.retention->read(io, seq_id);
    }
}

void kvfold_retention_restored(llama_kv_cache & full) {
    if (full.retention) {
        full.retention->restored();
    }
}
