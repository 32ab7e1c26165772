#include "kv/memory/layout.h"

#include "kv/eviction/evictor.h"
#include "kv/eviction/method.h"
#include "kv/memory/folded_memory.h"
#include "kv/memory/memory.h"
#include "kv/retention/retention.h"

#include "llama-ext.h"
#include "llama-kv-cache.h"
#include "llama-model.h"
#include "llama.h"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <set>

namespace kvfold {

static uint64_t row_bytes(const ggml_tensor * tensor) {
    return ggml_row_size(tensor->type, tensor->ne[0]);
}

static uint64_t row_bytes(const kv_tensors & layer) {
    return row_bytes(layer.k) + (layer.v ? row_bytes(layer.v) : 0);
}

static void add_tensor(kv_layout & layout, const ggml_tensor * tensor, bool seen) {
    layout.bytes_per_token += seen ? 0 : row_bytes(tensor);
    layout.bytes_allocated += ggml_nbytes(tensor);
    layout.bytes_whole     += page_size_of(tensor) == 0 ? ggml_nbytes(tensor) : 0;
    const auto & known = layout.buffers;
    if (tensor->buffer && std::find(known.begin(), known.end(), tensor->buffer) == known.end()) {
        layout.buffers.push_back(tensor->buffer);
        layout.bytes_paged += page_size_of(tensor) == 0 ? 0 : ggml_backend_buffer_get_size(tensor->buffer);
    }
}

static void share_pages(kv_layout & layout);

kv_layout read_kv_layout(const llama_context * context) {
    const llama_memory_t memory = llama_get_memory(context);
    const auto           caches = kv_caches_of(memory);
    kv_layout            layout;
    std::set<uint32_t>   layers;

    layout.n_batch   = llama_n_batch(context);
    layout.retention = retention_of(memory);
    layout.evicts    = evictor_of(memory);
    layout.plan      = &llama_get_model(context)->hparams.kv_plan;
    for (const llama_kv_cache * cells : caches) {
        layout.cells = std::max<uint64_t>(layout.cells, (uint64_t) cells->get_size() * cells->get_n_stream());
        kv_layout::cache cache = { cells, cells->get_size(), cells->get_size(), kv_tensors_of(*cells) };
        for (const kv_tensors & tensors : cache.layers) {
            const bool seen = !layers.insert(tensors.il).second; // in both caches, and its rows end up in one
            layout.layers_with_storage += !seen;
            add_tensor(layout, tensors.k, seen);
            if (tensors.v) {
                add_tensor(layout, tensors.v, seen);
            }
        }
        layout.caches.push_back(std::move(cache));
    }
    if (const auto * folded = dynamic_cast<const folded_memory *>(memory)) {
        for (size_t c = 0; c < caches.size(); ++c) {
            layout.caches[c].cells_of_sequence = folded->classes()[c].n_of_sequence;
        }
    }
    if (caches.size() > 1) {
        const llama_hparams & hparams = llama_get_model(context)->hparams;
        layout.window = (uint64_t) hparams.n_swa + hparams.kv_plan.n_sinks;
    }
    if (memory && caches.empty()) {
        // another kind of state: only its total size is known
        for (const auto & [_, bytes] : llama_get_memory_breakdown(context)) {
            layout.bytes_allocated += bytes.context;
        }
        layout.bytes_whole = layout.bytes_allocated;
    }
    share_pages(layout);
    return layout;
}

// tensor: [row, cells, streams], or [cells, row, streams] where values are stored transposed
static uint64_t tensor_bytes_for(const ggml_tensor * tensor, bool transposed, uint64_t n_cells) {
    const uint64_t page = page_size_of(tensor);
    if (page == 0 || n_cells == 0) {
        return 0; // there from the beginning
    }
    const auto     pages_of = [&](uint64_t bytes) { return (bytes + page - 1)/page*page; };
    const uint64_t stream   = tensor->nb[2];
    // a page that it shares with another tensor, or with the next stream
    const bool     aligned  = ((char *) tensor->data - (char *) ggml_backend_buffer_get_base(tensor->buffer))%page == 0;
    const uint64_t edge     = !aligned || (tensor->ne[2] > 1 && stream % page != 0) ? page : 0;
    if (!transposed) {
        return pages_of(n_cells*tensor->nb[1]) + edge;
    }
    const uint64_t piece = n_cells*ggml_type_size(tensor->type);
    return std::min<uint64_t>(pages_of(stream) + edge, tensor->ne[0]*(pages_of(piece) + page));
}

static uint64_t layer_bytes_for(const kv_layout::cache & each, const kv_tensors & layer, uint64_t n_tokens) {
    const uint64_t n_cells = std::min(n_tokens, each.cells_per_stream);
    return tensor_bytes_for(layer.k, false, n_cells) + (layer.v ? tensor_bytes_for(layer.v, layer.v_transposed, n_cells) : 0);
}

static uint64_t layer_bytes_of(const kv_layout::cache & each, const kv_tensors & layer, uint64_t n_tokens, uint64_t n_at_once) {
    return layer_bytes_for(each, layer, std::min(n_tokens, each.cells_of_sequence + n_at_once));
}

uint64_t kv_layout::lazy_at_least() const {
    if (!retention || retention->plan.automatic != KVFOLD_BY_NUMBER) {
        return 0;
    }
    const auto &   in_both = retention->plan.in_both;
    const uint64_t n       = (uint64_t) std::count(in_both.begin(), in_both.end(), 1);
    return n - std::min<uint64_t>(n, retention->plan.n_full);
}

// Of n_tokens, n_rows(il) of which a layer in the first cache has.
template <typename F> static uint64_t bytes_for_rows(const kv_layout & layout, uint64_t n_tokens, uint64_t n_at_once, F && n_rows) {
    uint64_t bytes = 0;
    for (const kv_layout::cache & each : layout.caches) {
        for (const kv_tensors & layer : each.layers) {
            bytes += layer_bytes_of(each, layer, &each == &layout.caches.front() ? n_rows(layer.il) : n_tokens, n_at_once);
        }
    }
    return std::min(bytes, layout.bytes_paged); // small tensors share pages
}

uint64_t kv_layout::cells_for_prompt(uint64_t n_prompt) const {
    return evicts ? evict_peak_of(*plan, (uint32_t) n_prompt) : n_prompt;
}

uint64_t kv_layout::cells_for_answer(uint64_t n_prompt, uint64_t n_answer) const {
    return evicts ? evict_answer_peak_of(*plan, (uint32_t) n_prompt, (uint32_t) n_answer) : n_prompt + n_answer;
}

// Each layer in one cache, in the one that takes more if it has the choice; and its newest tokens in both, since they are written
// together with those of others, for which it has chosen otherwise.
static uint64_t bytes_for_lazy(const kv_layout & layout, uint64_t n_tokens, uint64_t n_at_once, bool decided) {
    const kvfold_plan & plan = layout.retention->plan;
    std::map<uint32_t, uint64_t> in_full, in_window, newest; // of layers that have the choice
    uint64_t                     bytes = 0;
    for (const auto & each : layout.caches) {
        for (const kv_tensors & layer : each.layers) {
            const uint64_t own = layer_bytes_of(each, layer, n_tokens, n_at_once);
            if (!plan.in_both[layer.il]) {
                bytes += own;
                continue;
            }
            (&each == &layout.caches.front() ? in_full : in_window)[layer.il] = own;
            newest[layer.il] = layer_bytes_for(each, layer, std::min(n_tokens, layout.tokens_at_once)); // alike in both
        }
    }
    std::vector<uint64_t> more; // that it takes to keep a layer full
    for (const auto & [il, full] : in_full) {
        bytes += in_window[il] + newest[il];
        more.push_back(full - std::min(full, in_window[il]));
    }
    size_t n_full = more.size();
    if (plan.automatic == KVFOLD_BY_NUMBER && decided) {
        n_full = std::min<size_t>(n_full, plan.n_full);
        std::sort(more.begin(), more.end(), std::greater<>());
    }
    bytes += std::accumulate(more.begin(), more.begin() + (ptrdiff_t) n_full, uint64_t(0));
    return std::min(bytes, layout.bytes_paged);
}

uint64_t kv_layout::bytes_for(uint64_t n_tokens, uint64_t n_at_once) const {
    return retention ? bytes_for_lazy(*this, n_tokens, n_at_once, false)
                     : bytes_for_rows(*this, n_tokens, n_at_once, [&](uint32_t) { return n_tokens; });
}

// Where layers keep unequally many rows, the newer ones of a layer need not follow on the page that these end on.
static uint64_t bytes_in_part(const kv_layout::cache & of) {
    uint64_t bytes = 0;
    for (const kv_tensors & layer : of.layers) {
        bytes += page_size_of(layer.k) + (layer.v ? page_size_of(layer.v) : 0);
    }
    return bytes;
}

uint64_t kv_layout::peak_for(uint64_t n_prompt, uint64_t n_tokens, uint64_t n_at_once) const {
    if (evicts && n_prompt > 0) {
        const auto     n_computed = (uint32_t) std::min(n_prompt, n_tokens);
        const auto     n_answer   = (uint32_t) (n_tokens - n_computed);
        const uint64_t before     = bytes_for_rows(*this, n_computed, n_at_once, [&](uint32_t il) { return evict_peak_of(*plan, il, n_computed); });
        const uint64_t after      = bytes_for_rows(*this, n_tokens, n_at_once, [&](uint32_t il) { return evict_answer_peak_of(*plan, il, n_computed, n_answer); });
        const uint64_t peak       = n_answer == 0 ? before : std::max(before, after);
        return std::min(peak + (evicts->hides_any() ? bytes_in_part(caches.front()) : 0), bytes_paged);
    }
    const uint64_t n_decided = n_prompt + (retention && retention->plan.decide == KVFOLD_DECIDE_DECODE);
    if (!retention || n_prompt == 0 || !retention->enough((llama_pos) n_decided)) {
        return bytes_for(n_tokens, n_at_once);
    }
    // a layer that goes from one cache to the other waits until there is memory
    return std::max(bytes_for(std::min(n_decided, n_tokens), n_at_once), bytes_for_lazy(*this, n_tokens, n_at_once, true));
}

kv_layout kv_layout::without_bounds() const {
    constexpr uint64_t any_number = UINT32_MAX;
    kv_layout          other      = *this;
    other.bytes_paged = UINT64_MAX;
    for (cache & each : other.caches) {
        each.cells_of_sequence = each.cells_of_sequence == each.cells_per_stream ? any_number : each.cells_of_sequence;
        each.cells_per_stream  = any_number;
    }
    return other;
}

uint64_t kv_layout::tokens_for(uint64_t bytes, uint64_t n_prompt, uint64_t n_at_once) const {
    uint64_t fits = 0, too_many = cells + 1;
    while (too_many - fits > 1) {
        const uint64_t middle = fits + (too_many - fits)/2;
        (peak_for(n_prompt, middle, n_at_once) <= bytes ? fits : too_many) = middle;
    }
    return fits;
}

uint64_t kv_layout::n_rows_of(const cache & in, int il, uint64_t n_cells, int32_t seq_id) const {
    if (!evicts || &in != &caches.front()) {
        return n_cells;
    }
    return n_cells - std::min(n_cells, seq_id < 0 ? evicts->n_hidden(il) : evicts->n_hidden(seq_id, il));
}

uint64_t kv_layout::bytes_held(int32_t seq_id) const {
    std::vector<uint64_t> n_cells;
    for (const cache & each : caches) {
        n_cells.push_back(cells_in_use(*each.cells, seq_id));
    }
    return bytes_held(seq_id, n_cells);
}

uint64_t kv_layout::bytes_held(int32_t seq_id, const std::vector<uint64_t> & n_cells) const {
    uint64_t bytes = 0;
    for (size_t c = 0; c < caches.size(); ++c) {
        for (const kv_tensors & layer : caches[c].layers) {
            const int  il     = (int) layer.il;
            const bool choice = retention && retention->plan.in_both[il];
            if (!choice || retention->is_in_window(seq_id, il) == (c > 0)) {
                bytes += layer_bytes_for(caches[c], layer, n_rows_of(caches[c], il, n_cells[c], seq_id));
            }
        }
    }
    return std::min(bytes, bytes_paged);
}

uint64_t kv_layout::bytes_held_without(const std::set<int32_t> & seq_ids) const {
    llama_kv_cells::seq_set_t excepted;
    for (const int32_t seq_id : seq_ids) {
        excepted[seq_id] = true;
    }
    // by cache; a cell counts for the first sequence in it, and all together where each sequence keeps the same layers
    std::map<int32_t, std::vector<uint64_t>> n_cells;
    for (size_t c = 0; c < caches.size(); ++c) {
        const llama_kv_cache & cache = *caches[c].cells;
        for (uint32_t stream = 0; stream < cache.get_n_stream(); ++stream) {
            const llama_kv_cells & cells = cache.get_cells((int32_t) stream);
            for (uint32_t i = 0; i < cells.used_max_p1(); ++i) {
                if (cells.is_empty(i) || (cells.seq_get_all(i) & excepted).any()) {
                    continue;
                }
                int32_t first = 0;
                while ((retention || (evicts && evicts->hides_any())) && !cells.seq_has(i, first)) {
                    ++first;
                }
                auto & counts = n_cells[first];
                counts.resize(caches.size());
                ++counts[c];
            }
        }
    }
    uint64_t bytes = 0;
    for (const auto & [seq_id, counts] : n_cells) {
        bytes += bytes_held(seq_id, counts);
    }
    return bytes;
}

// Tensors that share a page: it counts for the first of them.
static void share_pages(kv_layout & layout) {
    std::map<const ggml_backend_buffer *, std::map<const char *, const ggml_tensor *>> by_place;
    for (const kv_layout::cache & each : layout.caches) {
        for (const kv_tensors & layer : each.layers) {
            for (const ggml_tensor * tensor : { layer.k, layer.v }) {
                if (tensor && page_size_of(tensor) > 0) {
                    by_place[tensor->buffer][(const char *) tensor->data] = tensor;
                }
            }
        }
    }
    for (const auto & [buffer, tensors] : by_place) {
        const auto * const base = (const char *) ggml_backend_buffer_get_base(const_cast<ggml_backend_buffer *>(buffer));
        uint64_t           end  = 0; // of the pages that count for those before
        for (const auto & [data, tensor] : tensors) {
            const uint64_t page = page_size_of(tensor), offset = (uint64_t) (data - base), size = ggml_nbytes(tensor);
            if (offset < end) {
                layout.ahead[tensor] = std::min(end - offset, size);
            }
            end = std::max(end, (offset + size + page - 1)/page*page);
        }
    }
}

namespace {

// The cells of each cache at one moment, and who needs which rows of them.
struct cell_counts {
    struct of_cache {
        uint64_t              all = 0;
        std::vector<uint64_t> by_seq;
    };

    const kv_layout &       layout;
    std::vector<of_cache>   caches;
    kvfold_retention::needs needs;

    explicit cell_counts(const kv_layout & layout) : layout(layout) {
        if (layout.retention) {
            needs = layout.retention->needs_now();
        }
        for (const kv_layout::cache & each : layout.caches) {
            of_cache counts;
            counts.all = cells_in_use(*each.cells);
            for (int32_t seq_id = 0; seq_id < LLAMA_MAX_SEQ; ++seq_id) {
                counts.by_seq.push_back(cells_in_use(*each.cells, seq_id));
            }
            caches.push_back(std::move(counts));
        }
    }

    bool has_choice(int il) const { return layout.retention && layout.retention->plan.in_both[il]; }

    bool keeps(size_t c, int il, int32_t seq_id) const { return !has_choice(il) || (c == 0 ? needs.full : needs.window)[il][seq_id]; }

    uint64_t rows(size_t c, int il, int32_t seq_id) const {
        return keeps(c, il, seq_id) ? layout.n_rows_of(layout.caches[c], il, caches[c].by_seq[seq_id], seq_id) : 0;
    }

    uint64_t rows(size_t c, int il) const {
        uint64_t n_cells = caches[c].all;
        if (has_choice(il)) {
            uint64_t n_kept = 0; // those that sequences share are in it more than once
            for (int32_t seq_id = 0; seq_id < LLAMA_MAX_SEQ; ++seq_id) {
                n_kept += keeps(c, il, seq_id) ? caches[c].by_seq[seq_id] : 0;
            }
            n_cells = std::min(n_cells, n_kept);
        }
        return layout.n_rows_of(layout.caches[c], il, n_cells, -1);
    }
};

} // namespace

kv_usage usage_now(const kv_layout & layout, uint32_t n_seqs) {
    kv_usage usage;
    usage.in_use_by_seq.resize(n_seqs);
    if (layout.caches.empty()) {
        usage.allocated = usage.committed = layout.bytes_allocated;
        return usage;
    }
    const cell_counts                   counts(layout);
    std::map<uint32_t, kv_usage::layer> layers; // one that may be lazy is in both caches
    for (size_t c = 0; c < layout.caches.size(); ++c) {
        for (const kv_tensors & tensors : layout.caches[c].layers) {
            const int      il        = (int) tensors.il;
            const uint64_t per_cell  = row_bytes(tensors);
            uint64_t       committed = 0;
            kv_usage::layer & layer  = layers[tensors.il];
            for (const ggml_tensor * tensor : { tensors.k, tensors.v }) {
                if (tensor) {
                    const auto ahead = layout.ahead.find(tensor);
                    layer.allocated += ggml_nbytes(tensor);
                    committed       += committed_bytes(tensor, ahead == layout.ahead.end() ? 0 : ahead->second);
                }
            }
            layer.il          = tensors.il;
            layer.bytes_row   = per_cell;
            layer.may_be_lazy = counts.has_choice(il);
            layer.window      = c == 0 ? 0 : layout.window;
            layer.committed  += committed;
            layer.in_use     += std::min(committed, counts.rows(c, il)*per_cell);
            for (uint32_t seq_id = 0; seq_id < n_seqs; ++seq_id) {
                usage.in_use_by_seq[seq_id] += counts.rows(c, il, (int32_t) seq_id)*per_cell;
            }
        }
    }
    for (const auto & [_, layer] : layers) {
        usage.allocated += layer.allocated;
        usage.committed += layer.committed;
        usage.in_use    += layer.in_use;
        usage.layers.push_back(layer);
    }
    return usage;
}

} // namespace kvfold
