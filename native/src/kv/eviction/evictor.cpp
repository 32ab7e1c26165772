#include "kv/eviction/evictor.h"

#include "hooks/kv-plan-prefill.h"
#include "kv/eviction/choice.h"
#include "kv/eviction/method.h"
#include "kv/eviction/rows.h"
#include "kv/memory/memory.h"

#include "ggml-cpp.h"
#include "llama-hparams.h"
#include "llama-impl.h"
#include "llama-io.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace kvfold {

static void check_heads(const llama_hparams & hparams, const llama_kv_cache & cache) {
    const auto check = [](const ggml_tensor * tensor, uint32_t n_embd, uint32_t il) {
        if (n_embd % ggml_blck_size(tensor->type) != 0) {
            throw std::runtime_error("eviction needs heads that are stored in whole blocks: those of layer " + std::to_string(il) + " have " +
                                     std::to_string(n_embd) + " elements, the blocks of " + ggml_type_name(tensor->type) + " " +
                                     std::to_string(ggml_blck_size(tensor->type)));
        }
    };
    for (const kv_tensors & layer : kv_tensors_of(cache)) {
        check(layer.k, hparams.n_embd_head_k(layer.il), layer.il);
        check(layer.v, hparams.n_embd_head_v(layer.il), layer.il);
    }
}

evictor::evictor(const llama_hparams & hparams, llama_kv_cache & cache) :
    hparams(hparams), plan(hparams.kv_plan), cache(cache), sequences(LLAMA_MAX_SEQ) {
    check_heads(hparams, cache);
    const ggml_context_ptr ctx { ggml_init({ 2*ggml_tensor_overhead(), nullptr, true }) };
    if (const ggml_tensor * rot = cache.build_input_k_rot(ctx.get())) {
        k_rotated = (uint32_t) rot->ne[0];
    }
    if (const ggml_tensor * rot = cache.build_input_v_rot(ctx.get())) {
        v_rotated = (uint32_t) rot->ne[0];
    }
    const auto ids = cache.get_layer_ids();
    unlike = std::any_of(ids.begin(), ids.end(), [&](uint32_t il) { return !keep_alike((int) ids.front(), (int) il); });
}

// A text that is evaluated says itself where its prompt ends: where the first output is.
void evictor::advance(const kv_ubatch_part & part, int32_t prefill) {
    sequence & seq = sequences[part.seq_id];
    switch (stage_of(part, seq.in_prompt, prefill == KVFOLD_PREFILL_EVALUATION ? KVFOLD_PREFILL_FIXED : prefill)) {
        case stage::PROMPT:
            seq.in_prompt = true;
            break;
        case stage::END_OF_PROMPT:
            seq.in_prompt = false;
            seq.ended     = true;
            break;
        case stage::GENERATED:
            seq.in_prompt = false;
            break;
        case stage::OTHER:
            break;
    }
}

bool evictor::is_due() const {
    return std::any_of(sequences.begin(), sequences.end(), [](const sequence & seq) { return seq.ended; });
}

void evictor::settle() {
    for (llama_seq_id seq_id = 0; seq_id < LLAMA_MAX_SEQ; ++seq_id) {
        if (sequences[seq_id].ended) {
            sequences[seq_id].ended = false;
            evict(seq_id);
        }
    }
}

std::vector<uint32_t> evictor::cells_of(llama_seq_id seq_id) const {
    const llama_kv_cells & cells = cache.get_cells(seq_id);
    std::vector<uint32_t>  own;
    for (uint32_t i = 0; i < cells.used_max_p1(); ++i) {
        if (!cells.is_empty(i) && cells.seq_has(i, seq_id)) {
            own.push_back(i);
        }
    }
    std::sort(own.begin(), own.end(), [&](uint32_t a, uint32_t b) { return cells.pos_get(a) < cells.pos_get(b); });
    return own;
}

bool evictor::shares(llama_seq_id seq_id) const {
    const llama_kv_cells &      cells = cache.get_cells(seq_id);
    const std::vector<uint32_t> own   = cells_of(seq_id);
    return std::any_of(own.begin(), own.end(), [&](uint32_t i) { return cells.seq_count(i) > 1; });
}

void evictor::evict(llama_seq_id seq_id) {
    sequence &                  seq      = sequences[seq_id];
    llama_kv_cells &            cells    = cache.edit_cells(seq_id);
    const std::vector<uint32_t> own      = cells_of(seq_id);
    const auto                  n_tokens = (uint32_t) (cells.seq_pos_max(seq_id) + 1);

    std::vector<uint32_t> n_kept(plan.n_layer);
    uint32_t              n_cells = 0;
    bool                  any     = false;
    std::vector<std::vector<uint32_t>> rows(plan.n_layer);
    for (const uint32_t il : cache.get_layer_ids()) {
        std::copy_if(own.begin(), own.end(), std::back_inserter(rows[il]), [&](uint32_t i) { return !hides(seq_id, (int) il, cells.pos_get(i)); });
        n_kept[il] = std::min((uint32_t) rows[il].size(), evict_budget_of(plan, il, n_tokens));
        n_cells    = std::max(n_cells, n_kept[il]);
        any        = any || n_kept[il] < rows[il].size();
    }
    if (!any) {
        return;
    }
    if (shares(seq_id)) {
        LLAMA_LOG_WARN("%s: sequence %d shares cells with others and keeps all of its tokens\n", __func__, seq_id);
        return;
    }
    // those in front, so that attention has less to look at
    std::vector<uint32_t> to = own;
    std::sort(to.begin(), to.end());
    to.resize(n_cells);

    const uint32_t stream = cache.get_n_stream() > 1 ? (uint32_t) seq_id : 0;
    for (const kv_tensors & layer : kv_tensors_of(cache)) {
        move(layer, stream, rows[layer.il], n_kept[layer.il], to);
    }
    for (const uint32_t i : own) {
        cells.rm(i);
    }
    for (uint32_t i = 0; i < n_cells; ++i) {
        cells.pos_set(to[i], (llama_pos) (i + 1 < n_cells ? i : n_tokens - 1));
        cells.seq_add(to[i], seq_id);
    }
    seq.points.push_back((llama_pos) n_tokens);
    seq.n_cells = n_cells;
    seq.n_rows  = n_kept;
    if (hides_any()) {
        for (const uint32_t il : cache.get_layer_ids()) {
            release_layer(cache, il, [&](const llama_kv_cells & all, uint32_t i) {
                return all.seq_has(i, seq_id) && hides(seq_id, (int) il, all.pos_get(i));
            }, false);
        }
    }
    LLAMA_LOG_INFO("%s: sequence %d keeps %u cells of %zu at %u tokens\n", __func__, seq_id, n_cells, own.size(), n_tokens);
}

void evictor::move(
        const kv_tensors & layer, uint32_t stream, const std::vector<uint32_t> & cells, uint32_t n_kept, const std::vector<uint32_t> & to) {
    const uint32_t  n_heads = hparams.n_head_kv(layer.il);
    const cell_rows k(layer.k, false, stream, cells, n_heads, hparams.n_embd_head_k(layer.il));
    const cell_rows v(layer.v, layer.v_transposed, stream, cells, n_heads, hparams.n_embd_head_v(layer.il));

    std::vector<std::vector<uint32_t>> chosen;
    for (uint32_t h = 0; h < n_heads; ++h) {
        head_rows rows = { k.n(), k.head(h, k_rotated), {} };
        if (evict_reads_values(plan)) {
            rows.v = v.head(h, v_rotated);
        }
        chosen.push_back(keep_highest(evict_scores(plan, rows), n_kept));
    }
    k.write(chosen, to);
    v.write(chosen, to);
}

bool evictor::keep_alike(int a, int b) const {
    return plan.evict_skip[a] == plan.evict_skip[b];
}

uint32_t evictor::n_hidden(llama_seq_id seq_id, int il) const {
    const sequence & seq = sequences[seq_id];
    return seq.n_cells - (seq.n_rows.empty() ? 0 : seq.n_rows[il]);
}

void evictor::remove(llama_seq_id seq_id, llama_pos p0, llama_pos p1) {
    for (llama_seq_id id = seq_id < 0 ? 0 : seq_id; id <= (seq_id < 0 ? LLAMA_MAX_SEQ - 1 : seq_id); ++id) {
        const bool has_cells = cache.get_n_stream() == 1 || (uint32_t) id < cache.get_n_stream();
        const llama_pos pos_max = has_cells ? cache.get_cells(id).seq_pos_max(id) : -1;
        if (p0 <= 0 && (p1 < 0 || p1 > pos_max)) {
            sequences[id] = {};
        } else if (p0 <= pos_max) {
            sequences[id].in_prompt = sequences[id].ended = false;
        }
    }
}

void evictor::copy(llama_seq_id from, llama_seq_id to) {
    if (from != to) {
        sequences[to] = sequences[from];
    }
}

void evictor::keep(llama_seq_id seq_id) {
    for (llama_seq_id id = 0; id < LLAMA_MAX_SEQ; ++id) {
        if (id != seq_id) {
            sequences[id] = {};
        }
    }
}

void evictor::write(llama_io_write_i & io, llama_seq_id seq_id) const {
    for (llama_seq_id id = seq_id < 0 ? 0 : seq_id; id <= (seq_id < 0 ? LLAMA_MAX_SEQ - 1 : seq_id); ++id) {
        sequences[id].write(io);
    }
}

void evictor::read(llama_io_read_i & io, llama_seq_id seq_id) {
    for (llama_seq_id id = seq_id < 0 ? 0 : seq_id; id <= (seq_id < 0 ? LLAMA_MAX_SEQ - 1 : seq_id); ++id) {
        sequences[id] = {};
        static_cast<evicted &>(sequences[id]) = evicted::read(plan, [&] {
            uint32_t number = 0;
            io.read(&number, sizeof(number));
            return number;
        });
    }
}

} // namespace kvfold
