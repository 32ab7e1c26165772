#include "kv/memory/host_pages.h"

#include "kv/memory/page_ledger.h"

#include "ggml/src/ggml-backend-impl.h"
#include "llama-impl.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#if defined(__linux__)
#    include <sys/mman.h>
#    include <unistd.h>
#endif

namespace kvfold {

#if defined(__linux__)

namespace {

struct system_pages : page_driver {
    size_t page_size() const override {
        static const size_t size = (size_t) sysconf(_SC_PAGESIZE);
        return size;
    }

    // By the first write, so that what is committed is there, and the next reading of the system's memory counts it.
    bool commit(void * data, size_t size) override {
        for (size_t at = 0; at < size; at += page_size()) {
            ((volatile char *) data)[at] = 0;
        }
        return true;
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
    buffer->context = new paged_buffer{ data, { *driver, data, mapped, current_ledger() } };
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

} // namespace

ggml_backend_buffer_type * host_buffer_type_for(ggml_backend_buffer_type * type) {
    return type == ggml_backend_cpu_buffer_type() ? paged_buffer_type() : type;
}

page_map * host_pages_of(const ggml_backend_buffer * buffer) {
    return buffer && buffer->buft == paged_buffer_type() ? &((paged_buffer *) buffer->context)->pages : nullptr;
}

void set_page_driver(page_driver * driver) {
    driver_for_tests = driver;
}

#else

ggml_backend_buffer_type * host_buffer_type_for(ggml_backend_buffer_type * type) {
    return type;
}

page_map * host_pages_of(const ggml_backend_buffer *) {
    return nullptr;
}

void set_page_driver(page_driver *) {}

#endif

} // namespace kvfold
