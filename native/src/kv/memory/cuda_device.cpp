// CUDA's driver behind cuda.h. Only in builds with the CUDA backend, which link the driver for ggml's own pool.
#include "kv/memory/cuda.h"

#include "ggml-backend.h"
#include "ggml-cuda.h"

#include <cuda.h>

#include <cstdlib>
#include <map>
#include <memory>

namespace kvfold {

static_assert(sizeof(CUdeviceptr) == sizeof(cuda_device::address), "device addresses");
static_assert(sizeof(CUmemGenericAllocationHandle) == sizeof(cuda_device::allocation), "allocations");
static_assert(CUDA_SUCCESS == 0, "success");

namespace {

// While one lives, this thread uses the context that CUDA's runtime, and so ggml-cuda, uses on the device.
struct in_context {
    bool entered;

    explicit in_context(CUcontext context) : entered(cuCtxPushCurrent(context) == CUDA_SUCCESS) {}

    ~in_context() {
        CUcontext gone = nullptr;
        if (entered) {
            cuCtxPopCurrent(&gone);
        }
    }
};

struct driver_device : cuda_device {
    CUdevice            device;
    CUcontext           context; // retained for the life of the process
    CUmemAllocationProp memory = {};

    driver_device(CUdevice device, CUcontext context) : device(device), context(context) {
        memory.type          = CU_MEM_ALLOCATION_TYPE_PINNED;
        memory.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
        memory.location.id   = device;
    }

    template <typename F> int inside(F && call) const {
        const in_context scope(context);
        return scope.entered ? (int) call() : (int) CUDA_ERROR_INVALID_CONTEXT;
    }

    // What ggml-cuda does with cudaStreamPerThread: memory of the host may be pageable, and a kernel on another stream does
    // not wait for this one.
    template <typename F> int complete(F && call) const {
        return inside([&] {
            const CUresult result = call();
            return result == CUDA_SUCCESS ? cuStreamSynchronize(CU_STREAM_PER_THREAD) : result;
        });
    }

    int granularity(size_t * size) override {
        return inside([&] { return cuMemGetAllocationGranularity(size, &memory, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED); });
    }
    int reserve(address * at, size_t size) override {
        return inside([&] {
            CUdeviceptr    pointer = 0;
            const CUresult result  = cuMemAddressReserve(&pointer, size, 0, 0, 0);
            *at = pointer;
            return result;
        });
    }
    int unreserve(address at, size_t size) override {
        return inside([&] { return cuMemAddressFree(at, size); });
    }
    int create(allocation * made, size_t size) override {
        return inside([&] {
            CUmemGenericAllocationHandle handle = 0;
            const CUresult               result = cuMemCreate(&handle, size, &memory, 0);
            *made = handle;
            return result;
        });
    }
    int release(allocation what) override {
        return inside([&] { return cuMemRelease(what); });
    }
    int map(address at, size_t size, allocation what) override {
        return inside([&] { return cuMemMap(at, size, 0, what, 0); });
    }
    int unmap(address at, size_t size) override {
        return inside([&] { return cuMemUnmap(at, size); });
    }
    int allow(address at, size_t size, bool write) override {
        CUmemAccessDesc access = {};
        access.location = memory.location;
        access.flags    = write ? CU_MEM_ACCESS_FLAGS_PROT_READWRITE : CU_MEM_ACCESS_FLAGS_PROT_READ;
        return inside([&] { return cuMemSetAccess(at, size, &access, 1); });
    }
    int synchronize() override {
        return inside([] { return cuCtxSynchronize(); });
    }
    int fill(address at, uint8_t value, size_t size) override {
        return complete([&] { return cuMemsetD8Async(at, value, size, CU_STREAM_PER_THREAD); });
    }
    int upload(address to, const void * from, size_t size) override {
        return complete([&] { return cuMemcpyHtoDAsync(to, from, size, CU_STREAM_PER_THREAD); });
    }
    int download(void * to, address from, size_t size) override {
        return complete([&] { return cuMemcpyDtoHAsync(to, from, size, CU_STREAM_PER_THREAD); });
    }
    int copy(address to, address from, size_t size) override {
        return complete([&] { return cuMemcpyDtoDAsync(to, from, size, CU_STREAM_PER_THREAD); });
    }
    const char * name_of(int result) override {
        const char * name = nullptr;
        return cuGetErrorName((CUresult) result, &name) == CUDA_SUCCESS && name ? name : "an unknown error of CUDA";
    }
};

bool is_of_cuda(ggml_backend_buffer_type * type) {
    for (int i = 0; i < ggml_backend_cuda_get_device_count(); ++i) {
        if (ggml_backend_cuda_buffer_type(i) == type) {
            return true;
        }
    }
    return false;
}

// Null if it has no virtual memory management. The device is told by its place on the bus, since CUDA_VISIBLE_DEVICES and
// ggml number devices as they like.
std::unique_ptr<driver_device> open(ggml_backend_buffer_type * type) {
    ggml_backend_dev_props props = {};
    ggml_backend_dev_get_props(ggml_backend_buft_get_device(type), &props);
    CUdevice device = 0;
    int      can    = 0;
    if (!props.device_id || cuInit(0) != CUDA_SUCCESS || cuDeviceGetByPCIBusId(&device, props.device_id) != CUDA_SUCCESS ||
        cuDeviceGetAttribute(&can, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device) != CUDA_SUCCESS || !can) {
        return nullptr;
    }
    CUcontext context = nullptr;
    if (cuDevicePrimaryCtxRetain(&context, device) != CUDA_SUCCESS) {
        return nullptr;
    }
    return std::make_unique<driver_device>(device, context);
}

} // namespace

// Called under a lock.
cuda_device * cuda_device_of(ggml_backend_buffer_type * type) {
    static auto * const known = new std::map<ggml_backend_buffer_type *, std::unique_ptr<driver_device>>;
    const auto          found = known->find(type);
    if (found != known->end()) {
        return found->second.get();
    }
    // the user wants memory that moves between host and device, which ggml-cuda allocates otherwise
    if (getenv("GGML_CUDA_ENABLE_UNIFIED_MEMORY") || !is_of_cuda(type)) {
        return nullptr;
    }
    return ((*known)[type] = open(type)).get();
}

} // namespace kvfold
