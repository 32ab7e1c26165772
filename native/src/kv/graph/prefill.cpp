// Cutting prompts into ubatches for plans with upward readers.
//
// p passes over a chunk are exact for its first p tokens (LCKV, Lemma 1), and a pass costs as much as a forward over the
// iterated layers. What counts is therefore the number of tokens of one sequence in a ubatch, not the size of the
// ubatch: prompts that wait together go side by side, a few tokens of each, exact and in one pass, while a lone prompt
// goes in chunks with a bounded number of passes.

#include "hooks/kv-plan-prefill.h"

#include "kv/graph/passes.h"

#include "llama-batch.h"
#include "llama-cparams.h"
#include "llama-hparams.h"
#include "llama-model.h"

#include <algorithm>
#include <map>

using namespace kvfold;

static bool is_fixed(int32_t prefill) {
    return prefill == KVFOLD_PREFILL_FIXED || prefill == KVFOLD_PREFILL_EVALUATION || prefill == KVFOLD_PREFILL_OBSERVATION;
}

// How much longer a lone prompt may take if it is computed exactly: then it does not matter what else runs, and prompts that
// wait together gain more than that.
static constexpr float EXACT_MAX_COST = 2.0f;

// Of a ubatch with k tokens of each sequence, in units of one token's computing: passes * (reading the weights + computing
// its tokens).
static float cost_per_token(const kvfold_split_policy & policy, uint32_t n_seqs, uint32_t k) {
    const float passes = 1.0f + (kvfold_n_passes(*policy.plan, policy.prefill, k) - 1)*kvfold_iterated_share(*policy.plan);
    return passes*(policy.ridge + n_seqs*k)/(n_seqs*k);
}

// Tokens per sequence of the next ubatch, when n_seqs sequences each have at least n_left tokens left. With `verifies` no
// more than are exact.
static uint32_t choose_seq_tokens(
        const kvfold_split_policy & policy, uint32_t n_seqs, uint32_t n_left, uint32_t n_ubatch, bool verifies) {
    const kvfold_plan & plan = *policy.plan;

    uint32_t max = std::max(1u, std::min(n_left, n_ubatch/n_seqs));
    if (verifies || is_exact(plan, policy.prefill)) {
        max = std::min(max, max_passes(plan, policy.prefill));
    }
    if (is_fixed(policy.prefill)) {
        return max;
    }

    uint32_t best = 1;
    for (uint32_t k = 2; k <= max; ++k) {
        // a longer chunk is less exact, so it has to be faster by more than what the model can tell
        if (cost_per_token(policy, n_seqs, k) < 0.95f*cost_per_token(policy, n_seqs, best)) {
            best = k;
        }
    }
    return best;
}

// Measured on 2 cores of a server processor, 1.1B in q4_0, and taken from data sheets for GPUs.
static float ridge_of(const llama_model & model) {
    return model.devices.empty() ? 4.0f : 256.0f;
}

int32_t kvfold_choose_prefill(const llama_model & model, int32_t prefill, uint32_t n_ubatch) {
    const kvfold_plan & plan = model.hparams.kv_plan;
    if ((prefill != KVFOLD_PREFILL_AUTO && prefill != KVFOLD_PREFILL_EXACT) || !plan.upward()) {
        return prefill;
    }
    const auto chunk = [&](const kvfold_split_policy & policy) {
        return choose_seq_tokens(policy, 1, n_ubatch, n_ubatch, false);
    };
    const kvfold_split_policy exact = { &plan, KVFOLD_PREFILL_EXACT, ridge_of(model) };
    const uint32_t            n     = chunk(exact);
    if (prefill == KVFOLD_PREFILL_AUTO) {
        const kvfold_split_policy bounded = { &plan, prefill, exact.ridge };
        if (cost_per_token(exact, 1, n) > EXACT_MAX_COST*cost_per_token(bounded, 1, chunk(bounded))) {
            return prefill;
        }
    }
    // side by side, longer chunks of each pay even less
    return n == 1 ? KVFOLD_PREFILL_SINGLE : KVFOLD_PREFILL_EXACT;
}

kvfold_split_policy kvfold_make_split_policy(const llama_model & model, const llama_cparams & cparams) {
    kvfold_split_policy policy;
    if (model.hparams.kv_plan.upward()) {
        policy.plan    = &model.hparams.kv_plan;
        policy.prefill = cparams.kv_prefill;
        policy.ridge   = ridge_of(model);
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
    return n_seqs == 0 ? n_ubatch : n_seqs*choose_seq_tokens(policy, n_seqs, n_left, n_ubatch, verifies);
}

int32_t kvfold_prompt_share(const llama_model * model, int32_t n_batch, int32_t n_waiting) {
    if (n_waiting <= 1 || !model->hparams.kv_plan.upward()) {
        return n_batch;
    }
    return std::max(1, n_batch/n_waiting);
}
