// What patched code tells about the memory of a KV cache, and what is known of it: pages are committed for cells that are
// about to be written, and go back to the system when their cells are empty again.

#include "kv/memory/memory.h"

#include "hooks/k-shift.h"
#include "hooks/kv-memory.h"
#include "kv/memory/caches.h"
#include "kv/memory/cell_pages.h"
#include "kv/memory/cuda.h"
#include "kv/memory/host_pages.h"

#include "ggml/src/ggml-backend-impl.h"
#include "llama-hparams.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

using namespace kvfold;

ggml_backend_buffer_type * kvfold_kv_buffer_type(ggml_backend_buffer_type * buft) {
    const ggml_backend_buffer_type_t on_device = cuda_buffer_type_for(buft);
    return on_device == buft ? host_buffer_type_for(buft) : on_device;
}

std::shared_ptr<kvfold_kv_memory> kvfold_make_kv_memory(const llama_kv_cache & cache) {
    return std::make_shared<kvfold_kv_memory>(cache);
}

bool kvfold_commit_cells(const llama_kv_cache & cache, const std::vector<int32_t> & strm, const std::vector<std::vector<uint32_t>> & idxs) {
    if (cache.kv_memory->refused > 0) {
        cache.kv_memory->release_erased(cache);
    }
    for (size_t s = 0; s < strm.size(); ++s) {
        if (!cache.kv_memory->commit(strm[s], idxs[s])) {
            LLAMA_LOG_ERROR("%s: there is no memory for the keys and values of %zu tokens\n", __func__, idxs[s].size());
            // what was committed of them before
            std::vector<kvfold_cell_range> ranges(cache.get_n_stream());
            const auto [least, most] = std::minmax_element(idxs[s].begin(), idxs[s].end());
            ranges[strm[s]] = { *least, *most + 1 };
            cache.kv_memory->release(cache, ranges);
            return false;
        }
    }
    return true;
}

// Releases nothing: of a batch of several ubatches the cells of the later ones are committed, and still empty.
void kvfold_cells_assigned(const llama_kv_cache & cache) {
    cache.kv_memory->count(cache);
}

bool kvfold_copy_cells(const llama_kv_cache & cache, uint32_t from, uint32_t to) {
    const llama_kv_cells & cells = cache.get_cells((llama_seq_id) from);
    std::vector<uint32_t>  used;
    for (uint32_t i = 0; i < cells.used_max_p1(); ++i) {
        if (!cells.is_empty(i)) {
            used.push_back(i);
        }
    }
    if (!kvfold_commit_cells(cache, { (int32_t) to }, { used })) {
        return false;
    }
    cache.kv_memory->await_computation();
    for (const cell_area & area : areas_of(cache)) {
        for_each_run(used, [&](uint32_t first, uint32_t last) {
            area.copy(from, first, last - first, area, to, first);
            return true;
        });
    }
    return true;
}

bool kvfold_has_cells(const llama_context * context, int32_t seq_id) {
    const auto caches = kv_caches_of(llama_get_memory(context));
    return std::all_of(caches.begin(), caches.end(), [&](const llama_kv_cache * cache) { return cache->seq_pos_max(seq_id) >= 0; });
}

bool kvfold_keys_can_shift(const llama_kv_cache & cache, const llama_hparams & hparams, bool rotated) {
    const auto layers = kv_tensors_of(cache);
    return hparams.rope_type == LLAMA_ROPE_TYPE_NONE || std::all_of(layers.begin(), layers.end(), [&](const kv_tensors & layer) {
        const ggml_type type   = layer.k->type;
        const uint32_t  n_head = hparams.n_embd_head_k(layer.il), n_rot = hparams.n_rot(layer.il), n_block = (uint32_t) ggml_blck_size(type);
        const uint32_t  n_of_rotation = rotated ? n_head & (0 - n_head) : 1; // build_input_k_rot(): the largest power of two that divides a head
        const bool      whole  = n_rot%n_block == 0 && n_head%n_block == 0 && n_rot%n_of_rotation == 0;
        return !hparams.has_rope(layer.il) || type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || (ggml_is_quantized(type) && whole);
    });
}

static uint32_t stream_to_shift(const llama_kv_cache & cache) {
    uint32_t s = 0;
    while (s + 1 < cache.get_n_stream() && !cache.get_cells((llama_seq_id) s).get_has_shift()) {
        ++s;
    }
    return s;
}

static bool is_shifted(const llama_kv_cells & cells, uint32_t i) {
    return !cells.is_empty(i) && cells.get_shift(i) != 0;
}

kvfold_shift kvfold_shift_of(const llama_kv_cache & cache) {
    kvfold_kv_memory &     memory = *cache.kv_memory;
    const uint32_t         stream = stream_to_shift(cache);
    const llama_kv_cells & cells  = cache.get_cells((llama_seq_id) stream);
    if (!memory.shift) {
        const uint32_t end   = cells.used_max_p1();
        uint32_t       first = memory.n_shifted;
        while (first < end && !is_shifted(cells, first)) {
            ++first;
        }
        uint32_t last = first; // behind the run
        for (uint32_t i = first; i < end; ++i) {
            if (!is_shifted(cells, i)) {
                continue;
            }
            if (!memory.has_memory(stream, last, i)) {
                break;
            }
            last = i + 1;
        }
        memory.shift = { stream, first, last - first };
    }
    return *memory.shift;
}

bool kvfold_shift_goes_on(const llama_kv_cache & cache) {
    kvfold_kv_memory & memory = *cache.kv_memory;
    const kvfold_shift done   = kvfold_shift_of(cache);
    memory.n_shifted          = done.first + done.n_cells;
    memory.shift.reset();
    const bool goes_on = kvfold_shift_of(cache).n_cells > 0;
    if (!goes_on) {
        memory.n_shifted = 0;
        memory.shift.reset();
    }
    return goes_on;
}

void kvfold_get_shifts(const llama_kv_cache & cache, int32_t * shifts) {
    const kvfold_shift     run   = kvfold_shift_of(cache);
    const llama_kv_cells & cells = cache.get_cells((llama_seq_id) run.stream);
    for (uint32_t i = 0; i < run.n_cells; ++i) {
        shifts[i] = cells.is_empty(run.first + i) ? 0 : cells.get_shift(run.first + i);
    }
}

ggml_tensor * kvfold_shifted_cells(ggml_context * ctx, const llama_kv_cache & cache, const std::vector<ggml_tensor *> & streams) {
    const kvfold_shift  run  = kvfold_shift_of(cache);
    ggml_tensor * const keys = streams[run.stream];
    return ggml_view_2d(ctx, keys, keys->ne[0], run.n_cells, keys->nb[1], run.first*keys->nb[1]);
}

void kvfold_synchronize_with(llama_memory_i * memory, const std::function<void()> & wait) {
    for (const llama_kv_cache * cache : kv_caches_of(memory)) {
        cache->kv_memory->await_computation = wait;
        for (const cell_area & area : cache->kv_memory->areas) {
            area.pages->synchronize_with(wait);
        }
    }
}

kvfold_release_unused::~kvfold_release_unused() {
    for (const llama_kv_cache * cache : kv_caches_of(memory)) {
        cache->kv_memory->release_erased(*cache);
        cache->kv_memory->count(*cache);
    }
}

namespace kvfold {

bool committed_as_it_fills(const ggml_backend_buffer_type * type) {
    return kvfold_kv_buffer_type(const_cast<ggml_backend_buffer_type *>(type)) != type;
}

uint64_t page_size_of(const ggml_tensor * tensor) {
    const page_map * const pages = pages_of(tensor->buffer);
    return pages ? pages->page_size() : 0;
}

uint64_t committed_bytes(const ggml_backend_buffer * buffer) {
    const page_map * const pages = pages_of(buffer);
    return pages ? pages->committed() : buffer->size;
}

uint64_t committed_bytes(const ggml_tensor * tensor, uint64_t n_ahead) {
    const page_map * const pages = pages_of(tensor->buffer);
    if (!pages) {
        return ggml_nbytes(tensor);
    }
    const size_t offset = (char *) tensor->data - (char *) ggml_backend_buffer_get_base(tensor->buffer);
    return pages->committed(offset + n_ahead, ggml_nbytes(tensor) - n_ahead);
}

uint64_t cells_in_use(const llama_kv_cache & cache) {
    return cache.kv_memory->n_used.load(std::memory_order_relaxed);
}

uint64_t cells_in_use(const llama_kv_cache & cache, int32_t seq_id) {
    return cache.kv_memory->n_used_by_seq[seq_id].load(std::memory_order_relaxed);
}

void release_layer(
        const llama_kv_cache & cache,
        uint32_t il,
        const std::function<bool(const llama_kv_cells & cells, uint32_t cell)> & unneeded,
        unneeded_cells which) {
    for (uint32_t s = 0; s < cache.get_n_stream(); ++s) {
        cache.kv_memory->release_layer(il, s, cache.get_cells((llama_seq_id) s), unneeded, which);
    }
}

bool copy_layer(const llama_kv_cache & from, const llama_kv_cache & to, uint32_t il, llama_seq_id seq_id) {
    const uint32_t         stream = to.get_n_stream() > 1 ? (uint32_t) seq_id : 0;
    const llama_kv_cells & source = from.get_cells(seq_id);
    const llama_kv_cells & target = to.get_cells(seq_id);
    std::unordered_map<llama_pos, uint32_t> by_position;
    for (uint32_t i = 0; i < source.used_max_p1(); ++i) {
        if (!source.is_empty(i) && source.seq_has(i, seq_id)) {
            by_position.emplace(source.pos_get(i), i);
        }
    }
    struct run { uint32_t from, to, n; };
    std::vector<run> runs;
    for (uint32_t i = 0; i < target.used_max_p1(); ++i) {
        if (target.is_empty(i) || !target.seq_has(i, seq_id)) {
            continue;
        }
        const auto at = by_position.find(target.pos_get(i));
        if (at == by_position.end()) {
            return false;
        }
        if (!runs.empty() && runs.back().to + runs.back().n == i && runs.back().from + runs.back().n == at->second) {
            ++runs.back().n;
        } else {
            runs.push_back({ at->second, i, 1 });
        }
    }
    std::vector<cell_area> sources = areas_of(from), targets = areas_of(to);
    const auto is_other = [&](const cell_area & area) { return area.il != il; };
    sources.erase(std::remove_if(sources.begin(), sources.end(), is_other), sources.end());
    targets.erase(std::remove_if(targets.begin(), targets.end(), is_other), targets.end());
    for (const cell_area & area : targets) {
        for (const run & each : runs) {
            if (area.pages && !area.commit(stream, each.to, each.to + each.n)) {
                return false;
            }
        }
    }
    from.kv_memory->await_computation();
    for (size_t a = 0; a < targets.size(); ++a) {
        for (const run & each : runs) {
            sources[a].copy(stream, each.from, each.n, targets[a], stream, each.to);
        }
    }
    return true;
}

void settle_recent(const llama_kv_cache & cache) {
    for (uint32_t s = 0; s < cache.get_n_stream(); ++s) {
        const llama_kv_cells & cells = cache.get_cells((llama_seq_id) s);
        kvfold_cell_range &    fresh = cache.kv_memory->fresh[s];
        while (!fresh.empty() && !cells.is_empty(fresh.first)) {
            ++fresh.first;
        }
        if (fresh.empty()) {
            fresh = {};
        }
    }
}

} // namespace kvfold
