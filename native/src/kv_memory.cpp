// Host memory for keys and values that is committed as it fills: anonymous pages cost nothing until something is written
// to them, read as zero, and go back to the system when their cells are empty again.

#include "kv_memory.h"

#include "hooks/kv_plan_hooks.h"
#include "kv_caches.h"

#include "ggml/src/ggml-backend-impl.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <vector>

#if defined(__linux__)
#    include <sys/mman.h>
#    include <unistd.h>
#endif

#if defined(__linux__)

namespace {

size_t page_size() {
    static const size_t size = (size_t) sysconf(_SC_PAGESIZE);
    return size;
}

// Gives the whole pages of a range back; they read as zero afterwards. False if the system refuses.
bool release_pages(void * data, size_t size) {
    const uintptr_t first = ((uintptr_t) data + page_size() - 1)/page_size()*page_size();
    const uintptr_t last  = ((uintptr_t) data + size)/page_size()*page_size();
    if (first >= last || madvise((void *) first, last - first, MADV_DONTNEED) == 0) {
        return true;
    }
    static std::atomic_flag told = ATOMIC_FLAG_INIT;
    if (!told.test_and_set()) {
        LLAMA_LOG_WARN("%s: the system does not take memory of empty cells back: %s\n", __func__, strerror(errno));
    }
    return false;
}

void free_buffer(ggml_backend_buffer_t buffer) {
    munmap(buffer->context, buffer->size);
}

void clear(ggml_backend_buffer_t buffer, uint8_t value) {
    // the size of a mapping is a number of pages, so that nothing of it is left over
    if (value != 0 || !release_pages(buffer->context, buffer->size)) {
        memset(buffer->context, value, buffer->size);
    }
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t buft, size_t size) {
    const size_t mapped = std::max(GGML_PAD(size, page_size()), page_size());
    void * data = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) {
        LLAMA_LOG_ERROR("%s: failed to allocate %zu bytes of address space: %s\n", __func__, mapped, strerror(errno));
        return nullptr;
    }
    ggml_backend_buffer_t buffer = ggml_backend_cpu_buffer_from_ptr(data, mapped);
    if (!buffer) {
        munmap(data, mapped);
        return nullptr;
    }
    buffer->buft = buft;
    buffer->iface.free_buffer = free_buffer;
    buffer->iface.clear       = clear;
    return buffer;
}

const char * get_name(ggml_backend_buffer_type_t) {
    return "CPU";
}

size_t get_alignment(ggml_backend_buffer_type_t) {
    return ggml_backend_buft_get_alignment(ggml_backend_cpu_buffer_type());
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
            /* .get_alloc_size = */ nullptr,
            /* .is_host        = */ is_host,
        },
        /* .device  = */ ggml_backend_buft_get_device(ggml_backend_cpu_buffer_type()),
        /* .context = */ nullptr,
    };
    return &type;
}

bool is_paged(const ggml_tensor * tensor) {
    return tensor && tensor->buffer && tensor->buffer->buft == paged_buffer_type();
}

struct cell_run { uint32_t first; uint32_t last; }; // last excluded

template <typename P>
std::vector<cell_run> runs_of(const llama_kv_cells & cells, const P & included) {
    std::vector<cell_run> runs;
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (!included(i)) {
            continue;
        }
        if (runs.empty() || runs.back().last != i) {
            runs.push_back({ i, i });
        }
        runs.back().last = i + 1;
    }
    return runs;
}

// tensor: [row, cells, streams], or [cells, row, streams] where values are stored transposed
void release_cells(const ggml_tensor * tensor, uint32_t stream, uint32_t n_cells, bool transposed, const std::vector<cell_run> & runs) {
    const size_t row = transposed ? ggml_type_size(tensor->type) : tensor->nb[1];
    for (uint32_t r = 0; r < (transposed ? tensor->ne[0] : 1); ++r) {
        char * data = (char *) tensor->data + stream*tensor->nb[2] + (size_t) r*n_cells*row;
        for (const cell_run & run : runs) {
            if ((run.last - run.first)*row >= page_size()) {
                release_pages(data + run.first*row, (run.last - run.first)*row);
            }
        }
    }
}

void release_cells(const kvfold::kv_tensors & layer, uint32_t stream, uint32_t n_cells, const std::vector<cell_run> & runs) {
    if (is_paged(layer.k)) {
        release_cells(layer.k, stream, n_cells, false, runs);
    }
    if (is_paged(layer.v)) {
        release_cells(layer.v, stream, n_cells, layer.v_transposed, runs);
    }
}

void release_unused(const llama_kv_cache & cache) {
    const auto layers = kvfold::kv_tensors_of(cache);
    for (uint32_t s = 0; s < cache.get_n_stream(); ++s) {
        const llama_kv_cells & cells = cache.get_cells((llama_seq_id) s);
        const auto             runs  = runs_of(cells, [&](uint32_t cell) { return cells.is_empty(cell); });
        for (const kvfold::kv_tensors & layer : layers) {
            release_cells(layer, s, cache.get_size(), runs);
        }
    }
}

} // namespace

ggml_backend_buffer_type * kvfold_kv_buffer_type(ggml_backend_buffer_type * buft) {
    return buft == ggml_backend_cpu_buffer_type() ? paged_buffer_type() : buft;
}

kvfold_release_unused::~kvfold_release_unused() {
    for (const llama_kv_cache * cache : kvfold::kv_caches_of(memory)) {
        release_unused(*cache);
    }
}

namespace kvfold {

uint64_t committed_bytes(const ggml_backend_buffer * buffer) {
    if (buffer->buft != paged_buffer_type()) {
        return buffer->size;
    }
    std::vector<unsigned char> resident(buffer->size/page_size());
    if (mincore(buffer->context, buffer->size, resident.data()) != 0) {
        return buffer->size;
    }
    return std::count_if(resident.begin(), resident.end(), [](unsigned char page) { return page & 1; })*page_size();
}

void release_layer(const llama_kv_cache & cache, uint32_t il, const std::function<bool(const llama_kv_cells & cells, uint32_t cell)> & unneeded) {
    for (const kv_tensors & layer : kv_tensors_of(cache)) {
        for (uint32_t s = 0; layer.il == il && s < cache.get_n_stream(); ++s) {
            const llama_kv_cells & cells = cache.get_cells((llama_seq_id) s);
            release_cells(layer, s, cache.get_size(), runs_of(cells, [&](uint32_t cell) { return unneeded(cells, cell); }));
        }
    }
}

} // namespace kvfold

#else

ggml_backend_buffer_type * kvfold_kv_buffer_type(ggml_backend_buffer_type * buft) {
    return buft;
}

kvfold_release_unused::~kvfold_release_unused() = default;

namespace kvfold {

uint64_t committed_bytes(const ggml_backend_buffer * buffer) {
    return buffer->size;
}

void release_layer(const llama_kv_cache &, uint32_t, const std::function<bool(const llama_kv_cells &, uint32_t)> &) {}

} // namespace kvfold

#endif
