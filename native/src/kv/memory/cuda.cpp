#include "kv/memory/cuda.h"

#include "kv/memory/page_ledger.h"

#include "ggml/src/ggml-backend-impl.h"
#include "llama-impl.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

namespace kvfold {

// ---- granules

bool cuda_pages::succeeds(int result, const char * what) const {
    if (result != 0) {
        LLAMA_LOG_WARN("%s: %s: %s\n", __func__, what, device.name_of(result));
    }
    return result == 0;
}

std::unique_ptr<cuda_pages> cuda_pages::reserve(cuda_device & device, size_t size) {
    size_t granule = 0;
    if (device.granularity(&granule) != 0 || granule == 0) {
        return nullptr;
    }
    std::unique_ptr<cuda_pages> pages(new cuda_pages(device, granule, std::max<size_t>(1, (size + granule - 1)/granule)));
    return pages->make() ? std::move(pages) : nullptr;
}

bool cuda_pages::make() {
    if (!succeeds(device.reserve(&at, size()), "no address space for keys and values")) {
        at = 0;
        return false;
    }
    if (!make_zeros()) {
        return false;
    }
    for (; n_mapped < own.size(); ++n_mapped) {
        if (!succeeds(device.map(address_of(n_mapped), granule, zeros), "cannot map keys and values")) {
            return false;
        }
    }
    if (device.allow(at, size(), false) == 0) {
        return true;
    }
    zeros_are_read_only = false; // nothing writes to them anyway
    return succeeds(device.allow(at, size(), true), "cannot use what keys and values are mapped to");
}

// What a new allocation holds is undefined.
bool cuda_pages::make_zeros() {
    if (!succeeds(device.create(&zeros, granule), "no memory for a granule of zeros")) {
        zeros = 0;
        return false;
    }
    if (!succeeds(device.map(at, granule, zeros), "cannot map a granule of zeros")) {
        return false;
    }
    n_mapped = 1;
    const bool filled = succeeds(device.allow(at, granule, true), "cannot use a granule of zeros") &&
                        succeeds(device.fill(at, 0, granule), "cannot clear a granule of zeros");
    if (!succeeds(device.unmap(at, granule), "cannot unmap a granule of zeros")) {
        return false;
    }
    n_mapped = 0;
    return filled;
}

// As cudaFree() does, this waits for all that the device computes.
cuda_pages::~cuda_pages() {
    device.synchronize();
    for (size_t i = 0; i < n_mapped; ++i) {
        device.unmap(address_of(i), granule);
    }
    for (const auto each : own) {
        if (each) {
            device.release(each);
        }
    }
    if (zeros) {
        device.release(zeros);
    }
    if (at) {
        device.unreserve(at, size());
    }
}

// A mapping must not change under a kernel. The context is asked and not the device, of which another context may be
// capturing a graph: that forbids to synchronize with the device.
bool cuda_pages::idle() const {
    if (wait) {
        wait();
        return true;
    }
    return succeeds(device.synchronize(), "cannot wait for the device");
}

bool cuda_pages::remap(size_t first, const std::vector<cuda_device::allocation> & to, bool write) {
    const bool before = own[first] != 0 || !zeros_are_read_only; // what is remapped at once has one kind of memory
    size_t     done   = 0;
    bool       ok     = true;
    for (; ok && done < to.size(); ++done) {
        const auto granule_at = address_of(first + done);
        if (!succeeds(device.unmap(granule_at, granule), "cannot unmap keys and values")) {
            ok = false;
            break;
        }
        if (!succeeds(device.map(granule_at, granule, to[done]), "cannot map keys and values")) {
            ok   = false;
            lost = device.map(granule_at, granule, backing(first + done)) != 0 || device.allow(granule_at, granule, before) != 0 || lost;
            break;
        }
    }
    if (ok && succeeds(device.allow(address_of(first), to.size()*granule, write), "cannot use what keys and values are mapped to")) {
        return true;
    }
    for (size_t i = 0; i < done; ++i) {
        const auto granule_at = address_of(first + i);
        lost = device.unmap(granule_at, granule) != 0 || device.map(granule_at, granule, backing(first + i)) != 0 ||
               device.allow(granule_at, granule, before) != 0 || lost;
    }
    return false;
}

bool cuda_pages::commit(void * data, size_t size) {
    const size_t first = ((cuda_device::address) (uintptr_t) data - at)/granule;
    const size_t n     = size/granule;
    if (lost || n == 0) {
        return !lost;
    }
    std::vector<cuda_device::allocation> made;
    const auto give_up = [&] {
        for (const auto each : made) {
            device.release(each);
        }
        return false;
    };
    for (size_t i = 0; i < n; ++i) { // what is likely to fail comes first
        cuda_device::allocation each = 0;
        if (!succeeds(device.create(&each, granule), "no memory for keys and values")) {
            return give_up();
        }
        made.push_back(each);
    }
    if (!idle() || !remap(first, made, true)) {
        return give_up();
    }
    if (!succeeds(device.fill(address_of(first), 0, n*granule), "cannot clear the memory of keys and values")) {
        std::copy(made.begin(), made.end(), own.begin() + (ptrdiff_t) first); // for the way back
        if (remap(first, std::vector<cuda_device::allocation>(n, zeros), !zeros_are_read_only)) {
            std::fill_n(own.begin() + (ptrdiff_t) first, n, 0);
            return give_up();
        }
        lost = true; // it stays mapped, and counts as nobody's; the end releases it
        return false;
    }
    std::copy(made.begin(), made.end(), own.begin() + (ptrdiff_t) first);
    return true;
}

bool cuda_pages::release(void * data, size_t size) {
    const size_t first = ((cuda_device::address) (uintptr_t) data - at)/granule;
    const size_t n     = size/granule;
    if (lost || n == 0) {
        return !lost;
    }
    if (!idle() || !remap(first, std::vector<cuda_device::allocation>(n, zeros), !zeros_are_read_only)) {
        return false;
    }
    for (size_t i = first; i < first + n; ++i) {
        succeeds(device.release(own[i]), "cannot release the memory of keys and values");
        own[i] = 0;
    }
    return true;
}

// ---- buffers

namespace {

struct device_buffer {
    cuda_device &               device;
    std::unique_ptr<cuda_pages> memory;
    std::unique_ptr<page_map>   pages;
};

device_buffer & of(ggml_backend_buffer_t buffer) {
    return *(device_buffer *) buffer->context;
}

cuda_device::address address_of(const void * data) {
    return (cuda_device::address) (uintptr_t) data;
}

// llama.cpp catches it where it reads and writes states.
void demand(cuda_device & device, int result, const char * what) {
    if (result != 0) {
        throw std::runtime_error(std::string(what) + " keys and values on the device failed: " + device.name_of(result));
    }
}

void free_buffer(ggml_backend_buffer_t buffer) {
    device_buffer & gone = of(buffer);
    gone.pages->abandon(); // the memory gives all of it back at once
    delete &gone;
}

void * get_base(ggml_backend_buffer_t buffer) {
    return of(buffer).memory->base();
}

void memset_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor, uint8_t value, size_t offset, size_t size) {
    demand(of(buffer).device, of(buffer).device.fill(address_of(tensor->data) + offset, value, size), "clearing");
}

void set_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    demand(of(buffer).device, of(buffer).device.upload(address_of(tensor->data) + offset, data, size), "writing");
}

void get_tensor(ggml_backend_buffer_t buffer, const ggml_tensor * tensor, void * data, size_t offset, size_t size) {
    demand(of(buffer).device, of(buffer).device.download(data, address_of(tensor->data) + offset, size), "reading");
}

// False: ggml copies through host memory.
bool cpy_tensor(ggml_backend_buffer_t buffer, const ggml_tensor * src, ggml_tensor * dst) {
    const ggml_backend_buffer_t from = src->view_src ? src->view_src->buffer : src->buffer;
    if (!from || from->iface.free_buffer != free_buffer || &of(from).device != &of(buffer).device) {
        return false;
    }
    demand(of(buffer).device, of(buffer).device.copy(address_of(dst->data), address_of(src->data), ggml_nbytes(src)), "copying");
    return true;
}

// Granules without memory read as zero.
void clear(ggml_backend_buffer_t buffer, uint8_t value) {
    page_map & pages = *of(buffer).pages;
    if (value == 0 && pages.release(0, pages.size())) {
        return;
    }
    if (!pages.commit(0, pages.size())) {
        throw std::runtime_error("there is no memory on the device for all keys and values");
    }
    demand(of(buffer).device, of(buffer).device.fill(address_of(get_base(buffer)), value, pages.size()), "clearing");
}

const ggml_backend_buffer_i buffer_interface = {
    /* .free_buffer   = */ free_buffer,
    /* .get_base      = */ get_base,
    /* .init_tensor   = */ nullptr,
    /* .memset_tensor = */ memset_tensor,
    /* .set_tensor    = */ set_tensor,
    /* .get_tensor    = */ get_tensor,
    /* .set_tensor_2d = */ nullptr,
    /* .get_tensor_2d = */ nullptr,
    /* .cpy_tensor    = */ cpy_tensor,
    /* .clear         = */ clear,
    /* .reset         = */ nullptr,
};

// The context of the type is ggml-cuda's own, so what is ours is beside it.
struct device_type {
    ggml_backend_buffer_type   type; // first, so that its address is this one's
    ggml_backend_buffer_type * base;
    cuda_device *              device;
    size_t                     granule;
};

device_type & of(ggml_backend_buffer_type_t type) {
    return *(device_type *) type;
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    device_type & own    = of(type);
    auto          memory = cuda_pages::reserve(*own.device, size);
    if (!memory) {
        LLAMA_LOG_WARN("%s: keys and values on %s are allocated as a whole\n", __func__, ggml_backend_buft_name(own.base));
        return ggml_backend_buft_alloc_buffer(own.base, size);
    }
    auto         pages  = std::make_unique<page_map>(*memory, memory->base(), memory->size(), current_ledger());
    const size_t mapped = memory->size();
    return ggml_backend_buffer_init(type, buffer_interface, new device_buffer{ *own.device, std::move(memory), std::move(pages) }, mapped);
}

// A tensor that begins with a granule ends with one, so that it gives all of its memory back, where that wastes little.
// Small ones, of window-sized caches or short contexts, share granules.
size_t get_alloc_size(ggml_backend_buffer_type_t type, const ggml_tensor * tensor) {
    const device_type & own    = of(type);
    const size_t        size   = ggml_backend_buft_get_alloc_size(own.base, tensor);
    const size_t        padded = (size + own.granule - 1)/own.granule*own.granule;
    return padded - size <= size/8 ? padded : size;
}

size_t get_alignment(ggml_backend_buffer_type_t type) {
    return ggml_backend_buft_get_alignment(of(type).base);
}

std::mutex                                                            types_mutex;
std::map<ggml_backend_buffer_type *, std::unique_ptr<device_type>> & types() {
    static auto * const all = new std::map<ggml_backend_buffer_type *, std::unique_ptr<device_type>>; // buffers outlive statics
    return *all;
}

// Those of tests.
std::map<ggml_backend_buffer_type *, cuda_device *> stand_ins;

} // namespace

ggml_backend_buffer_type * cuda_buffer_type_for(ggml_backend_buffer_type * type) {
    const std::lock_guard<std::mutex> lock(types_mutex);
    const auto    stand_in = stand_ins.find(type);
    cuda_device * device   = stand_in != stand_ins.end() ? stand_in->second : cuda_device_of(type);
    size_t        granule  = 0;
    if (!device || device->granularity(&granule) != 0 || granule == 0) {
        return type;
    }
    std::unique_ptr<device_type> & known = types()[type];
    if (!known) {
        known.reset(new device_type{ *type, type, device, granule });
        known->type.iface.alloc_buffer   = alloc_buffer;
        known->type.iface.get_alignment  = get_alignment;
        known->type.iface.get_alloc_size = get_alloc_size;
        known->type.iface.get_max_size   = nullptr; // as much as there are addresses
    }
    known->device  = device;
    known->granule = granule;
    return &known->type;
}

page_map * cuda_pages_of(const ggml_backend_buffer * buffer) {
    return buffer && buffer->iface.free_buffer == free_buffer ? ((device_buffer *) buffer->context)->pages.get() : nullptr;
}

void set_cuda_device(ggml_backend_buffer_type * type, cuda_device * device) {
    const std::lock_guard<std::mutex> lock(types_mutex);
    if (device) {
        stand_ins[type] = device;
    } else {
        stand_ins.erase(type);
    }
}

#if !defined(KVFOLD_CUDA)

cuda_device * cuda_device_of(ggml_backend_buffer_type *) {
    return nullptr;
}

#endif

} // namespace kvfold
