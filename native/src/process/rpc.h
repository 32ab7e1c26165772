// Layers on other hosts, by llama.cpp's RPC backend.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ggml-backend.h"

struct common_params;

namespace kvfold {

bool is_rpc_device(ggml_backend_dev_t device);

// The engine computes on the servers it names and on no other that this process has been connected to before; the process
// keeps their devices for good. Throws if one of its servers does not answer. Only inside an abort_guard.
void choose_devices(common_params & params, const std::vector<std::string> & servers);

// See kvfold_rpc_serve(). Returns only by an exception.
[[noreturn]] void serve_rpc(const std::string & options);

} // namespace kvfold
