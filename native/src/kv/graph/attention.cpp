// Attention under a KV plan: producers store keys and values, every layer reads those of the layer that the plan names.

#include "hooks/kv-plan-attention.h"
#include "hooks/cpu-attention.h"

#include "kv/eviction/evictor.h"
#include "kv/eviction/method.h"
#include "kv/graph/attn_input.h"
#include "kv/graph/scores.h"

#include "llama-cparams.h"
#include "llama-graph.h"
#include "llama-hparams.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"

#include "ggml-backend.h"

#include <cstring>
#include <stdexcept>
#include <string>

using namespace kvfold;

// The fused kernel reads F32 as it is, too: a copy in F16 of all that a cache holds, per layer and step, costs more than attention.
bool kvfold_attends_in_f32(const llm_graph_context & graph) {
    const kvfold_plan & plan  = graph.hparams.kv_plan;
    const bool          fused = graph.cparams.cpu_attention == KVFOLD_CPU_ATTENTION_FUSED;
    return (fused || (plan.active() && plan.upward())) && ggml_backend_sched_get_n_backends(graph.sched) == 1;
}

ggml_tensor * kvfold_absent_kv(const llm_graph_context & graph, int64_t n_embd_head, int64_t n_head) {
    return ggml_new_tensor_3d(graph.ctx0, GGML_TYPE_F32, n_embd_head, n_head, graph.n_tokens);
}

// Stores the keys and values of this ubatch in the rows of layer il.
static void write_kv(const llm_graph_context & graph, kvfold_attn_input & inp, cache_inputs & cache, ggml_tensor * k_cur, ggml_tensor * v_cur, int il) {
    ggml_tensor * k = cache.mctx->cpy_k(graph.ctx0, k_cur, cache.k_idxs, il);
    ggml_tensor * v = cache.mctx->cpy_v(graph.ctx0, v_cur, cache.v_idxs, il);
    ggml_build_forward_expand(graph.gf, k);
    ggml_build_forward_expand(graph.gf, v);

    inp.write_of(cache, il) = { k, v };
}

static ggml_tensor * rotate(ggml_context * ctx, ggml_tensor * t, ggml_tensor * rot) {
    return rot ? llama_mul_mat_hadamard(ctx, t, rot) : t;
}

// The view of a cache as a view of the node that last wrote to it, so that a reader depends on that node.
static ggml_tensor * read_after(ggml_context * ctx, ggml_tensor * view, ggml_tensor * write) {
    if (!write) {
        return view;
    }
    return ggml_view_4d(ctx, write, view->ne[0], view->ne[1], view->ne[2], view->ne[3], view->nb[1], view->nb[2], view->nb[3], view->view_offs);
}

// The queries of layer il before RoPE, if it has any; and says what RoPE does to them.
static ggml_tensor * before_rope(ggml_context * ctx, ggml_tensor * q, evictor & evicts, float kq_scale, int il) {
    float scale = 1;
    while (q->op == GGML_OP_SCALE) {
        float factor = 1;
        std::memcpy(&factor, q->op_params, sizeof(factor));
        scale *= factor;
        q      = q->src[0];
    }
    const ggml_tensor * rope = q;
    while (rope && rope->op != GGML_OP_ROPE && rope->op != GGML_OP_MUL_MAT) {
        rope = rope->src[0];
    }
    if (!rope || rope->op != GGML_OP_ROPE) {
        evicts.turns(il, nullptr, kq_scale);
    } else if (rope != q) {
        throw std::runtime_error("eviction by expected attention is not supported where queries are changed after RoPE (" +
                                 std::string(ggml_op_name(q->op)) + ")");
    } else {
        evicts.turns(il, rope, kq_scale);
        q = q->src[0];
    }
    return scale == 1 ? q : ggml_scale(ctx, q, scale);
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
        for (cache_inputs * cache : inp.stored_in(il)) {
            ggml_tensor * v_rot = rotate(ctx0, v_cur, cache->v_rot);
            ggml_tensor * k_rot = rotate(ctx0, k_cur, cache->k_rot);
            ggml_build_forward_expand(gf, v_rot);
            ggml_build_forward_expand(gf, k_rot);

            write_kv(graph, inp, *cache, k_rot, v_rot, il);
        }
    }

    if (refresh_only) {
        // the pass ends here: the layers below only wait for these keys and values
        return ggml_new_tensor_2d(ctx0, GGML_TYPE_F32, graph.n_embd, graph.n_tokens);
    }

    const int  il_kv      = plan.kv[il];
    const bool masks_self = plan.masks_self(il);
    const auto read       = inp.read_in(il);

    // a row that reads one of two caches has an empty row in the other one, which adds zero
    if ((masks_self || read.size() > 1) && !sinks) {
        sinks = inp.get_sinks(graph, q_cur->ne[1]);
    }

    ggml_tensor * cur = nullptr;
    for (cache_inputs * cache : read) {
        if (plan.reads_upward(il) && !inp.write_of(*cache, il_kv).k && graph.ubatch.n_seq_tokens > 1) {
            // the first pass reads rows that nothing has computed yet: zeros, not what a former token left there
            const auto & hparams = graph.hparams;
            write_kv(graph, inp, *cache,
                    inp.get_zeros(graph, hparams.n_embd_head_k(il_kv), hparams.n_head_kv(il_kv)),
                    inp.get_zeros(graph, hparams.n_embd_head_v(il_kv), hparams.n_head_kv(il_kv)), il_kv);
        }

        ggml_tensor * q = rotate(ctx0, q_cur, cache->k_rot);
        ggml_build_forward_expand(gf, q);

        ggml_tensor * k = read_after(ctx0, cache->mctx->get_k(ctx0, il_kv), inp.write_of(*cache, il_kv).k);
        ggml_tensor * v = read_after(ctx0, cache->mctx->get_v(ctx0, il_kv), inp.write_of(*cache, il_kv).v);

        if (!cache->is_window && inp.who.scores[il] && inp.who.n_scored > 0) {
            build_score(graph, inp, q, k, sinks, kq_scale, il);
        }
        if (!cache->is_window && inp.who.keeps[il]) {
            inp.keep_queries(graph, rows_of(ctx0, evicts_by_moments(plan) ? before_rope(ctx0, q_cur, *inp.evictor, kq_scale, il) : q), il);
        }

        ggml_tensor * kq_mask = inp.get_mask(graph, *cache, masks_self, il);

        ggml_tensor * out = graph.build_attn_mha(q, k, v, kq_b, kq_mask, sinks, nullptr, 0, kq_scale, il);
        graph.cb(out, "kqv_out", il);

        out = rotate(ctx0, out, cache->v_rot);
        cur = cur ? ggml_add(ctx0, cur, out) : out;
    }

    if (wo) {
        cur = graph.build_lora_mm(wo, cur, wo_s);
    }
    if (wo_b) {
        cur = ggml_add(ctx0, cur, wo_b);
    }
    return cur;
}
