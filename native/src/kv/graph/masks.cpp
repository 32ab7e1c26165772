// Which keys a row of the ubatch sees.

#include "kv/graph/attn_input.h"

#include "kv/eviction/evictor.h"

#include "llama-cparams.h"
#include "llama-hparams.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <cmath>

using namespace kvfold;

namespace {

// Adapts upstream's causal mask to what each row reads of this cache.
template <typename T>
void adapt_mask(
        const cache_inputs & cache,
        const cache_inputs::mask & mask,
        const llama_ubatch & ubatch,
        const kvfold_plan & plan,
        const evictor * evicts,
        const std::vector<kv_read> & reads,
        T hidden) {
    const llama_kv_cache & kv    = *cache.mctx->get_kv();
    const int              il_kv = plan.kv[mask.il];

    const int64_t n_kv  = mask.tensor->ne[0];
    const int64_t n_tps = mask.tensor->ne[1]; // tokens per stream
    const int64_t size  = kv.get_size();

    const int64_t * idxs = (const int64_t *) cache.k_idxs->data;

    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        T * row = (T *) mask.tensor->data + (i/n_tps)*n_kv*n_tps + (i%n_tps)*n_kv;

        const llama_seq_id     seq_id = ubatch.seq_id[i][0];
        const llama_kv_cells & cells  = kv.get_cells(seq_id);
        const kv_read          read   = reads.size() == 1 ? reads[0] : reads[ubatch.seq_idx[seq_id]];

        if ((read == kv_read::WINDOW) != cache.is_window) {
            std::fill(row, row + n_kv, hidden); // it reads the other cache
            continue;
        }
        for (int64_t j = 0; read != kv_read::ALL && j < n_kv; ++j) {
            if (!cells.is_empty(j) && plan.hides(cells.pos_get(j), ubatch.pos[i])) {
                row[j] = hidden;
            }
        }
        for (int64_t j = 0; evicts && evicts->hides_any() && !cache.is_window && j < n_kv; ++j) {
            if (!cells.is_empty(j) && evicts->hides(seq_id, il_kv, cells.pos_get(j))) {
                row[j] = hidden;
            }
        }
        if (mask.hide_self) {
            row[idxs[i] % size] = hidden;
        }
    }
}

} // namespace

ggml_tensor * kvfold_attn_input::get_mask(const llm_graph_context & graph, cache_inputs & cache, bool hide_self, int il) {
    for (const cache_inputs::mask & mask : cache.masks) {
        if (mask.hide_self == hide_self && see_alike(mask.il, il)) {
            return mask.tensor;
        }
    }
    const int64_t n_stream = n_streams(graph.ubatch);
    // flash attention takes an f16 mask
    ggml_tensor * mask = ggml_new_tensor_4d(graph.ctx0, cparams.flash_attn ? GGML_TYPE_F16 : GGML_TYPE_F32,
            cache.mctx->get_n_kv(), graph.ubatch.n_tokens/n_stream, 1, n_stream);
    ggml_set_input(mask);
    ggml_set_name(mask, "attn_inp_kq_mask");
    cache.masks.push_back({ mask, hide_self, il });
    return mask;
}

bool kvfold_attn_input::see_alike(int a, int b) const {
    const auto & plan = hparams.kv_plan;
    return who.reads[a] == who.reads[b] && (!evictor || evictor->keep_alike(plan.kv[a], plan.kv[b]));
}

bool kvfold_attn_input::has_mask_shape(const ggml_tensor * mask, const cache_inputs & cache, const llama_ubatch & ubatch) const {
    const int64_t n_stream = n_streams(ubatch);
    return mask->ne[0] == cache.mctx->get_n_kv() && mask->ne[1] == ubatch.n_tokens/n_stream && mask->ne[3] == n_stream;
}

void kvfold_attn_input::set_cache_input(cache_inputs & cache, const llama_ubatch & ubatch) {
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
    for (const cache_inputs::mask & mask : cache.masks) {
        if (!in_use(mask.tensor)) {
            continue;
        }
        cache.mctx->set_input_kq_mask(mask.tensor, &ubatch, cparams.causal_attn);
        if (mask.tensor->type == GGML_TYPE_F16) {
            adapt_mask<ggml_fp16_t>(cache, mask, ubatch, hparams.kv_plan, evictor, who.reads[mask.il], ggml_fp32_to_fp16(-INFINITY));
        } else {
            adapt_mask<float>(cache, mask, ubatch, hparams.kv_plan, evictor, who.reads[mask.il], -INFINITY);
        }
    }
}
