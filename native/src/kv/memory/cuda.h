// KV memory of a CUDA device that follows use, by CUDA's virtual memory management: a range of device addresses of which
// granules (2 MiB on today's GPUs) get memory when their cells are about to be written, and lose it when they are empty.
//
// Compiled with CUDA 11.8 and tested against a stand-in for the driver; it has not run on a GPU yet.
#pragma once

#include "kv/memory/pages.h"

#include <functional>
#include <memory>

struct ggml_backend_buffer;
struct ggml_backend_buffer_type;

namespace kvfold {

// What is used of CUDA's driver, one function for each of its calls, for one device. Results are CUresult: 0 is success.
struct cuda_device {
    using address    = unsigned long long; // CUdeviceptr
    using allocation = unsigned long long; // CUmemGenericAllocationHandle, never 0

    virtual ~cuda_device() = default;

    virtual int granularity(size_t * size) = 0;                         // cuMemGetAllocationGranularity
    virtual int reserve    (address * at, size_t size) = 0;             // cuMemAddressReserve
    virtual int unreserve  (address at, size_t size) = 0;               // cuMemAddressFree
    virtual int create     (allocation * made, size_t size) = 0;        // cuMemCreate; what is in it is undefined
    virtual int release    (allocation what) = 0;                       // cuMemRelease; mappings keep it
    virtual int map        (address at, size_t size, allocation what) = 0; // cuMemMap; of no access at first
    virtual int unmap      (address at, size_t size) = 0;               // cuMemUnmap; of one whole mapping
    virtual int allow      (address at, size_t size, bool write) = 0;   // cuMemSetAccess; of whole mappings
    virtual int synchronize() = 0;                                      // cuCtxSynchronize

    // These return when it is done: cuMemsetD8Async, cuMemcpyHtoDAsync, cuMemcpyDtoHAsync and cuMemcpyDtoDAsync.
    virtual int fill    (address at, uint8_t value, size_t size) = 0;
    virtual int upload  (address to, const void * from, size_t size) = 0;
    virtual int download(void * to, address from, size_t size) = 0;
    virtual int copy    (address to, address from, size_t size) = 0;

    virtual const char * name_of(int result) = 0; // cuGetErrorName
};

// Attention reads cells that nobody uses, and masks what it finds there; so every granule can be read at all times. Those
// without memory of their own are mapped to one granule of zeros that they share, which costs 2 MiB.
struct cuda_pages : page_driver {
    // Null, saying why in the log, if the device refuses. `size` is rounded up to whole granules.
    static std::unique_ptr<cuda_pages> reserve(cuda_device & device, size_t size);

    ~cuda_pages() override; // waits for the device and gives everything back

    void * base() const { return (void *) (uintptr_t) at; }
    size_t size() const { return own.size()*granule; }

    size_t page_size() const override { return granule; }
    bool   on_device() const override { return true; }
    bool   commit (void * data, size_t size) override;
    bool   release(void * data, size_t size) override;

    void synchronize_with(const std::function<void()> & wait) override { this->wait = wait; }

private:
    cuda_pages(cuda_device & device, size_t granule, size_t n) : device(device), granule(granule), own(n) {}

    bool make();
    bool make_zeros();
    bool succeeds(int result, const char * what) const;
    bool idle() const;

    cuda_device::address   address_of(size_t i) const { return at + i*granule; }
    cuda_device::allocation backing(size_t i) const { return own[i] ? own[i] : zeros; }

    // Maps granules [first, first + to.size()) to other memory; on failure they keep what they have.
    bool remap(size_t first, const std::vector<cuda_device::allocation> & to, bool write);

    cuda_device &           device;
    const size_t            granule;
    cuda_device::address    at       = 0;
    cuda_device::allocation zeros    = 0;
    size_t                  n_mapped = 0; // granules that are mapped; all of them once it is made
    bool                    zeros_are_read_only = true;
    bool                    lost     = false; // a granule could not be mapped back

    std::vector<cuda_device::allocation> own; // by granule; 0: it reads as zeros
    std::function<void()>                wait;
};

// The type for keys and values in place of `type`, of which it is a copy but for how memory is had: ggml-cuda knows its
// buffer types by their functions and their device, and takes this for what it stands for. `type` itself on a device that
// has no virtual memory management, and in builds without CUDA.
ggml_backend_buffer_type * cuda_buffer_type_for(ggml_backend_buffer_type * type);

// Null for buffers of other types.
page_map * cuda_pages_of(const ggml_backend_buffer * buffer);

// The device behind a buffer type, if it can do this; for the life of the process. Null otherwise.
cuda_device * cuda_device_of(ggml_backend_buffer_type * type);

// From now on `type` counts as that of a CUDA device, until null is given. For tests, before any buffer of it is made.
void set_cuda_device(ggml_backend_buffer_type * type, cuda_device * device);

} // namespace kvfold
