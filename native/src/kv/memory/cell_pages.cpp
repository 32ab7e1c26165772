#include "kv/memory/cell_pages.h"

#include "kv/memory/caches.h"
#include "kv/memory/cuda.h"
#include "kv/memory/host_pages.h"
#include "kv/memory/page_ledger.h"

#include "ggml/src/ggml-backend-impl.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace kvfold {

page_map * pages_of(const ggml_backend_buffer * buffer) {
    page_map * const pages = host_pages_of(buffer);
    return pages ? pages : cuda_pages_of(buffer);
}

bool cell_area::commit(uint32_t stream, uint32_t first, uint32_t last) const {
    bool done = true;
    for_each(stream, first, last, [&](size_t at, size_t size) { done = done && pages->commit(at, size); });
    return done;
}

uint64_t cell_area::missing(uint32_t stream, uint32_t first, uint32_t last) const {
    uint64_t bytes = 0;
    for_each(stream, first, last, [&](size_t at, size_t size) { bytes += pages->missing(at, size); });
    return bytes;
}

// Bytes of a tensor as a tensor.
static ggml_tensor bytes_of(const ggml_tensor * tensor, size_t offset, size_t size) {
    ggml_tensor bytes = *tensor;
    bytes.type = GGML_TYPE_I8;
    bytes.data = (char *) tensor->data + offset;
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        bytes.ne[i] = i == 0 ? (int64_t) size : 1;
        bytes.nb[i] = i == 0 ? 1 : size;
    }
    return bytes;
}

void cell_area::copy(uint32_t stream, uint32_t first, uint32_t n, const cell_area & to, uint32_t to_stream, uint32_t to_first) const {
    for (size_t row = 0; row < n_rows; ++row) {
        const auto piece = [&](const cell_area & of, uint32_t of_stream, uint32_t cell) {
            return bytes_of(of.tensor, of_stream*of.n_stream() + row*of.n_row() + cell*of.n_bytes, n*n_bytes);
        };
        ggml_tensor source = piece(*this, stream, first);
        ggml_tensor target = piece(to, to_stream, to_first);
        ggml_backend_tensor_copy(&source, &target);
    }
}

static cell_area area_of(uint32_t il, const ggml_tensor * tensor, bool transposed, size_t n_cells) {
    const size_t offset  = (char *) tensor->data - (char *) ggml_backend_buffer_get_base(tensor->buffer);
    const size_t n_rows  = transposed ? tensor->ne[0] : 1;
    const size_t n_bytes = transposed ? ggml_type_size(tensor->type) : tensor->nb[1];
    const auto   buft    = ggml_backend_buffer_get_type(tensor->buffer);
    const size_t taken   = GGML_PAD(ggml_backend_buft_get_alloc_size(buft, tensor), ggml_backend_buft_get_alignment(buft));
    return { il, tensor, pages_of(tensor->buffer), offset, n_cells, n_rows, n_bytes, offset + taken };
}

std::vector<cell_area> areas_of(const llama_kv_cache & cache) {
    std::vector<cell_area> areas;
    const auto             add = [&](uint32_t il, const ggml_tensor * tensor, bool transposed) {
        if (tensor && tensor->data) {
            areas.push_back(area_of(il, tensor, transposed, cache.get_size()));
        }
    };
    for (const kv_tensors & layer : kv_tensors_of(cache)) {
        add(layer.il, layer.k, false);
        add(layer.il, layer.v, layer.v_transposed);
    }
    return areas;
}

namespace {

void tell_once_that_release_failed() {
    static std::atomic_flag told = ATOMIC_FLAG_INIT;
    if (!told.test_and_set()) {
        LLAMA_LOG_WARN("%s: the system does not take the memory of empty cells back: %s\n", __func__, strerror(errno));
    }
}

// Gives back what several ranges cover together: small tensors share pages, and none of them covers one alone.
class release_run {
public:
    ~release_run() { flush(); }

    void add(const cell_area & area, uint32_t stream, uint32_t first, uint32_t last) {
        const size_t end = area.offset + ggml_nbytes(area.tensor);
        area.for_each(stream, first, last, [&](size_t at, size_t size) {
            // what follows a tensor up to the next one is nobody's
            add(area.pages, at, at + size == end ? area.end : at + size);
        });
    }

private:
    void add(page_map * of, size_t first, size_t last) {
        if (of != pages || first != end) {
            flush();
            pages = of;
            begin = first;
        }
        end = last;
    }

    void flush() {
        if (pages && !pages->release(begin, end - begin)) {
            tell_once_that_release_failed();
        }
        pages = nullptr;
    }

    page_map * pages = nullptr;
    size_t     begin = 0;
    size_t     end   = 0;
};

} // namespace

} // namespace kvfold

using namespace kvfold;

kvfold_kv_memory::kvfold_kv_memory(const llama_kv_cache & cache) : fresh(cache.get_n_stream()), n_used_by_seq(LLAMA_MAX_SEQ) {
    std::vector<cell_bytes> kinds;
    for (const cell_area & area : areas_of(cache)) {
        if (!area.pages) {
            continue;
        }
        areas.push_back(area);
        const size_t page = area.pages->page_size();
        shares_pages  = shares_pages || area.offset % page != 0 || (cache.get_n_stream() > 1 && area.n_stream() < page);
        streams_share = streams_share || (cache.get_n_stream() > 1 && area.n_stream() % page != 0);
        const cell_bytes each{ area.n_bytes, page };
        reach = std::max(reach, (uint32_t) each.cells_in_page());
        if (std::none_of(kinds.begin(), kinds.end(), [&](const cell_bytes & other) { return other.of_cell == each.of_cell && other.of_page == page; })) {
            kinds.push_back(each);
        }
    }
    if (kinds.empty()) {
        kinds.emplace_back();
    }
    std::stable_sort(kinds.begin(), kinds.end(), [](const cell_bytes & a, const cell_bytes & b) { return a.cells_in_page() > b.cells_in_page(); });
    places.emplace(cache.get_size(), std::move(kinds));
}

bool kvfold_kv_memory::commit(uint32_t stream, const std::vector<uint32_t> & cells) {
    refused = 0;
    if (!cells.empty()) {
        const auto [least, most] = std::minmax_element(cells.begin(), cells.end());
        fresh[stream].first = std::min(fresh[stream].first, *least);
        fresh[stream].last  = std::max(fresh[stream].last, *most + 1);
    }
    return for_each_run(cells, [&](uint32_t first, uint32_t last) { return commit(stream, first, last); });
}

bool kvfold_kv_memory::is_written(uint32_t il) const {
    return !stores || std::any_of(writers.begin(), writers.end(), [&](llama_seq_id seq_id) { return stores(il, seq_id); });
}

bool kvfold_kv_memory::commit(uint32_t stream, uint32_t first, uint32_t last) {
    uint64_t bytes = 0;
    for (const cell_area & area : areas) {
        bytes += is_written(area.il) ? area.missing(stream, first, last) : 0;
    }
    for (const cell_area & area : areas) {
        if (is_written(area.il) && !area.commit(stream, first, last)) {
            const page_ledger * const ledger = area.pages->account();
            held    = ledger ? ledger->total() : 0;
            cap     = ledger && bytes > ledger->cap() - std::min<uint64_t>(ledger->cap(), held) ? ledger->cap() : 0;
            refused = std::max<uint64_t>(bytes, 1);
            return false;
        }
    }
    return true;
}

bool kvfold_kv_memory::has_memory(uint32_t stream, uint32_t first, uint32_t last) const {
    return first == last || std::all_of(areas.begin(), areas.end(), [&](const cell_area & area) { return area.missing(stream, first, last) == 0; });
}

std::vector<kvfold_cell_range> kvfold_kv_memory::empty_runs(const llama_kv_cells & cells, kvfold_cell_range range) const {
    std::vector<kvfold_cell_range> runs;
    uint32_t first = range.first;
    uint32_t last  = std::min(range.last, cells.size());
    for (uint32_t n = 0; n < reach && first > 0 && cells.is_empty(first - 1); ++n) {
        --first;
    }
    for (uint32_t n = 0; n < reach && last < cells.size() && cells.is_empty(last); ++n) {
        ++last;
    }
    while (first < last) {
        if (!cells.is_empty(first)) {
            ++first;
            continue;
        }
        uint32_t end = first + 1;
        while (end < last && cells.is_empty(end)) {
            ++end;
        }
        runs.push_back({ first, end });
        first = end;
    }
    return runs;
}

void kvfold_kv_memory::release(const llama_kv_cache & cache, std::vector<kvfold_cell_range> ranges) {
    shift.reset(); // cells of a run that could not be rewritten may have gone
    if (shares_pages) { // then a page can hold the cells of any stream
        ranges.assign(ranges.size(), { 0, cache.get_size() });
    }
    for (uint32_t s = 0; s < ranges.size(); ++s) {
        if (!ranges[s].empty() && cache.get_cells((llama_seq_id) s).get_used() == 0) {
            ranges[s] = { 0, cache.get_size() }; // also pages on which a row of transposed values ends and the next one begins
        }
    }
    if (streams_share) { // with the stream before and with the one after
        const uint32_t size  = cache.get_size();
        const auto     given = ranges;
        const auto     add   = [](kvfold_cell_range & to, kvfold_cell_range more) {
            to = to.empty() ? more : kvfold_cell_range{ std::min(to.first, more.first), std::max(to.last, more.last) };
        };
        for (size_t s = 0; s < given.size(); ++s) {
            if (!given[s].empty() && s > 0 && given[s].first <= reach) {
                add(ranges[s - 1], { size - 1, size });
            }
            if (!given[s].empty() && s + 1 < given.size() && given[s].last + reach >= size) {
                add(ranges[s + 1], { 0, 1 });
            }
        }
    }
    std::vector<std::vector<kvfold_cell_range>> runs;
    for (uint32_t s = 0; s < ranges.size(); ++s) {
        runs.push_back(ranges[s].empty() ? std::vector<kvfold_cell_range>() : empty_runs(cache.get_cells((llama_seq_id) s), ranges[s]));
    }
    release_run run;
    for (const cell_area & area : areas) {
        for (uint32_t s = 0; s < runs.size(); ++s) {
            for (const kvfold_cell_range & each : runs[s]) {
                run.add(area, s, each.first, each.last);
            }
        }
    }
}

void kvfold_kv_memory::release_layer(
        uint32_t il,
        uint32_t stream,
        const llama_kv_cells & cells,
        const std::function<bool(const llama_kv_cells & cells, uint32_t cell)> & unneeded,
        unneeded_cells which) {
    const bool     recent = which == unneeded_cells::RECENT;
    const uint32_t begin = !recent ? 0 : fresh[stream].first - std::min(fresh[stream].first, reach);
    const uint32_t end   = !recent ? cells.size() : std::min(cells.size(), fresh[stream].last + reach);
    if (recent && fresh[stream].empty()) {
        return;
    }
    for (uint32_t first = begin; first < end;) {
        uint32_t last = first;
        while (last < end && (which == unneeded_cells::ALL || !cells.is_empty(last)) && unneeded(cells, last)) {
            ++last;
        }
        release_run run;
        for (const cell_area & area : areas) {
            if (last > first && area.il == il) {
                run.add(area, stream, first, last);
            }
        }
        first = last + 1;
    }
}

void kvfold_kv_memory::release_erased(const llama_kv_cache & cache) {
    std::vector<kvfold_cell_range> erased;
    bool                           any = false;
    for (uint32_t s = 0; s < cache.get_n_stream(); ++s) {
        erased.push_back(cache.get_cells((llama_seq_id) s).take_erased());
        any = any || !erased.back().empty();
    }
    if (refused > 0) { // of that batch other ubatches had theirs, and nothing says which cells these were
        release_empty(cache);
    } else if (any) {
        release(cache, erased);
    }
}

void kvfold_kv_memory::release_empty(const llama_kv_cache & cache) {
    release(cache, std::vector<kvfold_cell_range>(cache.get_n_stream(), { 0, cache.get_size() }));
}

void kvfold_kv_memory::count(const llama_kv_cache & cache) {
    uint64_t used = 0;
    for (uint32_t s = 0; s < cache.get_n_stream(); ++s) {
        const llama_kv_cells & cells = cache.get_cells((llama_seq_id) s);
        used += cells.get_used();
        if (cache.get_n_stream() > 1) {
            n_used_by_seq[s].store(cells.get_used(), std::memory_order_relaxed);
        }
    }
    if (cache.get_n_stream() == 1) {
        const llama_kv_cells & cells = cache.get_cells(0);
        for (llama_seq_id s = 0; s < LLAMA_MAX_SEQ; ++s) {
            n_used_by_seq[s].store(cells.seq_cells(s), std::memory_order_relaxed);
        }
    }
    n_used.store(used, std::memory_order_relaxed);
}
