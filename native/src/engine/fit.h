// How large an engine's pool of cells is and what its keys and values may take, chosen before the model is loaded.
#pragma once

#include "engine/model_check.h"
#include "engine/options.h"
#include "kv/memory/gauge.h"

#include <cstdint>
#include <string>

namespace kvfold {

// What is there to take.
struct memory_places {
    uint64_t host       = memory_reading::unknown; // that a gauge grants
    bool     host_pages = true;                    // keys and values take it as they fill, not as a whole

    // The GPUs in use, together.
    uint64_t device       = 0;
    bool     device_pages = false;
    double   on_device    = 0; // share of the layers
};

memory_places memory_places_for(const model_facts & facts, const common_params & params, gauge & system);

// What of the weights stays in the host's memory.
uint64_t weights_on_host(const model_facts & facts, const memory_places & places);

// Sets what `options` leave open: n_ctx, the pool; kv_unified_per_slot, the tokens that one request may use; n_ubatch, such
// that masks and scores over the pool stay below a twentieth of the budget; and kv_budget, whose default is `budget_share` of
// what is left beside weights and compute buffers. Where texts are computed as a whole, see computes_whole_texts(), n_ubatch
// follows the tokens of a request: a context that is open becomes the longest of which a text fits the budget beside the
// buffers, masks and products that computing it takes.
//
// Throws KVFOLD_ERROR_OUT_OF_MEMORY, with bytes needed and there, where weights, the context that was asked for and what
// attention needs at its length do not fit. Keys and values count there only where they are allocated as a whole.
void fit_to_memory(engine_options & options, const model_facts & facts, const kvfold_plan & plan, const memory_places & places);

static constexpr double budget_share = 0.6;

// What an engine with these options may hold, in one line.
std::string describe_fit_to_memory(const engine_options & options, const model_facts & facts, const kvfold_plan & plan);

} // namespace kvfold
