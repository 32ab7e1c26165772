// The KV plan of a model file.
#pragma once

#include "hooks/kv-plan.h"

#include <string>

struct gguf_context;

// The plan that the metadata holds; inactive if it holds none. Throws std::invalid_argument naming the key.
kvfold_plan kvfold_plan_from_metadata(const gguf_context * file, const std::string & arch, uint32_t n_layer);

// Why the plan of the last model that this thread loaded was refused; empty if it was not. Clears it.
std::string kvfold_take_plan_error();
