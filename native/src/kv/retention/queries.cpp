// Which queries of a prompt are scored, and which are kept for a later ubatch.

#include "kv/retention/cuts.h"
#include "kv/retention/retention.h"

#include <algorithm>

using kvfold::stage;
using kvfold::stage_of;

static constexpr int64_t SCORED_AT_ONCE  = 8;
static constexpr int64_t MAX_SCORE_PARTS = 64;

int64_t kvfold_scored_at_once(int64_t n) {
    return std::max(SCORED_AT_ONCE, (n + MAX_SCORE_PARTS - 1)/MAX_SCORE_PARTS);
}

uint32_t kvfold_score_max_nodes(const kvfold_plan & plan, uint32_t n_queries, uint32_t n_seqs, uint32_t n_more) {
    const int64_t n        = n_queries;
    const int64_t at_once  = kvfold_scored_at_once(n);
    const int64_t of_layer = (16 + (int64_t) n_more)*((n + at_once - 1)/at_once + n_seqs) + 16; // each part, and what they share
    return (uint32_t) (plan.n_layer*of_layer);
}

bool kvfold_retention::enough(llama_pos n_tokens) const {
    const uint32_t n_scored = plan.decide == KVFOLD_DECIDE_DECODE ? 1 : plan.n_queries;
    return (uint64_t) n_tokens > (uint64_t) plan.n_sinks + plan.n_swa + n_scored;
}

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
    auto queries = kvfold::last_queries(part, seq.in_prompt ? seq.kept.pos : std::vector<llama_pos>(), plan.n_queries);
    if (now == stage::PROMPT) {
        // nobody cuts a text that is evaluated for it
        const bool is_time = prefill == KVFOLD_PREFILL_EVALUATION
                                 ? (uint64_t) n_tokens >= 2*((uint64_t) plan.n_sinks + plan.n_swa) && n_tokens >= seq.n_next
                                 : kvfold::is_judged_at(plan, n_tokens);
        if (plan.decide == KVFOLD_DECIDE_END || !is_time || queries.size() < plan.n_queries) {
            return {};
        }
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

std::vector<kv_query> kvfold::last_queries(const kv_ubatch_part & part, const std::vector<llama_pos> & kept, size_t n_queries) {
    const size_t          n_kept    = kept.size();
    const size_t          n_own     = std::min(n_queries, part.rows.size());
    const size_t          n_carried = std::min(n_queries - n_own, n_kept);
    std::vector<kv_query> queries;
    for (size_t i = n_kept - n_carried; i < n_kept; ++i) {
        queries.push_back({ part.seq_id, kept[i], -1, (int32_t) i });
    }
    for (size_t i = part.rows.size() - n_own; i < part.rows.size(); ++i) {
        queries.push_back({ part.seq_id, part.pos[i], part.rows[i], -1 });
    }
    return queries;
}

void kvfold::keep_last(kv_kept_queries & kept, const kv_kept_queries & more, size_t n_queries, const std::vector<bool> & judged) {
    kept.values.resize(judged.size());
    const size_t n      = kept.pos.size() + more.pos.size();
    const size_t n_gone = n - std::min(n, n_queries); // no more than there were: a ubatch keeps n_queries at most
    for (size_t il = 0; il < judged.size(); ++il) {
        auto & values = kept.values[il];
        if (!judged[il]) {
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

void kvfold::keep_before(kv_kept_queries & kept, llama_pos end) {
    const size_t n = std::lower_bound(kept.pos.begin(), kept.pos.end(), end) - kept.pos.begin();
    for (auto & values : kept.values) {
        values.resize(kept.pos.empty() ? 0 : values.size()/kept.pos.size()*n);
    }
    kept.pos.resize(n);
}
