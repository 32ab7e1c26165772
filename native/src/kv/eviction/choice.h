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

// How much each token is worth to a head that keeps n_kept, by the plan's method.
std::vector<float> evict_scores(const kvfold_plan & plan, const head_rows & rows, uint32_t n_kept);

// By shares of attention that are expected: times how long the value is that a token would add. The first n_sinks stay.
std::vector<float> of_values(const std::vector<float> & shares, const head_rows & rows, uint32_t n_sinks);

// By methods that look at what queries attend to: for each head of a layer the tokens that it keeps, in ascending order, n_kept of them
// or as many whole chunks. votes[head][token] says how much the queries of the prompt that are scored attend to the token, in any unit;
// the prompt has n_prompt of these tokens, the last ones.
std::vector<std::vector<uint32_t>> choose_by_votes(
        const kvfold_plan & plan, const std::vector<std::vector<float>> & votes, uint32_t n_prompt, uint32_t n_kept);

// By marks (CORM): those that one of the last queries of n_tokens has marked, and the most recent ones; all heads as many as the one with
// the most of them, and n_most at most. Where these are fewer than are marked those stay that were marked most often, where they are more
// those that were marked last. marks[head][token] says how often; marks[n_heads + head][token] is the position of the last query that did,
// plus one, or 0.
std::vector<std::vector<uint32_t>> choose_marked(
        const kvfold_plan & plan, const std::vector<std::vector<float>> & marks, uint32_t n_tokens, uint32_t n_most);

// Whether one of the last queries of n_tokens has marked a key, given the number in the second half of marks.
bool is_marked(const kvfold_plan & plan, float last, uint32_t n_tokens);

// By shares of attention in any unit: how much falls on a token or those around it, less how much its key is like others (R-KV). The
// tokens of the queries that decide stay.
std::vector<float> of_unlike(const kvfold_plan & plan, const std::vector<float> & votes, const head_rows & rows);

// The n_kept highest, in ascending order. Equal ones fall as torch.topk() lets them fall.
std::vector<uint32_t> keep_highest(const std::vector<float> & scores, uint32_t n_kept);

} // namespace kvfold
