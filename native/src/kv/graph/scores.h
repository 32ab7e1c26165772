// What decides whether a layer is lazy, and which tokens are evicted, as a graph computes it: how the last queries of a prompt attend.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

struct ggml_context;
struct ggml_tensor;
struct kvfold_attn_input;
struct llm_graph_context;

namespace kvfold {

// Inputs of the scores: the queries, the keys that they see, and those that a lazy layer would retain; and the scores: of a query
// how much falls on these, or of each key how much all queries attend to it. Probabilities are as
// long as the cache for each query and head, so they are computed for a few queries of each stream at once.
struct score_inputs {
    struct part {
        int64_t       first;    // of the queries of each stream
        int64_t       n;
        size_t        group;    // whose votes are added up
        ggml_tensor * mask;     // F32 [n_kv, n, 1, n_stream], or with noise [n_kv, n, heads that read one]
        ggml_tensor * scale;    // F32 [1, 1, n], where noise is added: what the products of the queries are multiplied by with it
        ggml_tensor * average;  // F32 [1, n], where queries mark keys: the share of attention from which on they do
        ggml_tensor * number;   // F32 [1, n], likewise: what tells which query it is
        ggml_tensor * retained; // F32 [n_kv, 1, n, n_stream], 0 or 1
    };

    struct vote {
        int           il;
        size_t        group;
        ggml_tensor * tensor; // F32 [1, n_kv, n_head_kv], summed over queries and heads that share; of marks [1, n_kv, 2*n_head_kv]
    };

    struct mass {
        int           il;
        int64_t       first;
        ggml_tensor * tensor; // F32 [1, n_head, n, n_stream]
    };

    ggml_tensor * rows     = nullptr; // I32 [n_scored - n_carried], of the ubatch
    ggml_tensor * order    = nullptr; // I32 [n_scored], in the carried queries and then those of the rows; null: none is carried
    ggml_tensor * mask     = nullptr; // F32 [n_kv, n_scored], part by part; with noise as many rows for each query as heads read one
    ggml_tensor * of_query = nullptr; // F32 [n_scored, 2], where noise is added or queries mark keys
    ggml_tensor * retained = nullptr; // as the mask
    std::vector<part> parts;

    std::vector<std::pair<int, ggml_tensor *>> hidden; // by layer; F32 [n_kv], -INFINITY where its cells hold nothing
    std::vector<vote> votes; // by layer, and in it by group

    std::vector<std::pair<int, ggml_tensor *>> carried; // by layer; F32 [n_embd_head*n_head, n_carried]
    std::vector<mass> masses;

    ggml_tensor * kept_rows = nullptr; // I32 [n_kept]
    std::vector<std::pair<int, ggml_tensor *>> kept; // by layer; F32 [n_embd_head*n_head, n_kept]
};

// [n_embd_head, n_head, n_tokens] -> [n_embd_head*n_head, n_tokens]
ggml_tensor * rows_of(ggml_context * ctx, ggml_tensor * q);

// The attention of the scored queries as a whole, and what of it decides.
void build_score(
        const llm_graph_context & graph, kvfold_attn_input & inp, ggml_tensor * q, ggml_tensor * k, ggml_tensor * sinks, float kq_scale, int il);

} // namespace kvfold
