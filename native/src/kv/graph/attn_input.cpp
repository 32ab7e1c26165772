#include "kv/graph/attn_input.h"

#include "hooks/kv-plan-attention.h"
#include "kv/eviction/evictor.h"
#include "kv/eviction/method.h"
#include "kv/graph/passes.h"
#include "kv/memory/folded_memory.h"

#include "llama-cparams.h"
#include "llama-hparams.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <memory>

using namespace kvfold;

// A query of the first position of a sequence sees no key when its own is masked; its attention is zero by definition
// (LCKV's dummy KV). Softmax over nothing is not: a sink far below every score takes the whole weight of an empty row
// and none of any other.
static constexpr float EMPTY_ROW_SINK = -1e30f;

static const folded_context * folded(const llama_memory_context_i * mctx) {
    return dynamic_cast<const folded_context *>(mctx); // another one is that of a single cache
}

kvfold_attn_input::kvfold_attn_input(const llm_graph_context & graph) :
    llm_graph_input_attn_kv(graph.hparams, graph.cparams, nullptr),
    n_passes(kvfold_n_passes(graph.hparams.kv_plan, graph.cparams.kv_prefill, graph.ubatch.n_seq_tokens)),
    retention(folded(graph.mctx) ? folded(graph.mctx)->retention() : nullptr),
    evictor(folded(graph.mctx) ? folded(graph.mctx)->evictor() : nullptr),
    judge(retention ? (const kv_judge *) retention : evicts_by_queries(graph.hparams.kv_plan) ? evictor : nullptr),
    who(reads_of(graph.ubatch)) {
    set_caches(graph.mctx);
    caches[1].is_window = true;
    for (cache_inputs & cache : caches) {
        if (cache.mctx) {
            cache.k_idxs = cache.mctx->build_input_k_idxs(graph.ctx0, graph.ubatch);
            cache.v_idxs = cache.mctx->build_input_v_idxs(graph.ctx0, graph.ubatch);
            cache.k_rot  = cache.mctx->build_input_k_rot(graph.ctx0);
            cache.v_rot  = cache.mctx->build_input_v_rot(graph.ctx0);
        }
    }
    writes.fill({});
}

void kvfold_attn_input::set_caches(const llama_memory_context_i * of) {
    caches[0].mctx = folded(of) ? folded(of)->full() : static_cast<const llama_kv_cache_context *>(of);
    caches[1].mctx = folded(of) ? folded(of)->window() : nullptr;
    mctx = caches[0].mctx;
}

void kvfold_attn_input::set_input(const llama_ubatch * ubatch) {
    for (cache_inputs & cache : caches) {
        if (cache.mctx) {
            set_cache_input(cache, *ubatch);
        }
    }
    if (in_use(score.rows)) {
        set_score_input(*ubatch);
    }
    if (in_use(score.kept_rows)) {
        const auto rows = kept_rows(*ubatch);
        ggml_backend_tensor_set(score.kept_rows, rows.data(), 0, ggml_nbytes(score.kept_rows));
    }
    for (auto & [_, t] : sinks) {
        if (in_use(t)) {
            const std::vector<float> values(t->ne[0], EMPTY_ROW_SINK);
            ggml_backend_tensor_set(t, values.data(), 0, ggml_nbytes(t));
        }
    }
    for (auto & [_, t] : zeros) {
        if (in_use(t)) {
            ggml_backend_tensor_memset(t, 0, 0, ggml_nbytes(t));
        }
    }
}

bool kvfold_attn_input::can_reuse(const llm_graph_params & params) {
    set_caches(params.mctx);

    bool res = n_passes == kvfold_n_passes(hparams.kv_plan, cparams.kv_prefill, params.ubatch.n_seq_tokens);
    for (const cache_inputs & cache : caches) {
        if (!cache.mctx) {
            continue;
        }
        res &= cache.k_idxs->ne[0] == params.ubatch.n_tokens;
        for (const cache_inputs::mask & mask : cache.masks) {
            res &= has_mask_shape(mask.tensor, cache, params.ubatch);
        }
    }
    res &= !score.rows || score.mask->ne[0] == caches[0].mctx->get_n_kv();
    return res && (!judge || who == reads_of(params.ubatch));
}

std::vector<cache_inputs *> kvfold_attn_input::stored_in(int il) {
    std::vector<cache_inputs *> in;
    for (cache_inputs & cache : caches) {
        if (who.stores[il] & (cache.is_window ? STORES_WINDOW : STORES_FULL)) {
            in.push_back(&cache);
        }
    }
    return in;
}

std::vector<cache_inputs *> kvfold_attn_input::read_in(int il) {
    const auto & reads = who.reads[il];
    std::vector<cache_inputs *> in;
    for (cache_inputs & cache : caches) {
        if (std::any_of(reads.begin(), reads.end(), [&](kv_read read) { return (read == kv_read::WINDOW) == cache.is_window; })) {
            in.push_back(&cache);
        }
    }
    return in;
}

ggml_tensor * kvfold_attn_input::get_sinks(const llm_graph_context & graph, int64_t n_head) {
    ggml_tensor * & t = sinks[n_head];
    if (!t) {
        t = ggml_new_tensor_1d(graph.ctx0, GGML_TYPE_F32, n_head);
        ggml_set_input(t);
        ggml_set_name(t, "kv_empty_row_sinks");
    }
    return t;
}

ggml_tensor * kvfold_attn_input::get_zeros(const llm_graph_context & graph, int64_t n_embd_head, int64_t n_head) {
    ggml_tensor * & t = zeros[{ n_embd_head, n_head }];
    if (!t) {
        t = ggml_new_tensor_3d(graph.ctx0, GGML_TYPE_F32, n_embd_head, n_head, graph.n_tokens);
        ggml_set_input(t);
        ggml_set_name(t, "kv_zeros");
    }
    return t;
}

ubatch_reads kvfold_attn_input::reads_of(const llama_ubatch & ubatch) const {
    const kvfold_plan & plan = hparams.kv_plan;
    ubatch_reads        who;
    who.reads .resize(plan.n_layer);
    who.stores.resize(plan.n_layer);
    who.scores.resize(plan.n_layer);
    who.keeps .resize(plan.n_layer);
    if (!retention || is_reserve(ubatch)) {
        for (uint32_t il = 0; il < plan.n_layer; ++il) {
            who.reads[il]  = { kvfold_fixed_read(plan, (int) il) };
            who.stores[il] = plan.in_both[il] ? STORES_FULL | STORES_WINDOW : plan.in_swa[il] ? STORES_WINDOW : STORES_FULL;
        }
    }
    if (!judge) {
        return who;
    }
    if (is_reserve(ubatch)) {
        for (uint32_t il = 0; il < plan.n_layer; ++il) {
            who.scores[il] = judge->judges(0, (int) il);
        }
        const uint32_t n_queries = plan.decide == KVFOLD_DECIDE_DECODE ? 1 : evicts_by_all_queries(plan) ? ubatch.n_seq_tokens : plan.n_queries;
        const uint32_t n_all     = std::min(n_queries, ubatch.n_seq_tokens)*ubatch.n_seqs;
        who.n_scored  = evicts_by_moments(plan) ? 0 : n_all;
        who.n_carried = 0; // they come in place of others
        who.n_kept    = plan.decide == KVFOLD_DECIDE_DECODE || (evicts_by_all_queries(plan) && !evicts_by_moments(plan)) ? 0 : n_all;
        who.keeps     = who.n_kept > 0 ? who.scores : who.keeps;
        return who;
    }
    const auto parts = kvfold_ubatch_parts(ubatch);
    for (const kv_query & query : scored_queries(parts)) {
        who.n_scored++;
        who.n_carried += query.row < 0;
    }
    std::vector<llama_seq_id> scored, kept;
    std::vector<size_t>       groups;
    for (const kv_ubatch_part & part : parts) {
        if (const size_t n = judge->scored_queries(part, cparams.kv_prefill).size()) {
            scored.push_back(part.seq_id);
            groups.push_back(n);
        }
        if (const size_t n = judge->kept_rows(part, cparams.kv_prefill).size()) {
            kept.push_back(part.seq_id);
            who.n_kept += n;
        }
    }
    if (evictor && scored.size() > 1 && std::any_of(scored.begin(), scored.end(), [&](llama_seq_id id) { return evictor->shares(id); })) {
        who.groups = groups;
    }
    for (uint32_t il = 0; il < plan.n_layer; ++il) {
        const auto judges = [&](llama_seq_id id) { return judge->judges(id, (int) il); };
        who.scores[il] = std::any_of(scored.begin(), scored.end(), judges);
        who.keeps [il] = std::any_of(kept.begin(), kept.end(), judges);
        if (!retention) {
            continue;
        }
        if (!plan.in_both[il]) {
            who.stores[il] = plan.in_swa[il] ? STORES_WINDOW : STORES_FULL;
        }
        for (uint32_t s = 0; s < ubatch.n_seqs_unq; ++s) {
            const llama_seq_id seq_id = ubatch.seq_id_unq[s];
            who.reads[il].push_back(retention->read_of(seq_id, (int) il));
            if (plan.in_both[il]) {
                who.stores[il] |= retention->is_in_window(seq_id, (int) il) ? STORES_WINDOW : STORES_FULL;
            }
        }
    }
    return who;
}

llm_graph_input_attn_kv * kvfold_build_attn_inp(const llm_graph_context & graph) {
    return static_cast<llm_graph_input_attn_kv *>(graph.res->add_input(std::make_unique<kvfold_attn_input>(graph)));
}
