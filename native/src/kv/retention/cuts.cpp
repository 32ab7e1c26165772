#include "kv/retention/cuts.h"

#include "llama-model.h"
#include "llama.h"

namespace kvfold {

static uint64_t next_cut(const kvfold_plan & plan, uint64_t n_tokens) {
    uint64_t cut = 2*((uint64_t) plan.n_sinks + plan.n_swa);
    while (cut > 0 && cut <= n_tokens) {
        cut *= 2;
    }
    return cut;
}

bool is_judged_at(const kvfold_plan & plan, uint64_t n_tokens) {
    return n_tokens > 0 && next_cut(plan, n_tokens - 1) == n_tokens;
}

uint64_t next_judged(const kvfold_plan & plan, uint64_t n_tokens) {
    return plan.is_automatic() && plan.decide == KVFOLD_DECIDE_EARLY ? next_cut(plan, n_tokens) : UINT64_MAX;
}

uint32_t tokens_to_cut(const llama_context * ctx, uint32_t n_tokens) {
    const kvfold_plan & plan = llama_get_model(ctx)->hparams.kv_plan;
    if (plan.evict_chunk > 0) {
        return plan.evict_chunk - n_tokens % plan.evict_chunk;
    }
    if (!plan.is_automatic() || plan.decide != KVFOLD_DECIDE_EARLY) {
        return UINT32_MAX;
    }
    return (uint32_t) (next_cut(plan, n_tokens) - n_tokens);
}

uint32_t tokens_to_answer_cut(const llama_context * ctx, uint32_t n_tokens) {
    const uint32_t each = llama_get_model(ctx)->hparams.kv_plan.evict_answer;
    return each > 0 ? each - n_tokens % each : UINT32_MAX;
}

} // namespace kvfold
