// Cutting prompts into ubatches for plans with upward readers.
//
// p passes over a chunk are exact for its first p tokens (LCKV, Lemma 1), and a pass costs as much as a forward over the
// iterated layers. What counts is therefore the number of tokens of one sequence in a ubatch, not the size of the
// ubatch: prompts that wait together go side by side, a few tokens of each, exact and in one pass, while a lone prompt
// goes in chunks with a bounded number of passes.

#include "kv/graph/prefill.h"
#include "kv/retention/retention.h"

#include "llama-batch.h"
#include "llama-cparams.h"
#include "llama-hparams.h"
#include "llama-model.h"

#include <algorithm>
#include <map>

// Exact chunks never get longer than this: each token is a pass more.
static constexpr uint32_t EXACT_MAX_TOKENS = 16;

// Under KVFOLD_PREFILL_AUTO; docs/prefill.md has the table of errors that this follows from.
static constexpr uint32_t AUTO_MAX_PASSES = 5;

static bool is_exact(const kvfold_plan & plan, int32_t prefill) {
    return plan.n_passes == 0 || prefill == KVFOLD_PREFILL_EXACT;
}

static bool is_fixed(int32_t prefill) {
    return prefill == KVFOLD_PREFILL_FIXED || prefill == KVFOLD_PREFILL_EVALUATION || prefill == KVFOLD_PREFILL_OBSERVATION;
}

static uint32_t max_passes(const kvfold_plan & plan, int32_t prefill) {
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

uint32_t kvfold_choose_seq_tokens(
        const kvfold_split_policy & policy, uint32_t n_seqs, uint32_t n_left, uint32_t n_ubatch, bool verifies) {
    const kvfold_plan & plan = *policy.plan;

    uint32_t max = std::max(1u, std::min(n_left, n_ubatch/n_seqs));
    if (verifies || is_exact(plan, policy.prefill)) {
        max = std::min(max, max_passes(plan, policy.prefill));
    }
    if (is_fixed(policy.prefill)) {
        return max;
    }

    // time of a ubatch in units of one token's computing: passes * (reading the weights + computing its tokens)
    const float share = kvfold_iterated_share(plan);
    const auto cost_per_token = [&](uint32_t k) {
        const float passes = 1.0f + (kvfold_n_passes(plan, policy.prefill, k) - 1)*share;
        return passes*(policy.ridge + n_seqs*k)/(n_seqs*k);
    };
    uint32_t best = 1;
    for (uint32_t k = 2; k <= max; ++k) {
        // a longer chunk is less exact, so it has to be faster by more than what the model can tell
        if (cost_per_token(k) < 0.95f*cost_per_token(best)) {
            best = k;
        }
    }
    return best;
}

kvfold_split_policy kvfold_make_split_policy(const llama_model & model, const llama_cparams & cparams) {
    kvfold_split_policy policy;
    if (model.hparams.kv_plan.upward()) {
        policy.plan    = &model.hparams.kv_plan;
        policy.prefill = cparams.kv_prefill;
        // measured on 2 cores of a server processor, 1.1B in q4_0, and taken from data sheets for GPUs
        policy.ridge   = model.devices.empty() ? 4.0f : 256.0f;
    }
    return policy;
}

uint32_t kvfold_ubatch_tokens(
        const kvfold_split_policy & policy,
        const llama_batch & batch,
        const std::vector<bool> & used,
        uint32_t n_ubatch,
        bool sequential) {
    // the sequences that split_equal() will take, and the tokens that each has left
    struct tokens { uint32_t n, n_outputs; };
    std::map<llama_seq_id, tokens> left;
    llama_seq_id last = -1;
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
        if (used[i]) {
            continue;
        }
        const llama_seq_id seq_id = batch.seq_id[i][0];
        auto it = left.find(seq_id);
        if (it == left.end() && left.size() < n_ubatch && (!sequential || left.empty() || seq_id == last + 1)) {
            it   = left.emplace(seq_id, tokens { 0, 0 }).first;
            last = seq_id;
        }
        if (it != left.end()) {
            it->second.n++;
            it->second.n_outputs += batch.logits && batch.logits[i];
        }
    }

    uint32_t n_left   = UINT32_MAX;
    bool     verifies = false; // drafted tokens, whose logits decide: they must be those of one token after the other
    for (const auto & [_, tokens] : left) {
        n_left    = std::min(n_left, tokens.n);
        verifies |= tokens.n_outputs > 1 && !is_fixed(policy.prefill);
    }
    const uint32_t n_seqs = (uint32_t) left.size();
    return n_seqs == 0 ? n_ubatch : n_seqs*kvfold_choose_seq_tokens(policy, n_seqs, n_left, n_ubatch, verifies);
}

uint32_t kvfold_graph_max_nodes(const llama_hparams & hparams, const llama_cparams & cparams, uint32_t n_tokens, uint32_t n_nodes) {
    if (hparams.kv_plan.is_automatic()) {
        // attention to two caches, and scores
        return 2*n_nodes + kvfold_score_max_nodes(hparams.kv_plan, cparams.kv_unified ? cparams.n_seq_max : 1);
    }
    const uint32_t n_passes = kvfold_n_passes(hparams.kv_plan, cparams.kv_prefill, n_tokens);
    // a pass repeats at most every layer; the writes of zeros before the first one are a few nodes per layer
    return n_passes <= 1 ? n_nodes : n_nodes*(n_passes + 1);
}

int32_t kvfold_prompt_share(const llama_model * model, int32_t n_batch, int32_t n_waiting) {
    if (n_waiting <= 1 || !model->hparams.kv_plan.upward()) {
        return n_batch;
    }
    return std::max(1, n_batch/n_waiting);
}
