// The KV plan of a model file.
#pragma once

#include "hooks/kv-plan.h"

#include <string>

struct gguf_context;
class  llama_io_read_i;
class  llama_io_write_i;

// The plan that the metadata holds; inactive if it holds none. Throws std::invalid_argument naming the key.
kvfold_plan kvfold_plan_from_metadata(const gguf_context * file, const std::string & arch, uint32_t n_layer);

// What a saved state begins with; reading throws std::runtime_error if it is of another plan.
void kvfold_plan_hash_write(const kvfold_plan & plan, llama_io_write_i & io);
void kvfold_plan_hash_read (const kvfold_plan & plan, llama_io_read_i  & io);

// Why the plan of the last model that this thread loaded was refused; empty if it was not. Clears it.
std::string kvfold_take_plan_error();
