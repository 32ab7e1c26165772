// The JSON object of kvfold_open() as llama.cpp's parameters.
#pragma once

#include "engine/model_check.h"
#include "process/error.h"

#include "common.h"

#include <functional>
#include <string>

namespace kvfold {

struct engine_options {
    common_params params;
    size_t        max_queue = 256;
    uint64_t      kv_budget = 0; // bytes; 0: none
    bool          reserve   = false; // a request begins when the memory of its longest answer is set aside
    bool          kv_budget_given = false;
    uint64_t      memory_reserve = 0; // bytes that stay free; 0: gauge::default_reserve()
    std::string   swap_dir; // see kv/state/swap.h
    bool          prefix_sharing = true; // see serving/prefix_cache.h
    bool          describe_schemas = true; // to the model, see serving/chat_messages.h
    bool          describe_tools   = true; // likewise, see serving/tool_calls.h
    bool          batch_size_given = false;
    bool          ubatch_size_given = false;
    bool          kv_unified_given = false;
};

// Throws KVFOLD_ERROR_UNKNOWN_OPTION, KVFOLD_ERROR_UNSUPPORTED or KVFOLD_ERROR_INVALID_ARGUMENT.
engine_options parse_options(const std::string & text);

// The JSON object of kvfold_serve() on top of an engine's parameters. Throws as parse_options().
common_params parse_server_options(const common_params & engine, const std::string & text);

// Of enum llama_pooling_type, as the options or else the file say.
int pooling_of(const common_params & params, const model_facts & facts);

// Whether a text must be in one ubatch, since its embedding or score sums it up, and n_ubatch follows the length of a slot.
bool computes_whole_texts(const engine_options & options, const model_facts & facts);

// n_ubatch where a slot holds `slot` tokens.
int32_t ubatch_of_slot(const engine_options & options, const model_facts & facts, int64_t slot);

// What llama-server does between reading its options and loading the model, with this library's defaults. `fit` sets what
// depends on the model and on memory: contexts, n_ubatch and kv_budget.
void complete_options(engine_options & options, const model_facts & facts, const std::function<void()> & fit);

// The answer of kvfold_options().
json describe_options();

} // namespace kvfold
