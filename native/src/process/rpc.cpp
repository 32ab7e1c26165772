#include "process/rpc.h"

#include "process/error.h"
#include "hooks/rpc-connection.h"
#include "process/json_text.h"
#include "process/kvfold_log.h"

#include "common.h"
#include "ggml-rpc.h"
#include "llama-impl.h"
#include "llama-model.h"
#include "llama.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <set>
#include <thread>

// ---- connections ------------------------------------------------------------------------------------------------------

static std::mutex            broken_mutex;
static std::set<std::string> broken_endpoints;
static std::atomic<bool>     any_broken{ false };

void kvfold_rpc_connection::opened(const std::string & name) {
    std::lock_guard<std::mutex> lock(broken_mutex);
    endpoint = name;
    broken_endpoints.erase(name);
    any_broken = !broken_endpoints.empty();
}

bool kvfold_rpc_connection::survives(bool answered, void * answer, size_t size) {
    if (answered) {
        return true;
    }
    if (answer) {
        memset(answer, 0, size);
    }
    if (!lost.exchange(true)) {
        LLAMA_LOG_ERROR("%s: the RPC server %s does not answer any more\n", __func__, endpoint.c_str());
        std::lock_guard<std::mutex> lock(broken_mutex);
        broken_endpoints.insert(endpoint);
        any_broken = true;
    }
    return true;
}

bool kvfold_rpc_broken(const llama_context * ctx) {
    if (!any_broken) {
        return false;
    }
    std::lock_guard<std::mutex> lock(broken_mutex);
    for (const auto & device : llama_get_model(ctx)->devices) {
        if (kvfold::is_rpc_device(device.dev) && broken_endpoints.count(ggml_backend_dev_description(device.dev))) {
            return true;
        }
    }
    return false;
}

namespace kvfold {

// ---- client -----------------------------------------------------------------------------------------------------------

bool is_rpc_device(ggml_backend_dev_t device) {
    return ggml_backend_dev_backend_reg(device) == ggml_backend_rpc_reg();
}

static void check_answers(ggml_backend_dev_t device) {
    const std::string endpoint   = ggml_backend_dev_description(device);
    size_t            free_bytes = 0, total_bytes = 0;
    std::string       cause      = "it reports no memory";
    try {
        ggml_backend_dev_memory(device, &free_bytes, &total_bytes);
    } catch (const aborted & e) {
        cause = e.what();
    }
    if (total_bytes == 0) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "the RPC server " + endpoint + " does not answer: " + cause).about_option("rpc");
    }
}

void choose_devices(common_params & params, const std::vector<std::string> & servers) {
    std::vector<ggml_backend_dev_t> local, remote;
    bool                            others = false;
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        if (!is_rpc_device(device)) {
            if (ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_GPU) {
                local.push_back(device);
            }
        } else if (std::find(servers.begin(), servers.end(), ggml_backend_dev_description(device)) != servers.end()) {
            check_answers(device);
            // a server that was named twice is registered twice
            const bool known = std::any_of(remote.begin(), remote.end(), [&](ggml_backend_dev_t other) { return other == device; });
            if (!known) {
                remote.push_back(device);
            }
        } else {
            others = true;
        }
    }
    if (remote.empty() && !others) {
        return; // llama.cpp's own choice
    }
    auto choose = [&](std::vector<ggml_backend_dev_t> & devices) {
        if (devices.empty()) {
            devices = remote; // first, as llama.cpp orders them, so that the output layer stays local
            devices.insert(devices.end(), local.begin(), local.end());
            devices.push_back(nullptr);
        }
    };
    if (params.devices.empty() && params.mmproj_use_gpu && params.mmproj_device == nullptr) {
        params.mmproj_device  = local.empty() ? nullptr : local.front();
        params.mmproj_use_gpu = !local.empty();
    }
    choose(params.devices);
    choose(params.speculative.draft.devices);
}

// ---- server -----------------------------------------------------------------------------------------------------------

static int64_t whole_number(const json & value, const std::string & name, int64_t least, int64_t most) {
    if (!value.is_number_integer()) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "option \"" + name + "\" cannot be " + value.dump_safe()).about_option(name);
    }
    const int64_t number = value.get<int64_t>();
    if (number < least || number > most) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "option \"" + name + "\" is " + std::to_string(number) + " but must be in [" +
                                                       std::to_string(least) + ", " + std::to_string(most) + "]")
            .compares(number, number < least ? least : most)
            .about_option(name);
    }
    return number;
}

// What a server offers: the GPUs of its host, or else the CPU.
static std::vector<ggml_backend_dev_t> served_devices() {
    std::vector<ggml_backend_dev_t> gpus, cpus;
    for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
        ggml_backend_dev_t device = ggml_backend_dev_get(i);
        if (is_rpc_device(device)) {
            continue;
        }
        if (ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_GPU) {
            gpus.push_back(device);
        } else if (ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU) {
            cpus.push_back(device);
        }
    }
    return gpus.empty() ? cpus : gpus;
}

void serve_rpc(const std::string & text) {
    const json  object  = parse_object(text, "the options");
    std::string host    = "127.0.0.1";
    int64_t     port    = 50052;
    int64_t     threads = std::max(1, common_cpu_get_num_math());
    for (const auto & [name, value] : object.items()) {
        if (name == "host" && value.is_string()) {
            host = value.get<std::string>();
        } else if (name == "port") {
            port = whole_number(value, name, 1, 65535);
        } else if (name == "threads") {
            threads = whole_number(value, name, 1, GGML_MAX_N_THREADS);
        } else if (name == "host") {
            throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "option \"host\" cannot be " + value.dump_safe()).about_option(name);
        } else {
            throw error(KVFOLD_ERROR_UNKNOWN_OPTION, "an RPC server has no option \"" + name + "\": host, port, threads").about_option(name);
        }
    }
    const std::string endpoint = host + ":" + std::to_string(port);
    const error_lines errors;
    auto              devices = served_devices();
    ggml_backend_rpc_start_server(endpoint.c_str(), nullptr, (size_t) threads, devices.size(), devices.data());
    throw error(KVFOLD_ERROR_ADDRESS, "cannot listen on " + endpoint + ": " + errors.cause("is the port in use?")).about_option("port");
}

} // namespace kvfold
