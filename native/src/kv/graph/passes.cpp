// How often layers that read upward are computed for a ubatch.

#include "kv/graph/passes.h"

#include "kv/eviction/method.h"
#include "kv/retention/retention.h"

#include "llama-cparams.h"
#include "llama-hparams.h"

#include <algorithm>

using namespace kvfold;

// Exact chunks never get longer than this: each token is a pass more.
static constexpr uint32_t EXACT_MAX_TOKENS = 16;

// Under KVFOLD_PREFILL_AUTO; docs/prefill.md has the table of errors that this follows from.
static constexpr uint32_t AUTO_MAX_PASSES = 5;

bool kvfold::is_exact(const kvfold_plan & plan, int32_t prefill) {
    // so many passes over a whole ubatch would take longer, and be less exact
    const bool many = prefill == KVFOLD_PREFILL_FIXED && plan.n_passes > EXACT_MAX_TOKENS;
    return plan.n_passes == 0 || prefill == KVFOLD_PREFILL_EXACT || prefill == KVFOLD_PREFILL_SINGLE || many;
}

uint32_t kvfold::max_passes(const kvfold_plan & plan, int32_t prefill) {
    if (prefill == KVFOLD_PREFILL_SINGLE) {
        return 1;
    }
    if (is_exact(plan, prefill)) {
        return EXACT_MAX_TOKENS;
    }
    return prefill == KVFOLD_PREFILL_AUTO ? std::min(plan.n_passes, AUTO_MAX_PASSES) : plan.n_passes;
}

uint32_t kvfold_n_passes(const kvfold_plan & plan, int32_t prefill, uint32_t n_seq_tokens) {
    if (!plan.upward()) {
        return 1;
    }
    return std::min(n_seq_tokens, max_passes(plan, prefill));
}

float kvfold_iterated_share(const kvfold_plan & plan) {
    uint32_t n = 0;
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        if (plan.reads_upward(il)) {
            // the topmost layer of a group only refreshes its keys and values
            n += plan.group_top(il) - il;
            il = plan.group_top(il);
        }
    }
    return (float) n/plan.n_layer;
}

uint32_t kvfold_graph_max_nodes(const llama_hparams & hparams, const llama_cparams & cparams, uint32_t n_tokens, uint32_t n_nodes) {
    if (hparams.kv_plan.is_automatic() || evicts_by_queries(hparams.kv_plan)) {
        // attention to two caches, and scores
        const uint32_t n_seqs    = cparams.kv_unified ? cparams.n_seq_max : 1;
        const uint32_t n_queries = hparams.kv_plan.n_queries*n_seqs;
        uint32_t       n_more    = evicts_by_noise(hparams.kv_plan) || evicts_by_marks(hparams.kv_plan) ? 16 : 0; // kv/graph/scores.cpp, build_score
        for (uint32_t il = 0; evicts_by_highest(hparams.kv_plan) && il < hparams.kv_plan.n_layer; ++il) {
            n_more = std::max(n_more, 4*hparams.n_head(il)/std::max(1u, hparams.n_head_kv(il))); // kv/graph/scores.cpp, highest_of_alike
        }
        return 2*n_nodes + kvfold_score_max_nodes(hparams.kv_plan, evicts_by_all_queries(hparams.kv_plan) ? n_tokens : n_queries, n_seqs, n_more);
    }
    const uint32_t n_passes = kvfold_n_passes(hparams.kv_plan, cparams.kv_prefill, n_tokens);
    // a pass repeats at most every layer; the writes of zeros before the first one are a few nodes per layer
    return n_passes <= 1 ? n_nodes : n_nodes*(n_passes + 1);
}
