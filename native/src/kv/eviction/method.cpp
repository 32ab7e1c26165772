#include "kv/eviction/method.h"

#include <algorithm>
#include <cmath>

namespace kvfold {

static constexpr uint32_t many = 999999999; // as the text of a plan has it

// As in kvpress, which is what the methods are compared with.
const std::vector<evict_method> & evict_methods() {
    static const evict_parameter           queries = { "queries", 64, 1, KVFOLD_MAX_QUERIES };
    static const evict_parameter           kernel  = { "kernel", 5, 1, many };
    static const evict_parameter           sample  = { "sample", 1, 1, many };
    static const std::vector<evict_method> methods = {
        { "",          {} },
        { "knorm",     {} },
        { "keydiff",   {} },
        { "lagkv",     { { "sinks", 4, 1, many }, { "lag", 128, 2, many } } },
        { "streaming", { { "sinks", 4, 1, many } } },
        { "snapkv",    { queries, kernel } },
        { "tova",      {} },
        { "pyramidkv", { queries, kernel, { "beta", 20, 1, many } } },
        { "chunkkv",   { queries, kernel, { "chunk", 20, 1, many } } },
        { "observed",  {} },
        { "expected",  { { "sinks", 4, 1, many }, { "future", 512, 1, 65536 } } },
        { "h2o",       { sample } },
        { "rkv",       { { "queries", 8, 1, KVFOLD_MAX_QUERIES }, { "kernel", 7, 1, many } } },
        { "keyformer", { { "recency", 30, 0, 100 }, { "steps", 256, 1, many }, { "seed", 1, 0, many }, sample } },
        { "corm",      { { "queries", 256, 1, KVFOLD_MAX_QUERIES }, { "newest", 256, 1, many } } },
    };
    return methods;
}

int evict_method::find(const std::string & parameter) const {
    const auto at = std::find_if(parameters.begin(), parameters.end(), [&](const evict_parameter & each) { return each.name == parameter; });
    return at == parameters.end() ? -1 : (int) (at - parameters.begin());
}

uint32_t evict_parameter_of(const kvfold_plan & plan, const char * name) {
    return plan.evict_parameters[evict_methods()[plan.evict].find(name)];
}

bool evicts_by_queries(const kvfold_plan & plan) {
    return plan.evict >= EVICT_SNAPKV;
}

bool evicts_by_all_queries(const kvfold_plan & plan) {
    return plan.evict == EVICT_OBSERVED || plan.evict == EVICT_EXPECTED || evicts_by_sums(plan);
}

bool evicts_by_sums(const kvfold_plan & plan) {
    return plan.evict == EVICT_H2O || plan.evict == EVICT_KEYFORMER;
}

uint32_t evict_sample_of(const kvfold_plan & plan) {
    return evicts_by_sums(plan) ? evict_parameter_of(plan, "sample") : 1;
}

bool evicts_by_noise(const kvfold_plan & plan) {
    return plan.evict == EVICT_KEYFORMER;
}

bool evicts_by_marks(const kvfold_plan & plan) {
    return plan.evict == EVICT_CORM;
}

bool evict_keeps_votes(const kvfold_plan & plan) {
    return evicts_by_sums(plan) || evicts_by_marks(plan);
}

bool evicts_in_answers(const kvfold_plan & plan) {
    return !evicts_by_queries(plan) || plan.evict == EVICT_TOVA || evict_keeps_votes(plan) || evicts_by_highest(plan);
}

bool evicts_by_highest(const kvfold_plan & plan) {
    return plan.evict == EVICT_RKV;
}

bool evicts_by_moments(const kvfold_plan & plan) {
    return plan.evict == EVICT_EXPECTED;
}

uint32_t evict_queries_of(const kvfold_plan & plan) {
    return !evicts_by_queries(plan) || evicts_by_all_queries(plan) ? 0 : plan.evict == EVICT_TOVA ? 1 : evict_parameter_of(plan, "queries");
}

uint32_t evict_recent_of(const kvfold_plan & plan) {
    return evicts_by_marks(plan) ? evict_parameter_of(plan, "newest") : evict_queries_of(plan);
}

uint32_t evict_least_of(const kvfold_plan & plan) {
    return evicts_by_marks(plan) ? evict_parameter_of(plan, "newest") + evict_queries_of(plan) : UINT32_MAX;
}

// From the lowest layer to the highest in equal steps, where a layer has room for it. Halves are rounded to even numbers, as in Python.
static double pyramid(const kvfold_plan & plan, uint32_t il, double n_tokens, double n_kept) {
    const double window = evict_queries_of(plan);
    double       least  = n_kept/evict_parameter_of(plan, "beta");
    double       most   = 2*n_kept - least;
    if (most >= n_tokens - window) {
        most  = n_tokens - window;
        least = 2*n_kept - most;
    }
    const bool has_room = n_tokens >= most && most >= least && least >= window;
    return has_room && plan.n_layer > 1 ? std::nearbyint(most - il*(most - least)/(plan.n_layer - 1)) : n_kept;
}

uint32_t evict_budget_of(const kvfold_plan & plan, uint32_t il, uint32_t n_tokens) {
    const uint64_t share  = (uint64_t) n_tokens*plan.evict_share/KVFOLD_THRESHOLD_ONE;
    uint64_t       n_kept = plan.evict_budget > 0 ? plan.evict_budget : share;
    if (plan.evict_skip[il] || n_kept >= n_tokens) {
        return n_tokens;
    }
    n_kept = std::max<uint64_t>(n_kept, evict_recent_of(plan));
    if (plan.evict == EVICT_PYRAMIDKV) {
        n_kept = (uint64_t) pyramid(plan, il, n_tokens, (double) n_kept);
    }
    return (uint32_t) std::min<uint64_t>(n_tokens, std::max<uint64_t>(n_kept, 1));
}

uint32_t evict_peak_of(const kvfold_plan & plan, uint32_t il, uint32_t n_prompt) {
    if (plan.evict_chunk == 0 || plan.evict_skip[il]) {
        return n_prompt;
    }
    uint32_t most = 0, n_rows = 0;
    for (uint32_t n_tokens = 0, n_more; n_tokens < n_prompt;) {
        n_more    = std::min(plan.evict_chunk, n_prompt - n_tokens);
        n_tokens += n_more;
        most      = std::max(most, n_rows + n_more);
        n_rows    = std::min(n_rows + n_more, evict_budget_of(plan, il, n_tokens));
    }
    return most;
}

// One of the layers that have the most tokens: one that keeps all, else the lowest, since no layer keeps more than a lower one.
static uint32_t fullest_layer(const kvfold_plan & plan) {
    uint32_t fullest = plan.n_layer;
    for (uint32_t il = plan.n_layer; il-- > 0;) {
        if (plan.producer[il] && !plan.in_swa[il]) {
            fullest = il;
            if (plan.evict_skip[il]) {
                break;
            }
        }
    }
    return fullest;
}

uint32_t evict_peak_of(const kvfold_plan & plan, uint32_t n_prompt) {
    return evict_peak_of(plan, fullest_layer(plan), n_prompt);
}

// A budget never grows faster than the sequence, so that after each eviction a layer has its budget: the most is there before the first
// or the last one, or at the end.
uint32_t evict_answer_peak_of(const kvfold_plan & plan, uint32_t il, uint32_t n_prompt, uint32_t n_answer) {
    const uint32_t each = plan.evict_answer, end = n_prompt + n_answer, left = evict_budget_of(plan, il, n_prompt);
    const uint32_t first = each == 0 ? end : n_prompt + each - n_prompt % each, last = each == 0 ? end : end - end % each;
    if (each == 0 || first > end || plan.evict_skip[il]) {
        return left + n_answer;
    }
    const uint32_t before_last = last > first ? evict_budget_of(plan, il, last - each) + each : 0;
    return std::max({ left + first - n_prompt, before_last, evict_budget_of(plan, il, last) + end - last });
}

uint32_t evict_answer_peak_of(const kvfold_plan & plan, uint32_t n_prompt, uint32_t n_answer) {
    return evict_answer_peak_of(plan, fullest_layer(plan), n_prompt, n_answer);
}

} // namespace kvfold
