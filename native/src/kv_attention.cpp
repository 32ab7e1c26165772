// Attention under a KV plan: producers store keys and values, every layer reads those of the layer that the plan names.

#include "kv_prefill.h"

#include "llama-cparams.h"
#include "llama-graph.h"
#include "llama-hparams.h"
#include "llama-impl.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-cache.h"

#include "ggml-backend.h"

#include <array>
#include <cmath>
#include <map>
#include <vector>

// A query of the first position of a sequence sees no key when its own is masked; its attention is zero by definition
// (LCKV's dummy KV). Softmax over nothing is not: a sink far below every score takes the whole weight of an empty row
// and none of any other.
static constexpr float EMPTY_ROW_SINK = -1e30f;

namespace {

// Graph inputs of one of the (at most) two caches: the full one, and the window-sized one.
struct cache_inputs {
    const llama_kv_cache_context * mctx = nullptr; // null: this cache does not exist

    ggml_tensor * k_idxs = nullptr; // I64 [n_tokens]
    ggml_tensor * v_idxs = nullptr; // I64 [n_tokens] or [n_tokens*n_embd_v_gqa]
    ggml_tensor * k_rot  = nullptr;
    ggml_tensor * v_rot  = nullptr;

    // [masks the diagonal][sliding window]; F32/F16 [n_kv, n_tokens/n_stream, 1, n_stream]; made when first needed
    ggml_tensor * masks[2][2] = {};
};

bool in_use(const ggml_tensor * t) {
    return t && t->buffer;
}

// Fills a mask from upstream's causal one by hiding more cells.
template <typename T>
void hide_cells(
        ggml_tensor * mask,
        const ggml_tensor * k_idxs,
        const llama_kv_cache & kv,
        const llama_ubatch & ubatch,
        bool hide_self,
        uint32_t n_swa,
        uint32_t n_sinks,
        T hidden) {
    const int64_t n_kv  = mask->ne[0];
    const int64_t n_tps = mask->ne[1]; // tokens per stream
    const int64_t size  = kv.get_size();

    T * data = (T *) mask->data;
    const int64_t * idxs = (const int64_t *) k_idxs->data;

    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        T * row = data + (i/n_tps)*n_kv*n_tps + (i%n_tps)*n_kv;
        if (hide_self) {
            row[idxs[i] % size] = hidden;
        }
        if (n_swa > 0) {
            const llama_kv_cells & cells = kv.get_cells(ubatch.seq_id[i][0]);
            for (int64_t j = 0; j < n_kv; ++j) {
                if (!cells.is_empty(j) && cells.pos_get(j) >= (llama_pos) n_sinks && llama_hparams::is_masked_swa(n_swa, LLAMA_SWA_TYPE_STANDARD, cells.pos_get(j), ubatch.pos[i])) {
                    row[j] = hidden;
                }
            }
        }
    }
}

// Shows the first positions of each token's sequence, which upstream's window mask hides once they lie behind the window.
template <typename T>
void show_sinks(ggml_tensor * mask, const llama_kv_cache & kv, const llama_ubatch & ubatch, uint32_t n_sinks, T visible) {
    const int64_t n_kv  = mask->ne[0];
    const int64_t n_tps = mask->ne[1]; // tokens per stream

    T * data = (T *) mask->data;

    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        T * row = data + (i/n_tps)*n_kv*n_tps + (i%n_tps)*n_kv;
        const llama_seq_id     seq_id = ubatch.seq_id[i][0];
        const llama_kv_cells & cells  = kv.get_cells(seq_id);
        for (int64_t j = 0; j < n_kv; ++j) {
            if (!cells.is_empty(j) && cells.seq_has(j, seq_id)) {
                const llama_pos pos = cells.pos_get(j);
                if (pos < (llama_pos) n_sinks && pos <= ubatch.pos[i]) {
                    row[j] = visible;
                }
            }
        }
    }
}

// The mask of a reader, from upstream's.
template <typename T>
void adapt_mask(
        ggml_tensor * mask,
        const ggml_tensor * k_idxs,
        const llama_kv_cache & kv,
        const llama_ubatch & ubatch,
        const kvfold_plan & plan,
        bool hide_self,
        bool window,
        bool is_window_cache,
        T visible,
        T hidden) {
    if (window && is_window_cache && plan.n_sinks > 0) {
        show_sinks<T>(mask, kv, ubatch, plan.n_sinks, visible);
    }
    // the window-sized cache applies its window itself
    const uint32_t n_swa = window && !is_window_cache ? plan.n_swa : 0;
    if (hide_self || n_swa > 0) {
        hide_cells<T>(mask, k_idxs, kv, ubatch, hide_self, n_swa, plan.n_sinks, hidden);
    }
}

} // namespace

struct kvfold_attn_input : public llm_graph_input_attn_kv {
    kvfold_attn_input(const llm_graph_context & graph, const llama_kv_cache_context * full, const llama_kv_cache_context * window) :
        llm_graph_input_attn_kv(graph.hparams, graph.cparams, full),
        n_passes(kvfold_n_passes(graph.hparams.kv_plan, graph.cparams.kv_prefill, graph.ubatch.n_seq_tokens)) {
        caches[0].mctx = full;
        caches[1].mctx = window;
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

    void set_input(const llama_ubatch * ubatch) override {
        for (cache_inputs & cache : caches) {
            if (cache.mctx) {
                set_cache_input(cache, *ubatch);
            }
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

    bool can_reuse(const llm_graph_params & params) override {
        if (caches[1].mctx) {
            const auto * iswa = static_cast<const llama_kv_cache_iswa_context *>(params.mctx);
            caches[0].mctx = iswa->get_base();
            caches[1].mctx = iswa->get_swa();
        } else {
            caches[0].mctx = static_cast<const llama_kv_cache_context *>(params.mctx);
        }
        mctx = caches[0].mctx;

        bool res = n_passes == kvfold_n_passes(hparams.kv_plan, cparams.kv_prefill, params.ubatch.n_seq_tokens);
        for (const cache_inputs & cache : caches) {
            if (!cache.mctx) {
                continue;
            }
            res &= cache.k_idxs->ne[0] == params.ubatch.n_tokens;
            for (const auto & by_window : cache.masks) {
                for (const ggml_tensor * mask : by_window) {
                    res &= !mask || has_mask_shape(mask, cache, params.ubatch);
                }
            }
        }
        return res;
    }

    cache_inputs & cache_of(int il) { return caches[hparams.kv_plan.in_swa[il] ? 1 : 0]; }

    ggml_tensor * get_mask(const llm_graph_context & graph, cache_inputs & cache, bool hide_self, bool window) {
        ggml_tensor * & mask = cache.masks[hide_self][window];
        if (!mask) {
            const int64_t n_stream = n_streams(graph.ubatch);
            // flash attention takes an f16 mask
            mask = ggml_new_tensor_4d(graph.ctx0, cparams.flash_attn ? GGML_TYPE_F16 : GGML_TYPE_F32,
                    cache.mctx->get_n_kv(), graph.ubatch.n_tokens/n_stream, 1, n_stream);
            ggml_set_input(mask);
            ggml_set_name(mask, "attn_inp_kq_mask");
        }
        return mask;
    }

    ggml_tensor * get_sinks(const llm_graph_context & graph, int64_t n_head) {
        ggml_tensor * & t = sinks[n_head];
        if (!t) {
            t = ggml_new_tensor_1d(graph.ctx0, GGML_TYPE_F32, n_head);
            ggml_set_input(t);
            ggml_set_name(t, "kv_empty_row_sinks");
        }
        return t;
    }

    ggml_tensor * get_zeros(const llm_graph_context & graph, int64_t n_embd_head, int64_t n_head) {
        ggml_tensor * & t = zeros[{ n_embd_head, n_head }];
        if (!t) {
            t = ggml_new_tensor_3d(graph.ctx0, GGML_TYPE_F32, n_embd_head, n_head, graph.n_tokens);
            ggml_set_input(t);
            ggml_set_name(t, "kv_zeros");
        }
        return t;
    }

    const uint32_t n_passes;

    // state while the graph is built: which pass of which group
    uint32_t pass = 0;
    bool     iterating = false; // inside a group that will be passed over again
    int      group_top = -1;

    // the nodes that last wrote the rows of this ubatch, by producer; null: not yet in this graph
    struct write { ggml_tensor * k; ggml_tensor * v; };
    std::array<write, KVFOLD_MAX_LAYERS> writes;

private:
    int64_t n_streams(const llama_ubatch & ubatch) const {
        return cparams.kv_unified ? 1 : ubatch.n_seqs_unq;
    }

    bool has_mask_shape(const ggml_tensor * mask, const cache_inputs & cache, const llama_ubatch & ubatch) const {
        const int64_t n_stream = n_streams(ubatch);
        return mask->ne[0] == cache.mctx->get_n_kv() && mask->ne[1] == ubatch.n_tokens/n_stream && mask->ne[3] == n_stream;
    }

    void set_cache_input(cache_inputs & cache, const llama_ubatch & ubatch) {
        if (in_use(cache.k_idxs)) {
            cache.mctx->set_input_k_idxs(cache.k_idxs, &ubatch);
        }
        if (in_use(cache.v_idxs)) {
            cache.mctx->set_input_v_idxs(cache.v_idxs, &ubatch);
        }
        if (in_use(cache.k_rot)) {
            cache.mctx->set_input_k_rot(cache.k_rot);
        }
        if (in_use(cache.v_rot)) {
            cache.mctx->set_input_v_rot(cache.v_rot);
        }

        const bool is_window_cache = &cache == &caches[1];
        for (int hide_self = 0; hide_self < 2; ++hide_self) {
            for (int window = 0; window < 2; ++window) {
                ggml_tensor * mask = cache.masks[hide_self][window];
                if (!in_use(mask)) {
                    continue;
                }
                cache.mctx->set_input_kq_mask(mask, &ubatch, cparams.causal_attn);

                const llama_kv_cache & kv = *cache.mctx->get_kv();
                if (mask->type == GGML_TYPE_F16) {
                    adapt_mask<ggml_fp16_t>(mask, cache.k_idxs, kv, ubatch, hparams.kv_plan, hide_self, window, is_window_cache,
                            ggml_fp32_to_fp16(0.0f), ggml_fp32_to_fp16(-INFINITY));
                } else {
                    adapt_mask<float>(mask, cache.k_idxs, kv, ubatch, hparams.kv_plan, hide_self, window, is_window_cache,
                            0.0f, -INFINITY);
                }
            }
        }
    }

    std::array<cache_inputs, 2> caches;

    std::map<int64_t, ggml_tensor *> sinks;                     // by n_head; F32 [n_head]
    std::map<std::pair<int64_t, int64_t>, ggml_tensor *> zeros; // by {n_embd_head, n_head_kv}; F32 [n_embd_head, n_head_kv, n_tokens]
};

llm_graph_input_attn_kv * kvfold_build_attn_inp(const llm_graph_context & graph) {
    std::unique_ptr<kvfold_attn_input> inp;
    if (graph.hparams.swa_type != LLAMA_SWA_TYPE_NONE) {
        const auto * iswa = static_cast<const llama_kv_cache_iswa_context *>(graph.mctx);
        inp = std::make_unique<kvfold_attn_input>(graph, iswa->get_base(), iswa->get_swa());
    } else {
        inp = std::make_unique<kvfold_attn_input>(graph, static_cast<const llama_kv_cache_context *>(graph.mctx), nullptr);
    }
    return static_cast<llm_graph_input_attn_kv *>(graph.res->add_input(std::move(inp)));
}

bool kvfold_attends_in_f32(const llm_graph_context & graph) {
    return graph.hparams.kv_plan.active() && graph.hparams.kv_plan.upward() && ggml_backend_sched_get_n_backends(graph.sched) == 1;
}

ggml_tensor * kvfold_absent_kv(const llm_graph_context & graph, int64_t n_embd_head, int64_t n_head) {
    return ggml_new_tensor_3d(graph.ctx0, GGML_TYPE_F32, n_embd_head, n_head, graph.n_tokens);
}

// Stores the keys and values of this ubatch in the rows of layer il.
static void write_kv(const llm_graph_context & graph, kvfold_attn_input & inp, ggml_tensor * k_cur, ggml_tensor * v_cur, int il) {
    cache_inputs & cache = inp.cache_of(il);

    ggml_tensor * k = cache.mctx->cpy_k(graph.ctx0, k_cur, cache.k_idxs, il);
    ggml_tensor * v = cache.mctx->cpy_v(graph.ctx0, v_cur, cache.v_idxs, il);
    ggml_build_forward_expand(graph.gf, k);
    ggml_build_forward_expand(graph.gf, v);

    inp.writes[il] = { k, v };
}

// The view of a cache as a view of the node that last wrote to it, so that a reader depends on that node.
static ggml_tensor * read_after(ggml_context * ctx, ggml_tensor * view, ggml_tensor * write) {
    if (!write) {
        return view;
    }
    return ggml_view_4d(ctx, write, view->ne[0], view->ne[1], view->ne[2], view->ne[3], view->nb[1], view->nb[2], view->nb[3], view->view_offs);
}

ggml_tensor * kvfold_build_attn(
        const llm_graph_context & graph,
        llm_graph_input_attn_kv * inp_attn,
        ggml_tensor * wo,
        ggml_tensor * wo_b,
        ggml_tensor * wo_s,
        ggml_tensor * q_cur,
        ggml_tensor * k_cur,
        ggml_tensor * v_cur,
        ggml_tensor * kq_b,
        ggml_tensor * sinks,
        float kq_scale,
        int il) {
    auto & inp = static_cast<kvfold_attn_input &>(*inp_attn);
    const kvfold_plan & plan = graph.hparams.kv_plan;

    ggml_context * ctx0 = graph.ctx0;
    ggml_cgraph  * gf   = graph.gf;

    const bool refresh_only = inp.iterating && il == inp.group_top;

    if (!refresh_only) {
        ggml_build_forward_expand(gf, q_cur);
    }

    if (plan.is_producer(il)) {
        const cache_inputs & cache = inp.cache_of(il);
        if (cache.v_rot) {
            v_cur = llama_mul_mat_hadamard(ctx0, v_cur, cache.v_rot);
        }
        if (cache.k_rot) {
            k_cur = llama_mul_mat_hadamard(ctx0, k_cur, cache.k_rot);
        }
        ggml_build_forward_expand(gf, v_cur);
        ggml_build_forward_expand(gf, k_cur);

        write_kv(graph, inp, k_cur, v_cur, il);
    }

    if (refresh_only) {
        // the pass ends here: the layers below only wait for these keys and values
        return ggml_new_tensor_2d(ctx0, GGML_TYPE_F32, graph.n_embd, graph.n_tokens);
    }

    const int il_kv = plan.kv[il];
    cache_inputs & cache = inp.cache_of(il_kv);

    if (plan.reads_upward(il) && !inp.writes[il_kv].k && graph.ubatch.n_seq_tokens > 1) {
        // the first pass reads rows that nothing has computed yet: zeros, not what a former token left there
        const auto & hparams = graph.hparams;
        write_kv(graph, inp,
                inp.get_zeros(graph, hparams.n_embd_head_k(il_kv), hparams.n_head_kv(il_kv)),
                inp.get_zeros(graph, hparams.n_embd_head_v(il_kv), hparams.n_head_kv(il_kv)), il_kv);
    }

    if (cache.k_rot) {
        q_cur = llama_mul_mat_hadamard(ctx0, q_cur, cache.k_rot);
        ggml_build_forward_expand(gf, q_cur);
    }

    ggml_tensor * k = read_after(ctx0, cache.mctx->get_k(ctx0, il_kv), inp.writes[il_kv].k);
    ggml_tensor * v = read_after(ctx0, cache.mctx->get_v(ctx0, il_kv), inp.writes[il_kv].v);

    const bool masks_self = plan.masks_self(il);
    ggml_tensor * kq_mask = inp.get_mask(graph, cache, masks_self, plan.window[il]);

    if (masks_self && !sinks) {
        sinks = inp.get_sinks(graph, q_cur->ne[1]);
    }

    ggml_tensor * cur = graph.build_attn_mha(q_cur, k, v, kq_b, kq_mask, sinks, nullptr, 0, kq_scale, il);
    graph.cb(cur, "kqv_out", il);

    if (cache.v_rot) {
        cur = llama_mul_mat_hadamard(ctx0, cur, cache.v_rot);
    }
    if (wo) {
        cur = graph.build_lora_mm(wo, cur, wo_s);
    }
    if (wo_b) {
        cur = ggml_add(ctx0, cur, wo_b);
    }
    return cur;
}

kvfold_layer_loop::kvfold_layer_loop(const llm_graph_context & graph, llm_graph_input_attn_kv * inp_attn) {
    if (graph.hparams.kv_plan.upward()) {
        plan = &graph.hparams.kv_plan;
        inp  = static_cast<kvfold_attn_input *>(inp_attn);
    }
}

kvfold_layer_loop::kvfold_layer_loop(const llm_graph_context &, llm_graph_input_attn_no_cache *) {}

void kvfold_layer_loop::enter(int il, ggml_tensor * inpL) {
    if (!inp || group_first >= 0 || !plan->reads_upward(il)) {
        return;
    }
    group_first = il;
    group_input = inpL;

    inp->group_top = (int) plan->group_top(il);
    inp->pass      = 0;
    inp->iterating = inp->n_passes > 1;
}

void kvfold_layer_loop::leave(int & il, ggml_tensor * & inpL) {
    if (group_first < 0 || il != inp->group_top) {
        return;
    }
    if (inp->iterating) {
        inp->pass++;
        inp->iterating = inp->pass + 1 < inp->n_passes;
        inpL = group_input;
        il   = group_first - 1; // the loop's own increment comes next
    } else {
        group_first = -1;
    }
}
