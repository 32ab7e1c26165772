#include "kv/eviction/method.h"

#include <algorithm>

namespace kvfold {

static constexpr uint32_t many = 999999999; // as the text of a plan has it

// As in kvpress, which is what the methods are compared with.
const std::vector<evict_method> & evict_methods() {
    static const std::vector<evict_method> methods = {
        { "",          {} },
        { "knorm",     {} },
        { "keydiff",   {} },
        { "lagkv",     { { "sinks", 4, 1, many }, { "lag", 128, 2, many } } },
        { "streaming", { { "sinks", 4, 1, many } } },
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

uint32_t evict_budget_of(const kvfold_plan & plan, uint32_t il, uint32_t n_tokens) {
    if (plan.evict_skip[il]) {
        return n_tokens;
    }
    const uint64_t share = (uint64_t) n_tokens*plan.evict_share/KVFOLD_THRESHOLD_ONE;
    return (uint32_t) std::min<uint64_t>(n_tokens, std::max<uint64_t>(plan.evict_budget > 0 ? plan.evict_budget : share, 1));
}

uint32_t evict_largest_budget_of(const kvfold_plan & plan, uint32_t n_tokens) {
    uint32_t most = 0;
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        most = plan.producer[il] ? std::max(most, evict_budget_of(plan, il, n_tokens)) : most;
    }
    return most;
}

} // namespace kvfold
