// Which tokens a KV head keeps, as a function of their keys and values alone: no llama.cpp.
#pragma once

#include "hooks/kv-plan.h"

#include <cstdint>
#include <vector>

namespace kvfold {

// What a KV head of a layer holds of a sequence, the oldest token first. Keys are those that queries are compared with, after RoPE.
struct head_rows {
    uint32_t           n = 0;
    std::vector<float> k; // [n][k.size()/n]
    std::vector<float> v; // as k; empty where the method does not look at values
};

// Whether the plan's method looks at values.
bool evict_reads_values(const kvfold_plan & plan);

// How much each token is worth to a head, by the plan's method.
std::vector<float> evict_scores(const kvfold_plan & plan, const head_rows & rows);

// The n_kept highest, in ascending order. Equal ones fall as torch.topk() lets them fall.
std::vector<uint32_t> keep_highest(const std::vector<float> & scores, uint32_t n_kept);

} // namespace kvfold
