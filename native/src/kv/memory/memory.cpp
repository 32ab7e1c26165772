// Memory for keys and values that follows use: pages are committed for cells that are about to be written, and go back to
// the system when their cells are empty again. On Linux host memory is committed by the first write; the bookkeeping below
// says which pages that can be. Memory of a CUDA device: cuda.h.

#include "kv/memory/memory.h"

#include "hooks/kv-memory.h"
#include "kv/memory/caches.h"
#include "kv/memory/cuda.h"
#include "kv/memory/pages.h"

#include "ggml/src/ggml-backend-impl.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <set>
#include <stdexcept>

#if defined(__linux__)
#    include <sys/mman.h>
#    include <unistd.h>
#endif

namespace kvfold {

namespace {

#if defined(__linux__)

struct system_pages : page_driver {
    size_t page_size() const override {
        static const size_t size = (size_t) sysconf(_SC_PAGESIZE);
        return size;
    }

    bool commit(void *, size_t) override {
        return true; // by the first write
    }

    bool release(void * data, size_t size) override {
        return madvise(data, size, MADV_DONTNEED) == 0;
    }
};

page_driver & default_driver() {
    static system_pages driver;
    return driver;
}

std::atomic<page_driver *> driver_for_tests{ nullptr };

struct paged_buffer {
    void *   data;
    page_map pages;
};

paged_buffer & paged(ggml_backend_buffer_t buffer) {
    return *(paged_buffer *) buffer->context;
}

void free_buffer(ggml_backend_buffer_t buffer) {
    void * const data = paged(buffer).data;
    delete (paged_buffer *) buffer->context;
    munmap(data, buffer->size);
}

void * get_base(ggml_backend_buffer_t buffer) {
    return paged(buffer).data;
}

// Pages that are not committed read as zero.
void clear(ggml_backend_buffer_t buffer, uint8_t value) {
    page_map & pages = paged(buffer).pages;
    if (value != 0) {
        pages.commit(0, pages.size());
    }
    if (value != 0 || !pages.release(0, pages.size())) {
        memset(paged(buffer).data, value, buffer->size);
    }
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t buft, size_t size) {
    page_driver * const driver = driver_for_tests ? driver_for_tests.load() : &default_driver();
    const size_t        page   = driver->page_size();
    const size_t        mapped = std::max(GGML_PAD(size, page), page);
    void * data = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
        LLAMA_LOG_ERROR("%s: failed to allocate %zu bytes of address space: %s\n", __func__, mapped, strerror(errno));
        return nullptr;
    }
    // a huge page would take 2 MiB for the first of its cells, and be split when some of them are given back
    madvise(data, mapped, MADV_NOHUGEPAGE);
    ggml_backend_buffer_t buffer = ggml_backend_cpu_buffer_from_ptr(data, mapped);
    if (!buffer) {
        munmap(data, mapped);
        return nullptr;
    }
    buffer->buft    = buft;
    buffer->context = new paged_buffer{ data, { *driver, data, mapped } };
    buffer->iface.free_buffer = free_buffer;
    buffer->iface.get_base    = get_base;
    buffer->iface.clear       = clear;
    return buffer;
}

const char * get_name(ggml_backend_buffer_type_t) {
    return "CPU";
}

// No page holds two tensors, so that each gives all of its pages back.
size_t get_alignment(ggml_backend_buffer_type_t) {
    return default_driver().page_size();
}

size_t get_alloc_size(ggml_backend_buffer_type_t, const ggml_tensor * tensor) {
    return GGML_PAD(ggml_nbytes(tensor), default_driver().page_size());
}

bool is_host(ggml_backend_buffer_type_t) {
    return true;
}

ggml_backend_buffer_type_t paged_buffer_type() {
    static ggml_backend_buffer_type type = {
        {
            /* .get_name       = */ get_name,
            /* .alloc_buffer   = */ alloc_buffer,
            /* .get_alignment  = */ get_alignment,
            /* .get_max_size   = */ nullptr,
            /* .get_alloc_size = */ get_alloc_size,
            /* .is_host        = */ is_host,
        },
        /* .device  = */ ggml_backend_buft_get_device(ggml_backend_cpu_buffer_type()),
        /* .context = */ nullptr,
    };
    return &type;
}

ggml_backend_buffer_type_t paged_type_for(ggml_backend_buffer_type_t buft) {
    const ggml_backend_buffer_type_t on_device = cuda_buffer_type_for(buft);
    return on_device == buft && buft == ggml_backend_cpu_buffer_type() ? paged_buffer_type() : on_device;
}

// Null where memory is not committed as it fills. A tensor without memory of its own is in a buffer of size 0.
page_map * pages_of(const ggml_backend_buffer * buffer) {
    const bool is_paged = buffer && buffer->buft == paged_buffer_type();
    return is_paged ? &((paged_buffer *) buffer->context)->pages : cuda_pages_of(buffer);
}

#else

ggml_backend_buffer_type_t paged_type_for(ggml_backend_buffer_type_t buft) {
    return cuda_buffer_type_for(buft);
}

page_map * pages_of(const ggml_backend_buffer * buffer) {
    return cuda_pages_of(buffer);
}

#endif

// Where the cells of a K or V tensor lie: [row, cells, streams], or [cells, row, streams] where values are transposed.
struct cell_area {
    uint32_t            il;
    const ggml_tensor * tensor;
    page_map *          pages;
    size_t              offset;   // of the tensor, within its pages
    size_t              n_cells;  // of a stream
    size_t              n_rows;   // of which each cell has a piece: 1, or ne[0] if transposed
    size_t              n_bytes;  // of a cell in a row
    size_t              end;      // of what was allocated for the tensor, within its pages

    size_t n_row()    const { return n_cells*n_bytes; }
    size_t n_stream() const { return n_rows*n_row(); }

    // Calls what(offset, size) for each range of bytes that cells [first, last) of a stream take.
    template <typename F> void for_each(uint32_t stream, uint32_t first, uint32_t last, F && what) const {
        const size_t start = offset + stream*n_stream();
        if (first == 0 && last == n_cells) {
            what(start, n_stream());
            return;
        }
        for (size_t row = 0; row < n_rows; ++row) {
            what(start + row*n_row() + first*n_bytes, (last - first)*n_bytes);
        }
    }

    bool commit(uint32_t stream, uint32_t first, uint32_t last) const {
        bool done = true;
        for_each(stream, first, last, [&](size_t at, size_t size) { done = done && pages->commit(at, size); });
        return done;
    }

    uint64_t missing(uint32_t stream, uint32_t first, uint32_t last) const {
        uint64_t bytes = 0;
        for_each(stream, first, last, [&](size_t at, size_t size) { bytes += pages->missing(at, size); });
        return bytes;
    }
};

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

struct kvfold_kv_memory {
    std::vector<cell_area> areas;
    uint32_t               reach = 0; // cells that can share a page with a cell, on each side of it
    bool                   shares_pages = false; // some page holds cells of two tensors

    std::vector<kvfold_cell_range> fresh; // per stream, committed since settle_recent()

    // what other threads may ask
    std::atomic<uint64_t>              refused{ 0 }; // bytes that could not be had for the last batch, 0 if they could
    std::atomic<uint64_t>              n_used{ 0 };
    std::vector<std::atomic<uint32_t>> n_used_by_seq;

    explicit kvfold_kv_memory(const llama_kv_cache & cache) : fresh(cache.get_n_stream()), n_used_by_seq(LLAMA_MAX_SEQ) {
        for (const kv_tensors & layer : kv_tensors_of(cache)) {
            add(layer.il, layer.k, false, cache.get_size());
            add(layer.il, layer.v, layer.v_transposed, cache.get_size());
        }
    }

    void add(uint32_t il, const ggml_tensor * tensor, bool transposed, size_t n_cells) {
        page_map * const pages = tensor ? pages_of(tensor->buffer) : nullptr;
        if (!pages || !tensor->data) {
            return;
        }
        const size_t offset  = (char *) tensor->data - (char *) ggml_backend_buffer_get_base(tensor->buffer);
        const size_t n_rows  = transposed ? tensor->ne[0] : 1;
        const size_t n_bytes = transposed ? ggml_type_size(tensor->type) : tensor->nb[1];
        const auto   buft    = ggml_backend_buffer_get_type(tensor->buffer);
        const size_t taken   = GGML_PAD(ggml_backend_buft_get_alloc_size(buft, tensor), ggml_backend_buft_get_alignment(buft));
        areas.push_back({ il, tensor, pages, offset, n_cells, n_rows, n_bytes, offset + taken });
        shares_pages = shares_pages || offset % pages->page_size() != 0;
        reach = std::max(reach, (uint32_t) ((pages->page_size() + n_bytes - 1)/n_bytes));
    }

    bool commit(uint32_t stream, const std::vector<uint32_t> & cells) {
        refused = 0;
        if (!cells.empty()) {
            const auto [least, most] = std::minmax_element(cells.begin(), cells.end());
            fresh[stream].first = std::min(fresh[stream].first, *least);
            fresh[stream].last  = std::max(fresh[stream].last, *most + 1);
        }
        for (size_t i = 0; i < cells.size();) {
            size_t n = 1;
            while (i + n < cells.size() && cells[i + n] == cells[i] + n) {
                ++n;
            }
            const uint32_t first = cells[i];
            const uint32_t last  = first + (uint32_t) n;
            uint64_t       bytes = 0;
            for (const cell_area & area : areas) {
                bytes += area.missing(stream, first, last);
            }
            for (const cell_area & area : areas) {
                if (!area.commit(stream, first, last)) {
                    refused = std::max<uint64_t>(bytes, 1);
                    return false;
                }
            }
            i += n;
        }
        return true;
    }

    // The empty cells in a range and those around it that can share pages with them.
    std::vector<kvfold_cell_range> empty_runs(const llama_kv_cells & cells, kvfold_cell_range range) const {
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

    // Of the empty cells in these ranges, one for each stream.
    void release(const llama_kv_cache & cache, std::vector<kvfold_cell_range> ranges) {
        if (shares_pages) { // then a page can hold the cells of any stream
            ranges.assign(ranges.size(), { 0, cache.get_size() });
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

    // Of cells that hold tokens which the layer does not need. Empty ones are left: they may be committed for a ubatch to come.
    template <typename P> void release_layer(uint32_t il, uint32_t stream, const llama_kv_cells & cells, P && unneeded, bool recent) {
        const uint32_t begin = !recent ? 0 : fresh[stream].first - std::min(fresh[stream].first, reach);
        const uint32_t end   = !recent ? cells.size() : std::min(cells.size(), fresh[stream].last + reach);
        if (recent && fresh[stream].empty()) {
            return;
        }
        for (uint32_t first = begin; first < end;) {
            uint32_t last = first;
            while (last < end && !cells.is_empty(last) && unneeded(cells, last)) {
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

    void release_erased(const llama_kv_cache & cache) {
        std::vector<kvfold_cell_range> erased;
        bool                           any = false;
        for (uint32_t s = 0; s < cache.get_n_stream(); ++s) {
            erased.push_back(cache.get_cells((llama_seq_id) s).take_erased());
            any = any || !erased.back().empty();
        }
        if (any) {
            release(cache, erased);
        }
    }

    void count(const llama_kv_cache & cache) {
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
};

ggml_backend_buffer_type * kvfold_kv_buffer_type(ggml_backend_buffer_type * buft) {
    return paged_type_for(buft);
}

std::shared_ptr<kvfold_kv_memory> kvfold_make_kv_memory(const llama_kv_cache & cache) {
    return std::make_shared<kvfold_kv_memory>(cache);
}

bool kvfold_commit_cells(const llama_kv_cache & cache, const std::vector<int32_t> & strm, const std::vector<std::vector<uint32_t>> & idxs) {
    for (size_t s = 0; s < strm.size(); ++s) {
        if (!cache.kv_memory->commit(strm[s], idxs[s])) {
            LLAMA_LOG_ERROR("%s: there is no memory for the keys and values of %zu tokens\n", __func__, idxs[s].size());
            return false;
        }
    }
    return true;
}

// Releases nothing: of a batch of several ubatches the cells of the later ones are committed, and still empty.
void kvfold_cells_assigned(const llama_kv_cache & cache) {
    cache.kv_memory->count(cache);
}

void kvfold_commit_whole_cache(const llama_kv_cache & cache) {
    for (uint32_t s = 0; s < cache.get_n_stream(); ++s) {
        for (const cell_area & area : cache.kv_memory->areas) {
            const uint64_t bytes = area.missing(s, 0, cache.get_size());
            if (!area.commit(s, 0, cache.get_size())) {
                cache.kv_memory->refused = std::max<uint64_t>(bytes, 1);
                throw std::runtime_error("there is no memory to rewrite all keys and values");
            }
        }
    }
}

void kvfold_cells_rewritten(const llama_kv_cache & cache) {
    cache.kv_memory->release(cache, std::vector<kvfold_cell_range>(cache.get_n_stream(), { 0, cache.get_size() }));
}

void kvfold_synchronize_with(llama_memory_i * memory, const std::function<void()> & wait) {
    for (const llama_kv_cache * cache : kv_caches_of(memory)) {
        for (const cell_area & area : cache->kv_memory->areas) {
            area.pages->synchronize_with(wait);
        }
    }
}

void kvfold_explain_full_cache(llama_context * context, std::string & error) {
    if (const auto refusal = refusal_of(llama_get_memory(context))) {
        error = refusal->text();
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

uint64_t committed_bytes(const ggml_tensor * tensor) {
    const page_map * const pages = pages_of(tensor->buffer);
    if (!pages) {
        return ggml_nbytes(tensor);
    }
    return pages->committed((char *) tensor->data - (char *) ggml_backend_buffer_get_base(tensor->buffer), ggml_nbytes(tensor));
}

uint64_t cells_in_use(const llama_kv_cache & cache) {
    return cache.kv_memory->n_used.load(std::memory_order_relaxed);
}

uint64_t cells_in_use(const llama_kv_cache & cache, int32_t seq_id) {
    return cache.kv_memory->n_used_by_seq[seq_id].load(std::memory_order_relaxed);
}

static const char refusal_words[] = "the system gives no memory for more keys and values: ";

std::string memory_refusal::text() const {
    return refusal_words + std::to_string(bytes) + " bytes beside the " + std::to_string(committed) + " that they take";
}

std::optional<memory_refusal> memory_refusal::parse(const std::string & text) {
    const size_t at = text.find(refusal_words);
    if (at == std::string::npos) {
        return std::nullopt;
    }
    char *         end   = nullptr;
    memory_refusal found = { strtoull(text.c_str() + at + strlen(refusal_words), &end, 10), 0 };
    found.committed = strtoull(end + strlen(" bytes beside the "), nullptr, 10);
    return found;
}

error out_of_memory(const memory_refusal & refusal) {
    return error(KVFOLD_ERROR_OUT_OF_MEMORY, refusal.text() + "; a \"kv-budget\" lets requests wait for memory")
        .compares((int64_t) (refusal.committed + refusal.bytes), (int64_t) refusal.committed)
        .about_option("kv-budget");
}

std::optional<memory_refusal> refusal_of(const llama_memory_i * memory) {
    uint64_t                                   bytes = 0, committed = 0;
    std::set<const ggml_backend_buffer *> buffers;
    for (const llama_kv_cache * cache : kv_caches_of(memory)) {
        bytes = std::max(bytes, cache->kv_memory->refused.load());
        for (const cell_area & area : cache->kv_memory->areas) {
            if (buffers.insert(area.tensor->buffer).second) {
                committed += area.pages->committed();
            }
        }
    }
    return bytes > 0 ? std::optional<memory_refusal>({ bytes, committed }) : std::nullopt;
}

void set_page_driver(page_driver * driver) {
#if defined(__linux__)
    driver_for_tests = driver;
#else
    (void) driver;
#endif
}

void release_layer(
        const llama_kv_cache & cache,
        uint32_t il,
        const std::function<bool(const llama_kv_cells & cells, uint32_t cell)> & unneeded,
        bool recent) {
    for (uint32_t s = 0; s < cache.get_n_stream(); ++s) {
        cache.kv_memory->release_layer(il, s, cache.get_cells((llama_seq_id) s), unneeded, recent);
    }
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
