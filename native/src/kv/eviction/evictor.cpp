#include "kv/eviction/evictor.h"

#include "hooks/kv-plan-prefill.h"
#include "kv/eviction/choice.h"
#include "kv/eviction/method.h"
#include "kv/eviction/rows.h"
#include "kv/memory/cell_pages.h"
#include "kv/memory/memory.h"
#include "kv/memory/placement.h"

#include "ggml-cpp.h"
#include "llama-hparams.h"
#include "llama-impl.h"
#include "llama-io.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>

namespace kvfold {

static void check_heads(const llama_hparams & hparams, const llama_kv_cache & cache) {
    const auto check = [](const ggml_tensor * tensor, uint32_t n_embd, uint32_t il) {
        if (n_embd % ggml_blck_size(tensor->type) != 0) {
            throw std::runtime_error("eviction needs heads that are stored in whole blocks: those of layer " + std::to_string(il) + " have " +
                                     std::to_string(n_embd) + " elements, the blocks of " + ggml_type_name(tensor->type) + " " +
                                     std::to_string(ggml_blck_size(tensor->type)));
        }
    };
    for (const kv_tensors & layer : kv_tensors_of(cache)) {
        check(layer.k, hparams.n_embd_head_k(layer.il), layer.il);
        check(layer.v, hparams.n_embd_head_v(layer.il), layer.il);
    }
}

evictor::evictor(const llama_hparams & hparams, llama_kv_cache & cache) :
    hparams(hparams), plan(hparams.kv_plan), cache(cache), sequences(LLAMA_MAX_SEQ) {
    check_heads(hparams, cache);
    if (evicts_by_queries(plan) && cache.get_n_stream() > 1) {
        throw std::runtime_error("eviction by the attention of queries needs cells that sequences have in common (kv-unified)");
    }
    const ggml_context_ptr ctx { ggml_init({ 2*ggml_tensor_overhead(), nullptr, true }) };
    if (const ggml_tensor * rot = cache.build_input_k_rot(ctx.get())) {
        k_rotated = (uint32_t) rot->ne[0];
    }
    if (const ggml_tensor * rot = cache.build_input_v_rot(ctx.get())) {
        v_rotated = (uint32_t) rot->ne[0];
    }
    queries.resize(plan.n_layer);
    hidden.resize(LLAMA_MAX_SEQ);
    done.n_kept.resize(plan.n_layer);
    done.n_evicted.resize(plan.n_layer);
    const auto ids = cache.get_layer_ids();
    unlike = std::any_of(ids.begin(), ids.end(), [&](uint32_t il) { return !keep_alike((int) ids.front(), (int) il); });
}

static bool is_prompt(stage now) {
    return now == stage::PROMPT || now == stage::END_OF_PROMPT;
}

// A text that is evaluated says itself where its prompt ends: where the first output is.
stage evictor::stage_of_part(const kv_ubatch_part & part, int32_t prefill) const {
    const sequence & seq     = sequences[part.seq_id];
    bool             answers = part.pos.front() >= seq.answer;
    for (size_t i = 0; i < seq.before.points.size(); ++i) {
        const llama_pos first = i > 0 ? seq.before.points[i - 1] : 0;
        answers = answers || (part.pos.front() >= first && part.pos.front() < seq.before.begins[i]);
    }
    if (answers) {
        return stage::GENERATED;
    }
    return stage_of(part, seq.in_prompt, prefill == KVFOLD_PREFILL_EVALUATION ? KVFOLD_PREFILL_FIXED : prefill);
}

bool evictor::evicts_after(const kv_ubatch_part & part, stage now) const {
    if (now == stage::GENERATED) {
        const sequence & seq = sequences[part.seq_id];
        const auto &     at  = seq.before.points;
        return seq.answer < INT32_MAX ? std::binary_search(at.begin(), at.end(), part.n_tokens())
                                      : plan.evict_answer > 0 && part.n_tokens() % plan.evict_answer == 0;
    }
    return now == stage::END_OF_PROMPT || (now == stage::PROMPT && plan.evict_chunk > 0 && part.n_tokens() % plan.evict_chunk == 0);
}

void evictor::replays(llama_seq_id seq_id, const evicted & before, llama_pos n_prompt) {
    sequences[seq_id].before = before;
    sequences[seq_id].answer = n_prompt;
    if (n_prompt < INT32_MAX) {
        sequences[seq_id].prompt = n_prompt;
    }
}

void evictor::replayed(llama_seq_id seq_id) {
    replays(seq_id, {}, INT32_MAX);
}

bool evictor::judges(llama_seq_id, int il) const {
    const int il_kv = plan.kv[il];
    return evicts_by_queries(plan) && !plan.in_swa[il_kv] && !plan.evict_skip[il_kv];
}

std::vector<kv_query> evictor::scored_queries(const kv_ubatch_part & part, int32_t prefill) const {
    const sequence & seq = sequences[part.seq_id];
    const stage      now = stage_of_part(part, prefill);
    if (evicts_by_moments(plan)) {
        return {};
    }
    if (evicts_by_all_queries(plan)) {
        if (!is_prompt(now) && !(evicts_by_sums(plan) && now == stage::GENERATED)) {
            return {};
        }
        auto       all        = last_queries(part, {}, part.rows.size());
        const auto is_left_out = [n = (llama_pos) evict_sample_of(plan)](const kv_query & query) { return query.pos % n != 0; };
        all.erase(std::remove_if(all.begin(), all.end(), is_left_out), all.end());
        return all;
    }
    if (!evicts_by_queries(plan) || !evicts_after(part, now) || !has_too_many(part.seq_id, (uint32_t) part.n_tokens())) {
        return {};
    }
    return last_queries(part, seq.in_prompt || now == stage::GENERATED ? seq.kept.pos : std::vector<llama_pos>(), plan.n_queries);
}

std::vector<int32_t> evictor::kept_rows(const kv_ubatch_part & part, int32_t prefill) const {
    if (evicts_by_moments(plan)) {
        const auto sinks = (llama_pos) evict_parameter_of(plan, "sinks"); // which are like no others
        const auto first = std::lower_bound(part.pos.begin(), part.pos.end(), sinks) - part.pos.begin();
        return is_prompt(stage_of_part(part, prefill)) ? std::vector<int32_t>(part.rows.begin() + first, part.rows.end()) : std::vector<int32_t>();
    }
    if (!evicts_by_queries(plan) || plan.n_queries <= 1) {
        return {};
    }
    // of an answer those that decide when it has come to the next place where tokens go, or of those drafts that end there some are refused;
    // and the last ones of its prompt, unless that loses tokens
    const stage    now     = stage_of_part(part, prefill);
    const uint32_t n_part  = plan.evict_answer > 0 ? part.n_tokens() % plan.evict_answer : 0;
    const bool     decides = plan.evict_answer > 0 && (n_part == 0 || plan.evict_answer - n_part < plan.n_queries);
    if (now != stage::PROMPT && !(decides && (now == stage::GENERATED || now == stage::END_OF_PROMPT))) {
        return {};
    }
    return { part.rows.end() - (ptrdiff_t) std::min<size_t>(plan.n_queries, part.rows.size()), part.rows.end() };
}

void evictor::vote(const kv_ubatch_part & part, int il, const float * votes, int64_t n_kv) {
    const int  il_kv = plan.kv[il];
    sequence & seq   = sequences[part.seq_id];
    if (seq.voted_on.empty()) {
        seq.voted_on = cells_of(part.seq_id);
        if (!evicts_by_all_queries(plan)) {
            seq.votes = seq.votes_left; // without those of a chunk that ended where no batch did
        }
    }
    const auto cells = rows_of(part.seq_id, il_kv, seq.voted_on);
    seq.votes.resize(plan.n_layer);
    auto &       sums    = seq.votes[il_kv];
    const size_t n_heads = hparams.n_head_kv(il_kv);
    sums.resize(n_votes_of(hparams, (uint32_t) n_heads));
    for (size_t h = 0; h < sums.size(); ++h) {
        sums[h].resize(cells.size()); // of later ubatches as well
        for (size_t i = 0; i < cells.size(); ++i) {
            const float vote = votes[h*n_kv + cells[i]];
            sums[h][i] = h < n_heads ? sums[h][i] + vote : std::max(sums[h][i], vote);
        }
    }
}

size_t evictor::point_after(const sequence & seq, llama_pos pos) {
    const auto & points = seq.before.points;
    return (size_t) (std::upper_bound(points.begin(), points.end(), pos) - points.begin());
}

float evictor::temperature(const kv_ubatch_part & part, int32_t prefill, llama_pos query) const {
    const sequence & seq    = sequences[part.seq_id];
    llama_pos        prompt = INT32_MAX; // has ended there, if the query is one of an answer
    if (seq.answer == INT32_MAX) {
        prompt = stage_of_part(part, prefill) == stage::GENERATED ? seq.prompt : prompt;
    } else if (const size_t i = point_after(seq, query); i == seq.before.points.size()) {
        prompt = seq.answer;
    } else {
        prompt = query < seq.before.begins[i] ? seq.before.prompts[i] : prompt;
    }
    const auto      steps = (llama_pos) evict_parameter_of(plan, "steps");
    const llama_pos n     = query < prompt ? 0 : std::min(query + 1 - prompt, steps);
    return 1 + (float) n/(float) steps;
}

void evictor::advance(const kv_ubatch_part & part, int32_t prefill, const kv_kept_queries & kept) {
    sequence &  seq = sequences[part.seq_id];
    const stage now = stage_of_part(part, prefill);
    seq.voted_on.clear();
    if (!seq.in_prompt && is_prompt(now)) {
        seq.begin = part.pos.front();
        seq.kept  = {};
    }
    if (evicts_by_moments(plan) && !kept.pos.empty()) {
        seq.moments.resize(plan.n_layer);
        for (uint32_t il = 0; il < plan.n_layer; ++il) {
            if (!kept.values[il].empty()) {
                seq.moments[il].add(kept.values[il].data(), kept.pos.size(), hparams.n_head(il), hparams.n_embd_head_k(il));
            }
        }
    }
    if (!kept.pos.empty() && !evicts_by_moments(plan)) {
        std::vector<bool> judged(plan.n_layer);
        for (uint32_t il = 0; il < plan.n_layer; ++il) {
            judged[il] = judges(part.seq_id, (int) il);
        }
        keep_last(seq.kept, kept, plan.n_queries, judged);
    }
    switch (now) {
        case stage::PROMPT:
            seq.n_scored += (uint32_t) part.rows.size();
            seq.in_prompt = true;
            seq.due       = evicts_after(part, now);
            seq.answers   = false;
            break;
        case stage::END_OF_PROMPT:
            seq.n_scored += (uint32_t) part.rows.size();
            if (plan.evict_answer == 0) {
                seq.kept = {};
            }
            if (seq.answer == INT32_MAX) {
                seq.previous = seq.prompt;
                seq.prompt   = part.n_tokens();
            }
            seq.in_prompt = false;
            seq.due       = true;
            seq.answers   = false;
            break;
        case stage::GENERATED:
            seq.in_prompt = false;
            seq.due       = evicts_after(part, now);
            seq.answers   = true;
            break;
        case stage::OTHER:
            break;
    }
}

bool evictor::is_due() const {
    return std::any_of(sequences.begin(), sequences.end(), [](const sequence & seq) { return seq.due; });
}

void evictor::settle(llama_seq_id which) {
    for (llama_seq_id seq_id = std::max(which, 0); seq_id < (which < 0 ? LLAMA_MAX_SEQ : which + 1); ++seq_id) {
        sequence & seq = sequences[seq_id];
        if (seq.due) {
            const size_t n_before = seq.points.size();
            evict(seq_id);
            seq.due = false;
            if (!evicts_by_sums(plan) && (seq.points.size() > n_before || !seq.in_prompt)) {
                seq.votes.clear();
                seq.moments.clear();
                seq.n_scored = 0;
            }
        }
    }
}

std::vector<uint32_t> evictor::cells_of(llama_seq_id seq_id) const {
    const llama_kv_cells & cells = cache.get_cells(seq_id);
    std::vector<uint32_t>  own;
    for (uint32_t i = 0; i < cells.used_max_p1(); ++i) {
        if (!cells.is_empty(i) && cells.seq_has(i, seq_id)) {
            own.push_back(i);
        }
    }
    std::sort(own.begin(), own.end(), [&](uint32_t a, uint32_t b) { return cells.pos_get(a) < cells.pos_get(b); });
    return own;
}

llama_pos evictor::first_of_last(llama_seq_id seq_id, uint32_t n) const {
    const std::vector<uint32_t> own = cells_of(seq_id);
    return own.size() <= n ? 0 : cache.get_cells(seq_id).pos_get(own[own.size() - n]);
}

bool evictor::shares(llama_seq_id seq_id) const {
    const llama_kv_cells &      cells = cache.get_cells(seq_id);
    const std::vector<uint32_t> own   = cells_of(seq_id);
    return std::any_of(own.begin(), own.end(), [&](uint32_t i) { return cells.seq_count(i) > 1; });
}

uint32_t evictor::n_beginning(llama_seq_id seq_id, uint32_t n_common, uint32_t n_listed, uint32_t n_prompt) const {
    const auto n_gone  = (uint32_t) sequences[seq_id].n_compact();
    const bool departs = n_common < n_gone || (n_common == n_gone && n_common < n_listed); // from the prompt, or before its answer
    // the last token of a prompt is computed in any case, but then it may be in no cell of its own
    if (departs || n_gone == n_prompt || shares(seq_id)) {
        return 0;
    }
    // the queries that decide next are computed again if others have computed them; and two tokens, since one is taken for an answer's
    const uint32_t n_chunk   = plan.evict_chunk > 0 ? plan.evict_chunk - n_common % plan.evict_chunk : n_prompt;
    const uint32_t n_decides = std::min(n_prompt, n_common + n_chunk);
    const uint32_t n_queries = evicts_by_all_queries(plan) ? n_decides : std::max(2u, evict_queries_of(plan));
    return std::max(n_gone, std::min(n_common, n_decides - std::min(n_decides, n_queries)));
}

std::vector<uint32_t> evictor::rows_of(llama_seq_id seq_id, uint32_t il, std::vector<uint32_t> rows) const {
    const llama_kv_cells & cells = cache.get_cells(seq_id);
    rows.erase(std::remove_if(rows.begin(), rows.end(), [&](uint32_t i) { return hides(seq_id, (int) il, cells.pos_get(i)); }), rows.end());
    return rows;
}

bool evictor::has_too_many(llama_seq_id seq_id, uint32_t n_tokens) const {
    const sequence & seq = sequences[seq_id];
    const auto       ids = cache.get_layer_ids();
    return std::any_of(ids.begin(), ids.end(), [&](uint32_t il) {
        const uint32_t n_rows = seq.points.empty() ? n_tokens : seq.n_rows[il] + n_tokens - (uint32_t) seq.n_compact();
        return n_rows > std::min(plan.evict_skip[il] ? n_tokens : evict_least_of(plan), evict_budget_of(plan, il, n_tokens));
    });
}

size_t evictor::n_hiding(llama_seq_id seq_id, llama_pos pos) const {
    const auto ids = cache.get_layer_ids();
    return (size_t) std::count_if(ids.begin(), ids.end(), [&](uint32_t il) { return hides(seq_id, (int) il, pos); });
}

uint32_t evictor::stream_of(llama_seq_id seq_id) const {
    return cache.get_n_stream() > 1 ? (uint32_t) seq_id : 0;
}

cell_rows evictor::keys_of(llama_seq_id seq_id, const kv_tensors & layer, const std::vector<uint32_t> & cells) const {
    return { layer.k, false, stream_of(seq_id), cells, hparams.n_head_kv(layer.il), hparams.n_embd_head_k(layer.il) };
}

cell_rows evictor::values_of(llama_seq_id seq_id, const kv_tensors & layer, const std::vector<uint32_t> & cells) const {
    return { layer.v, layer.v_transposed, stream_of(seq_id), cells, hparams.n_head_kv(layer.il), hparams.n_embd_head_v(layer.il) };
}

std::vector<std::vector<uint32_t>> evictor::choose(
        llama_seq_id seq_id, const kv_tensors & layer, const std::vector<uint32_t> & cells, uint32_t n_kept) {
    const uint32_t n_heads = hparams.n_head_kv(layer.il);
    if (plan.evict_skip[layer.il] || cells.size() <= std::min(n_kept, evict_least_of(plan))) {
        std::vector<uint32_t> all(cells.size());
        std::iota(all.begin(), all.end(), 0);
        return { n_heads, all };
    }
    if (evicts_by_queries(plan) && !evicts_by_moments(plan)) {
        auto & votes = sequences[seq_id].votes;
        votes.resize(plan.n_layer);
        votes[layer.il].resize(n_votes_of(hparams, n_heads));
        for (auto & each : votes[layer.il]) {
            each.resize(cells.size()); // of tokens that no query of a prompt or an answer has seen
        }
        if (evicts_by_marks(plan)) {
            return choose_marked(plan, votes[layer.il], (uint32_t) last_of(seq_id) + 1, n_kept);
        }
        if (!evicts_by_highest(plan)) {
            return choose_by_votes(plan, votes[layer.il], sequences[seq_id].n_scored, n_kept);
        }
    }
    const cell_rows                    k = keys_of(seq_id, layer, cells);
    std::vector<std::vector<float>>    values(n_heads);
    std::vector<std::vector<uint32_t>> chosen;
    if (evict_reads_values(plan)) {
        const cell_rows v = values_of(seq_id, layer, cells);
        for (uint32_t h = 0; h < n_heads; ++h) {
            values[h] = v.head(h, v_rotated);
        }
    }
    const llama_pos n_tokens = last_of(seq_id) + 1;
    for (uint32_t h = 0; h < n_heads; ++h) {
        const head_rows rows = { k.n(), k.head(h, k_rotated), std::move(values[h]) };
        chosen.push_back(keep_highest(
                evicts_by_moments(plan) ? expected_scores(sequences[seq_id], (int) layer.il, h, rows, n_tokens) :
                evicts_by_highest(plan) ? of_unlike(plan, sequences[seq_id].votes[layer.il][h], rows) : evict_scores(plan, rows, n_kept),
                n_kept));
    }
    return chosen;
}

void evictor::turns(int il, const ggml_tensor * rope, float scale) {
    if (queries[il].scale == 0) {
        queries[il] = { rope ? rotation(*rope) : rotation(), scale };
    }
}

const std::vector<float> & evictor::turn_of(int il, llama_pos n_tokens) {
    if (turned_at != n_tokens || !(turned_how == queries[il].how)) {
        turned_at   = n_tokens;
        turned_how  = queries[il].how;
        turned_mean = turned_how.mean(hparams.n_embd_head_k(il), n_tokens, evict_parameter_of(plan, "future"));
    }
    return turned_mean;
}

std::vector<float> evictor::expected_scores(const sequence & seq, int il_kv, uint32_t head, const head_rows & rows, llama_pos n_tokens) {
    const uint32_t     n_sinks = std::min(evict_parameter_of(plan, "sinks"), rows.n);
    std::vector<float> shares(rows.n);
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        if (plan.kv[il] != il_kv || il >= seq.moments.size() || seq.moments[il].empty()) {
            continue;
        }
        const uint32_t n_alike = hparams.n_head(il)/hparams.n_head_kv(il_kv);
        for (uint32_t h = head*n_alike; h < (head + 1)*n_alike; ++h) {
            const query_moments & of   = seq.moments[il];
            const auto            each = expected_attention(of.mean(h), of.covariance(h), turn_of((int) il, n_tokens), rows.k, n_sinks, queries[il].scale);
            for (uint32_t i = n_sinks; i < rows.n; ++i) {
                shares[i] += each[i]/(float) n_alike;
            }
        }
    }
    return of_values(shares, rows, n_sinks);
}

void evictor::evict(llama_seq_id seq_id) {
    sequence &                  seq      = sequences[seq_id];
    llama_kv_cells &            cells    = cache.edit_cells(seq_id);
    const std::vector<uint32_t> own      = cells_of(seq_id);
    const auto                  n_tokens = (uint32_t) (cells.seq_pos_max(seq_id) + 1);
    const auto                  layers   = kv_tensors_of(cache);
    if (!has_too_many(seq_id, n_tokens)) {
        return;
    }
    const int64_t                                   start = ggml_time_us();
    const bool                                      again = seq.begin < seq.n_compact(); // its prompt has lost some before
    std::vector<std::vector<uint32_t>>              rows;   // by layer, its cells
    std::vector<std::vector<std::vector<uint32_t>>> chosen; // of these, by head
    std::vector<uint32_t>                           n_rows(plan.n_layer);
    for (const kv_tensors & layer : layers) {
        rows.push_back(rows_of(seq_id, layer.il, own));
        chosen.push_back(choose(seq_id, layer, rows.back(), evict_budget_of(plan, layer.il, n_tokens)));
        n_rows[layer.il] = (uint32_t) chosen.back()[0].size();
    }
    bool any = false;
    for (size_t i = 0; i < layers.size(); ++i) {
        any = any || n_rows[layers[i].il] < rows[i].size();
    }
    if (!any) { // all of them are marked
        return;
    }
    const uint32_t              n_cells = *std::max_element(n_rows.begin(), n_rows.end());
    const std::vector<uint32_t> to      = cells_to_keep_in(seq_id, own, n_cells);
    if (to.empty()) {
        LLAMA_LOG_WARN("%s: sequence %d shares cells with others, has no room for %u of its own and keeps all of its tokens\n", __func__,
                seq_id, n_cells);
        return;
    }
    for (size_t i = 0; i < layers.size(); ++i) {
        const uint32_t il = layers[i].il;
        count(layers[i], n_rows[il], again ? seq.n_rows[il] : 0, rows[i].size() - n_rows[il]);
        keys_of  (seq_id, layers[i], rows[i]).write(chosen[i], to);
        values_of(seq_id, layers[i], rows[i]).write(chosen[i], to);
        if (listens) {
            listens(seq_id, layers[i].il, chosen[i], n_tokens);
        }
    }
    for (const uint32_t i : own) {
        cells.seq_rm(i, seq_id);
    }
    for (uint32_t i = 0; i < n_cells; ++i) {
        cells.pos_set(to[i], (llama_pos) (i + 1 < n_cells ? i : n_tokens - 1));
        cells.seq_add(to[i], seq_id);
    }
    if (cache.get_n_stream() == 1) {
        cache.kv_memory->places->moved(seq_id, *std::max_element(to.begin(), to.end()));
    }
    if (evict_keeps_votes(plan)) {
        for (size_t i = 0; i < layers.size() && !seq.votes.empty(); ++i) {
            auto &       votes   = seq.votes[layers[i].il];
            const size_t n_heads = chosen[i].size();
            for (size_t h = 0; h < votes.size(); ++h) {
                const auto & of_head = chosen[i][h % n_heads];
                votes[h].resize(rows[i].size());
                for (size_t row = 0; row < of_head.size(); ++row) {
                    votes[h][row] = votes[h][of_head[row]]; // which is no earlier one
                }
                votes[h].resize(of_head.size());
            }
            for (size_t h = n_heads; h < votes.size(); ++h) {
                for (size_t row = 0; row < votes[h].size(); ++row) {
                    if (!is_marked(plan, votes[h][row], n_tokens)) {
                        votes[h - n_heads][row] = 0; // it begins anew
                    }
                }
            }
        }
        seq.votes_left = seq.votes;
    }
    if (evicts_by_noise(plan)) {
        const size_t i = point_after(seq, (llama_pos) n_tokens - 1);
        seq.prompts.push_back(i < seq.before.points.size() ? seq.before.prompts[i] : seq.answers || seq.in_prompt ? seq.prompt : seq.previous);
    }
    seq.begins.push_back(seq.answers ? (llama_pos) n_tokens : std::max(seq.begin, seq.n_compact()));
    seq.points.push_back((llama_pos) n_tokens);
    seq.kept    = {};
    seq.n_cells = n_cells;
    seq.n_rows  = n_rows;
    release_hidden(seq_id);
    {
        const std::lock_guard<std::mutex> lock(mutex);
        done.n_prompts += again ? 0 : 1;
        done.n_microseconds += (uint64_t) (ggml_time_us() - start);
    }
    if (seq.answers) { // over and over
        LLAMA_LOG_DEBUG("%s: sequence %d keeps %u cells of %zu at %u tokens\n", __func__, seq_id, n_cells, own.size(), n_tokens);
    } else {
        LLAMA_LOG_INFO("%s: sequence %d keeps %u cells of %zu at %u tokens\n", __func__, seq_id, n_cells, own.size(), n_tokens);
    }
}

// Those in front, so that attention has less to look at; but first those that hold something in all layers, then those in which ever
// fewer have memory.
std::vector<uint32_t> evictor::cells_to_keep_in(llama_seq_id seq_id, const std::vector<uint32_t> & own, uint32_t n_cells) {
    const llama_kv_cells &                   cells = cache.get_cells(seq_id);
    std::vector<std::pair<size_t, uint32_t>> order;
    for (const uint32_t i : own) {
        if (cells.seq_count(i) == 1) {
            order.push_back({ hides_any() ? n_hiding(seq_id, cells.pos_get(i)) : 0, i });
        }
    }
    std::sort(order.begin(), order.end());
    std::vector<uint32_t> to;
    for (size_t i = 0; i < std::min<size_t>(n_cells, order.size()); ++i) {
        to.push_back(order[i].second);
    }
    // where others share some, those that are left may hold nothing in a layer that is to have a row there
    const bool   is_gone = hides_any() && order.size() < own.size();
    const size_t n_more  = n_cells - to.size();
    if (n_more == 0 && !is_gone) {
        return to;
    }
    if (cells.size() - cells.get_used() < n_more) {
        return {};
    }
    const auto more = cache.kv_memory->places->choose(cells, std::vector<llama_seq_id>(n_more, seq_id));
    to.insert(to.end(), more.begin(), more.end());
    if (!cache.kv_memory->commit(0, is_gone ? to : more)) {
        cache.kv_memory->refused = 0; // nobody was denied anything
        return {};
    }
    return to;
}

void evictor::release_hidden(llama_seq_id seq_id) {
    if (!hides_any()) {
        return;
    }
    for (const uint32_t il : cache.get_layer_ids()) {
        release_layer(cache, il, [&](const llama_kv_cells & all, uint32_t i) {
            return all.seq_has(i, seq_id) && hides(seq_id, (int) il, all.pos_get(i));
        }, unneeded_cells::USED);
    }
    count_hidden(seq_id);
}

void evictor::count_hidden(llama_seq_id seq_id) {
    const sequence &      seq = sequences[seq_id];
    std::vector<uint32_t> n(plan.n_layer);
    for (const uint32_t il : cache.get_layer_ids()) {
        n[il] = seq.n_cells - (seq.n_rows.empty() ? 0 : seq.n_rows[il]);
    }
    const std::lock_guard<std::mutex> lock(mutex);
    hidden[seq_id] = std::make_shared<const std::vector<uint32_t>>(std::move(n));
}

void evictor::count(const kv_tensors & layer, uint64_t n_kept, uint64_t n_kept_before, uint64_t n_evicted) {
    const std::lock_guard<std::mutex> lock(mutex);
    done.n_kept   [layer.il] += n_kept - n_kept_before;
    done.n_evicted[layer.il] += n_evicted;
    done.n_bytes             += n_evicted*(ggml_row_size(layer.k->type, layer.k->ne[0]) + ggml_row_size(layer.v->type, layer.v->ne[0]));
}

void evictor::share_hidden(llama_seq_id seq_id, llama_seq_id from) {
    const std::lock_guard<std::mutex> lock(mutex);
    hidden[seq_id] = from < 0 ? nullptr : hidden[from];
}

evictor::account evictor::so_far() const {
    const std::lock_guard<std::mutex> lock(mutex);
    return done;
}

bool evictor::keep_alike(int a, int b) const {
    const bool all_alike = plan.evict != EVICT_PYRAMIDKV && !evicts_by_marks(plan);
    return a == b || (plan.evict_skip[a] == plan.evict_skip[b] && (plan.evict_skip[a] || all_alike));
}

uint64_t evictor::n_hidden(llama_seq_id seq_id, int il) const {
    const std::lock_guard<std::mutex> lock(mutex);
    return hidden[seq_id] ? (*hidden[seq_id])[il] : 0;
}

uint64_t evictor::n_hidden(int il) const {
    const std::lock_guard<std::mutex>       lock(mutex);
    std::set<const std::vector<uint32_t> *> counted = { nullptr };
    uint64_t                                n       = 0;
    for (const auto & each : hidden) {
        n += counted.insert(each.get()).second ? (*each)[il] : 0;
    }
    return n;
}

llama_pos evictor::last_of(llama_seq_id seq_id) const {
    const bool has_cells = cache.get_n_stream() == 1 || (uint32_t) seq_id < cache.get_n_stream();
    return has_cells ? cache.get_cells(seq_id).seq_pos_max(seq_id) : -1;
}

bool evictor::is_whole(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const {
    return p0 <= 0 && (p1 < 0 || p1 > last_of(seq_id));
}

bool evictor::can_remove(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const {
    for (llama_seq_id id = seq_id < 0 ? 0 : seq_id; id <= (seq_id < 0 ? LLAMA_MAX_SEQ - 1 : seq_id); ++id) {
        if (p0 < sequences[id].n_compact() && !is_whole(id, p0, p1)) {
            return false;
        }
    }
    return true;
}

void evictor::remove(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    for (llama_seq_id id = seq_id < 0 ? 0 : seq_id; id <= (seq_id < 0 ? LLAMA_MAX_SEQ - 1 : seq_id); ++id) {
        sequence & seq = sequences[id];
        if (is_whole(id, p0, p1)) {
            seq = {};
            share_hidden(id, -1);
        } else if (p0 <= last_of(id)) {
            const evicted   left  = seq;
            const llama_pos begin = seq.begin;
            votes_by_head   votes = votes_of_first(seq, p0), votes_left = std::move(seq.votes_left);
            kv_kept_queries kept  = std::move(seq.kept);
            keep_before(kept, p0);
            seq = {};
            static_cast<evicted &>(seq) = left;
            seq.begin      = begin;
            seq.kept       = std::move(kept);
            seq.votes      = std::move(votes);
            seq.votes_left = std::move(votes_left);
        }
    }
}

// Of queries that are no more some votes stay, unless the sequence is cut where it lost tokens last.
votes_by_head evictor::votes_of_first(const sequence & seq, llama_pos n_tokens) const {
    if (!evicts_by_sums(plan) || n_tokens == seq.n_compact()) {
        return seq.votes_left;
    }
    votes_by_head votes = seq.votes;
    for (size_t il = 0; il < votes.size(); ++il) {
        const size_t n_rows = (seq.n_rows.empty() ? 0 : seq.n_rows[il]) + (size_t) (n_tokens - seq.n_compact());
        for (auto & each : votes[il]) {
            each.resize(std::min(each.size(), n_rows));
        }
    }
    return votes;
}

void evictor::copy(llama_seq_id from, llama_seq_id to) {
    if (from != to) {
        sequences[to] = sequences[from];
        share_hidden(to, from);
    }
}

bool evictor::copy_beginning(llama_seq_id from, llama_seq_id to, llama_pos n_tokens) {
    llama_kv_cells &      cells = cache.edit_cells(from);
    std::vector<uint32_t> own   = cells_of(from);
    own.erase(std::remove_if(own.begin(), own.end(), [&](uint32_t i) { return cells.pos_get(i) >= n_tokens; }), own.end());
    if (cells.size() - cells.get_used() < own.size()) {
        return false;
    }
    const auto copies = cache.kv_memory->places->choose(cells, std::vector<llama_seq_id>(own.size(), to));
    for (size_t i = 0; i < own.size(); ++i) {
        cells.pos_set(copies[i], cells.pos_get(own[i]));
        cells.seq_add(copies[i], to);
    }
    if (!cache.kv_memory->commit(0, copies)) {
        cache.kv_memory->refused = 0; // nobody was denied anything
        cache.seq_rm(to, -1, -1);
        return false;
    }
    std::vector<uint32_t> all(own.size());
    std::iota(all.begin(), all.end(), 0);
    for (const kv_tensors & layer : kv_tensors_of(cache)) {
        const std::vector<std::vector<uint32_t>> every_head(hparams.n_head_kv(layer.il), all);
        keys_of  (from, layer, own).write(every_head, copies);
        values_of(from, layer, own).write(every_head, copies);
    }
    sequences[to] = {};
    static_cast<evicted &>(sequences[to]) = sequences[from];
    sequences[to].votes      = votes_of_first(sequences[from], n_tokens);
    sequences[to].votes_left = sequences[from].votes_left;
    release_hidden(to);
    return true;
}

void evictor::keep(llama_seq_id seq_id) {
    for (llama_seq_id id = 0; id < LLAMA_MAX_SEQ; ++id) {
        if (id != seq_id) {
            sequences[id] = {};
            share_hidden(id, -1);
        }
    }
}

void evictor::write(llama_io_write_i & io, llama_seq_id seq_id) const {
    for (llama_seq_id id = seq_id < 0 ? 0 : seq_id; id <= (seq_id < 0 ? LLAMA_MAX_SEQ - 1 : seq_id); ++id) {
        sequences[id].write(io, plan);
        if (evict_keeps_votes(plan)) {
            write_votes(io, sequences[id].votes);
            write_votes(io, sequences[id].votes_left);
        }
    }
}

void evictor::read(llama_io_read_i & io, llama_seq_id seq_id) {
    for (llama_seq_id id = seq_id < 0 ? 0 : seq_id; id <= (seq_id < 0 ? LLAMA_MAX_SEQ - 1 : seq_id); ++id) {
        sequences[id] = {};
        share_hidden(id, -1);
        static_cast<evicted &>(sequences[id]) = evicted::read(plan, [&] {
            uint32_t number = 0;
            io.read(&number, sizeof(number));
            return number;
        });
        if (evict_keeps_votes(plan)) {
            sequences[id].votes      = read_votes(io, hparams);
            sequences[id].votes_left = read_votes(io, hparams);
        }
    }
}

void evictor::restored(llama_seq_id seq_id) {
    for (llama_seq_id id = seq_id < 0 ? 0 : seq_id; id <= (seq_id < 0 ? LLAMA_MAX_SEQ - 1 : seq_id); ++id) {
        if (sequences[id].n_compact() > 0) {
            release_hidden(id);
        }
    }
}

} // namespace kvfold
