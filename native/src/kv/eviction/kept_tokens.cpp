#include "kv/eviction/kept_tokens.h"

namespace kvfold {

std::vector<std::vector<uint32_t>> kept_tokens::at(uint32_t n_tokens) const {
    auto all = by_head;
    for (auto & tokens : all) {
        for (uint32_t token = n_chosen_from; token < n_tokens; ++token) {
            tokens.push_back(token);
        }
    }
    return all;
}

void kept_tokens::choose(const std::vector<std::vector<uint32_t>> & rows, uint32_t n_tokens) {
    const auto before = at(n_tokens);
    for (uint32_t h = 0; h < by_head.size(); ++h) {
        by_head[h].clear();
        for (const uint32_t row : rows[h]) {
            by_head[h].push_back(before[h][row]);
        }
    }
    n_chosen_from = n_tokens;
}

} // namespace kvfold
