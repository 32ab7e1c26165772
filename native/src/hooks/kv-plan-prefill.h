// How prompts are cut under a plan whose layers read upward. Implemented in kv/graph.
#ifndef KVFOLD_KV_PLAN_PREFILL_H
#define KVFOLD_KV_PLAN_PREFILL_H

#include "kv-plan.h"
#include <cstdint>
#include <vector>

struct llama_batch;
struct llama_cparams;
struct llama_hparams;
struct llama_model;

// How a prompt is cut into ubatches when the plan has upward readers (llama_context_params::kv_prefill).
enum kvfold_prefill {
    KVFOLD_PREFILL_FIXED = 0, // as many tokens as a ubatch holds, the plan's number of passes over them
    KVFOLD_PREFILL_AUTO  = 1, // tokens per sequence and passes by a cost model, see kv/graph/prefill.cpp
    KVFOLD_PREFILL_EXACT = 2, // like AUTO, but never more tokens of a sequence than passes

    // not options: like FIXED, for contexts whose positions may all have outputs
    KVFOLD_PREFILL_EVALUATION  = 3, // all tokens are a prompt's, so that layers may turn out lazy on the way
    KVFOLD_PREFILL_OBSERVATION = 4, // no layer does

    // not an option: EXACT where more than one token of a sequence never pays, so that no graph with passes is reserved
    KVFOLD_PREFILL_SINGLE = 5,
};

// Nodes that a graph can have, given what it could have without a plan.
uint32_t kvfold_graph_max_nodes(const llama_hparams & hparams, const llama_cparams & cparams, uint32_t n_tokens, uint32_t n_nodes);

// Tokens of one sequence per ubatch are what upward readers pay for, so the split is ours for such plans.
struct kvfold_split_policy {
    const kvfold_plan * plan = nullptr; // null: upstream's split
    int32_t prefill = KVFOLD_PREFILL_FIXED;
    float   ridge   = 0.0f; // tokens in a ubatch at which computing takes as long as reading the weights
};

// What KVFOLD_PREFILL_AUTO means for a model: EXACT, where a lone prompt takes at most twice as long; and EXACT: SINGLE,
// where no chunk would be longer. The rest as it is.
int32_t kvfold_choose_prefill(const llama_model & model, int32_t prefill, uint32_t n_ubatch);

kvfold_split_policy kvfold_make_split_policy(const llama_model & model, const llama_cparams & cparams);

// The size to give split_equal() for the next ubatch, at most n_ubatch; `used` says which tokens earlier ubatches took.
uint32_t kvfold_ubatch_tokens(
        const kvfold_split_policy & policy,
        const llama_batch & batch,
        const std::vector<bool> & used,
        uint32_t n_ubatch,
        bool sequential);

// How many tokens of its prompt a slot may put into the next batch when `n_waiting` slots have one.
int32_t kvfold_prompt_share(const llama_model * model, int32_t n_batch, int32_t n_waiting);

#endif
