#include "abi/build_info.h"

#include "process/error.h"
#include "kv/memory/memory.h"
#include "process/rpc.h"

#include "ggml-backend.h"

#include <sstream>

namespace kvfold {

#if defined(__linux__)
// For whoever loads the library: to be read from the file, as to call anything of it may be too late.
__attribute__((section(".kvfold_cpu"), used)) extern const char cpu_required[] = KVFOLD_CPU_FEATURES;
#else
static const char cpu_required[] = KVFOLD_CPU_FEATURES;
#endif

static const char * device_type(ggml_backend_dev_t device) {
    switch (ggml_backend_dev_type(device)) {
        case GGML_BACKEND_DEVICE_TYPE_CPU:  return "cpu";
        case GGML_BACKEND_DEVICE_TYPE_GPU:  return "gpu";
        case GGML_BACKEND_DEVICE_TYPE_IGPU: return "igpu";
        default:                            return "accel";
    }
}

static json describe_features() {
    json features = json::object();
    for (size_t i = 0; i < ggml_backend_reg_count(); i++) {
        ggml_backend_reg_t registry = ggml_backend_reg_get(i);
        if (std::string(ggml_backend_reg_name(registry)) != "CPU") {
            continue;
        }
        auto * get = (ggml_backend_get_features_t) ggml_backend_reg_get_proc_address(registry, "ggml_backend_get_features");
        for (auto * feature = get ? get(registry) : nullptr; feature && feature->name; feature++) {
            features[feature->name] = std::string(feature->value) == "1" ? json(true) : json(feature->value);
        }
    }
    return features;
}

json describe_build() {
    json               patches = json::array();
    std::istringstream series(KVFOLD_PATCHES);
    for (std::string name; std::getline(series, name, ',');) {
        patches.push_back(name.substr(0, name.rfind(".patch")));
    }
    json backends = json::array();
    for (size_t i = 0; i < ggml_backend_reg_count(); i++) {
        backends.push_back(ggml_backend_reg_name(ggml_backend_reg_get(i)));
    }
    json devices = json::array();
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t device     = ggml_backend_dev_get(i);
        size_t             free_bytes = 0, total_bytes = 0;
        if (is_rpc_device(device)) {
            continue; // of an engine, not of this machine
        }
        ggml_backend_dev_memory(device, &free_bytes, &total_bytes);
        devices.push_back(json({ { "name", ggml_backend_dev_name(device) },
                                 { "description", ggml_backend_dev_description(device) },
                                 { "type", device_type(device) },
                                 { "memory_free", free_bytes },
                                 { "memory_total", total_bytes },
                                 { "kv_memory", committed_as_it_fills(ggml_backend_dev_buffer_type(device)) ? "as_it_fills" : "whole" } }));
    }
    return json({
        { "version",      KVFOLD_VERSION           },
        { "llama_cpp",    "v" KVFOLD_LLAMA_VERSION },
        { "patches",      patches                  },
        { "compiler",     KVFOLD_COMPILER          },
        { "cpu_features", describe_features()      },
        { "cpu_required", cpu_required             },
        { "backends",     backends                 },
        { "devices",      devices                  },
    });
}

} // namespace kvfold
