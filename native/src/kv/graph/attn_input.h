// The inputs of a graph that attends under a plan: rows, masks and scores of its ubatch.
#pragma once

#include "hooks/kv-plan.h"
#include "kv/graph/scores.h"
#include "kv/retention/retention.h"

#include "llama-graph.h"

#include "ggml-backend.h"

#include <array>
#include <map>
#include <utility>
#include <vector>

namespace kvfold {

class evictor;

// Who reads what: by layer and sequence of the ubatch, and what is scored. Two ubatches with the same one have the same
// graph.
struct ubatch_reads {
    std::vector<std::vector<kv_read>> reads;  // [n_layer][n_seqs_unq]; [n_layer][1] under a plan without automatic retention
    std::vector<uint8_t>              stores; // [n_layer], STORES_*
    std::vector<uint8_t>              scores; // [n_layer]
    std::vector<uint8_t>              keeps;  // [n_layer], its queries for later scores
    size_t                            n_scored  = 0; // queries
    size_t                            n_carried = 0; // those of them that were kept from an earlier ubatch
    size_t                            n_kept    = 0; // rows whose queries are kept for a later one
    std::vector<size_t>               groups;        // queries of each sequence, where some that are scored share cells; else empty

    bool operator==(const ubatch_reads & other) const {
        return reads == other.reads && stores == other.stores && scores == other.scores && keeps == other.keeps &&
               n_scored == other.n_scored && n_carried == other.n_carried && n_kept == other.n_kept && groups == other.groups;
    }
};

constexpr uint8_t STORES_FULL   = 1;
constexpr uint8_t STORES_WINDOW = 2;

// Graph inputs of one of the (at most) two caches: the full one, and the window-sized one.
struct cache_inputs {
    const llama_kv_cache_context * mctx = nullptr; // null: this cache does not exist
    bool is_window = false;

    ggml_tensor * k_idxs = nullptr; // I64 [n_tokens]
    ggml_tensor * v_idxs = nullptr; // I64 [n_tokens] or [n_tokens*n_embd_v_gqa]
    ggml_tensor * k_rot  = nullptr;
    ggml_tensor * v_rot  = nullptr;

    struct mask {
        ggml_tensor * tensor; // F32/F16 [n_kv, n_tokens/n_stream, 1, n_stream]
        bool          hide_self;
        int           il;     // a layer that reads by it
    };

    std::vector<mask> masks; // made when first needed
};

inline bool in_use(const ggml_tensor * t) {
    return t && t->buffer;
}

} // namespace kvfold

struct kvfold_attn_input : public llm_graph_input_attn_kv {
    using cache_inputs = kvfold::cache_inputs;
    using score_inputs = kvfold::score_inputs;
    using ubatch_reads = kvfold::ubatch_reads;

    explicit kvfold_attn_input(const llm_graph_context & graph);

    void set_input(const llama_ubatch * ubatch) override;
    bool can_reuse(const llm_graph_params & params) override;

    // The caches that some sequence of the ubatch keeps the rows of producer il in.
    std::vector<cache_inputs *> stored_in(int il);

    // The caches that some sequence of the ubatch reads at layer il.
    std::vector<cache_inputs *> read_in(int il);

    ggml_tensor * get_mask(const llm_graph_context & graph, cache_inputs & cache, bool hide_self, int il);
    ggml_tensor * get_sinks(const llm_graph_context & graph, int64_t n_head);
    ggml_tensor * get_zeros(const llm_graph_context & graph, int64_t n_embd_head, int64_t n_head);

    score_inputs & get_score(const llm_graph_context & graph);

    // The scored queries of layer il, given those of the whole ubatch: F32 [n_embd_head*n_head, n_scored].
    ggml_tensor * get_queries(const llm_graph_context & graph, ggml_tensor * all, int il);

    void keep_queries(const llm_graph_context & graph, ggml_tensor * all, int il);

    // After the ubatch was computed.
    void read_scores(const llama_ubatch & ubatch, ggml_backend_sched * sched);

    const uint32_t n_passes;

    kvfold_retention * const retention; // null: the plan says it all
    kvfold::evictor *  const evictor;   // null: nothing is evicted
    const kv_judge *   const judge;     // one of these; null: nothing depends on how queries attend
    const ubatch_reads       who;

    // state while the graph is built: which pass of which group
    uint32_t pass = 0;
    bool     iterating = false; // inside a group that will be passed over again
    int      group_top = -1;

    // the nodes that last wrote the rows of this ubatch, by cache and producer; null: not yet in this graph
    struct write { ggml_tensor * k; ggml_tensor * v; };
    std::array<std::array<write, KVFOLD_MAX_LAYERS>, 2> writes;

    write & write_of(const cache_inputs & cache, int il) { return writes[cache.is_window][il]; }

private:
    void set_caches(const llama_memory_context_i * of);

    int64_t n_streams(const llama_ubatch & ubatch) const {
        return cparams.kv_unified ? 1 : ubatch.n_seqs_unq;
    }

    // What the largest graph is reserved for: a ubatch of no sequence in particular.
    static bool is_reserve(const llama_ubatch & ubatch) {
        return ubatch.n_tokens > 0 && ubatch.n_seq_id[0] == 0;
    }

    ubatch_reads reads_of(const llama_ubatch & ubatch) const;

    // Two layers see the same rows of the same sequences.
    bool see_alike(int a, int b) const;

    bool has_mask_shape(const ggml_tensor * mask, const cache_inputs & cache, const llama_ubatch & ubatch) const;
    void set_cache_input(cache_inputs & cache, const llama_ubatch & ubatch);

    // The scored queries of all sequences; with streams, equally many of each sequence, where the last ones fill up.
    std::vector<kv_query> scored_queries(const std::vector<kv_ubatch_part> & parts) const;

    std::vector<int32_t> kept_rows(const llama_ubatch & ubatch) const;
    void decide(const llama_ubatch & ubatch);
    void evict (const llama_ubatch & ubatch);

    // Of `rows`, the first of which is kept row `first` of the graph.
    kv_kept_queries kept_queries(const llama_ubatch & ubatch, const std::vector<int32_t> & rows, size_t first) const;

    // Where a scored query has its row in the inputs: they are part by part, in a part stream by stream, or head by head of its noises.
    int64_t row_of_query(int64_t q, int64_t n_stream) const;
    const score_inputs::part & part_of_query(int64_t q, int64_t n_stream) const;

    // Rows of noise of each scored query: for each of the heads that read one, in a layer with the most of these. 1: none is added.
    int64_t n_noises() const;

    void set_score_input(const llama_ubatch & ubatch);

    std::array<cache_inputs, 2> caches;
    score_inputs                score;

    std::map<int64_t, ggml_tensor *> sinks;                     // by n_head; F32 [n_head]
    std::map<std::pair<int64_t, int64_t>, ggml_tensor *> zeros; // by {n_embd_head, n_head_kv}; F32 [n_embd_head, n_head_kv, n_tokens]
};
