#include "engine/fit.h"

#include "kv/eviction/method.h"
#include "kv/memory/memory.h"

#include "ggml-backend.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace kvfold {

static constexpr uint64_t CELL_PADDING = 256; // llama_context's

// Of llama_kv_cells, one for each cell of a cache: position, shift, the set of its sequences; and two nodes of std::set once
// it is used.
static constexpr double CELL_BYTES      = 52;
static constexpr double USED_CELL_BYTES = 152;

static constexpr double  MASK_SHARE = 0.05; // of the budget
static constexpr int32_t MIN_UBATCH = 32;

memory_places memory_places_for(const model_facts & facts, const common_params & params, gauge & system) {
    memory_places places;
    places.host       = system.grantable();
    places.host_pages = committed_as_it_fills(ggml_backend_cpu_buffer_type());

    std::vector<ggml_backend_dev_t> devices = params.devices; // ends with null; empty for llama.cpp's own choice
    if (devices.empty()) {
        for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
            devices.push_back(ggml_backend_dev_get(i));
        }
    }
    places.device_pages = true;
    for (ggml_backend_dev_t device : devices) {
        if (device && ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_GPU) {
            size_t free_bytes = 0, total_bytes = 0;
            ggml_backend_dev_memory(device, &free_bytes, &total_bytes);
            places.device += free_bytes;
            places.device_pages = places.device_pages && committed_as_it_fills(ggml_backend_dev_buffer_type(device));
            places.on_device    = 1;
        }
    }
    if (places.on_device > 0 && params.n_gpu_layers >= 0 && facts.layers > 0) {
        places.on_device = std::min(1.0, (double) params.n_gpu_layers/(double) facts.layers);
    }
    return places;
}

uint64_t weights_on_host(const model_facts & facts, const memory_places & places) {
    return (uint64_t) ((1 - places.on_device)*(double) facts.bytes);
}

namespace {

struct costs {
    double per_token = 0; // rows of keys and values of the layers that keep all tokens, and their cell
    double window    = 0; // one sequence's, of the layers that keep a window
    double scored    = 0; // what attention takes for each cell of the pool, whatever n_ubatch
    double masked    = 0; // and for each token of a ubatch
    double computed  = 0; // compute buffers for each token of a ubatch, that aside

    double attention(double cells, double n_ubatch) const { return cells*(scored + masked*n_ubatch); }

    double tokens_for(double bytes) const { return std::max(0.0, bytes - window)/per_token; }
};

double row_bytes(uint64_t elements, ggml_type type) {
    return (double) elements*(double) ggml_type_size(type)/(double) ggml_blck_size(type);
}

costs costs_of(const common_params & params, const model_facts & facts, const kvfold_plan & plan) {
    costs sum;
    sum.per_token = USED_CELL_BYTES;
    for (size_t il = 0; il < facts.k_elements.size(); il++) {
        if (!plan.is_producer(il)) {
            continue;
        }
        const double row = row_bytes(facts.k_elements[il], params.cache_type_k) + row_bytes(facts.v_elements[il], params.cache_type_v);
        sum.per_token += plan.in_swa[il] ? 0 : row;
        sum.window    += plan.has_window_cells(il) ? row*(double) plan.n_window_kept() : 0;
    }
    const bool flash = params.flash_attn_type != LLAMA_FLASH_ATTN_TYPE_DISABLED;
    sum.masked = (flash ? 2 : 4)*(plan.n_swa > 0 ? 2 : 1); // a mask of F16 or F32; a second one where layers see sinks and window
    if (!flash) {
        sum.masked += 4*(double) facts.heads; // products of queries and keys
    }
    double noises = 1; // heads that read the same keys
    for (size_t il = 0; evicts_by_noise(plan) && il < facts.k_elements.size(); il++) {
        noises = facts.k_elements[il] > 0 ? std::max(noises, (double) facts.embedding/(double) facts.k_elements[il]) : noises;
    }
    if (plan.is_automatic() || (evicts_by_queries(plan) && !evicts_by_moments(plan))) {
        const double queries = evicts_by_all_queries(plan) ? params.n_ubatch : plan.n_queries*params.n_parallel;
        sum.scored = 4*(1 + noises)*queries + 4*8*(double) facts.heads; // kv/graph/scores.cpp, build_score
    }
    const double kept = evicts_by_moments(plan) ? (double) facts.layers : 0; // queries of every layer
    sum.computed = 4*((double) facts.vocabulary + (16 + kept)*(double) facts.embedding);
    return sum;
}

uint64_t padded(double tokens) {
    const double most = (double) (std::numeric_limits<int32_t>::max() - CELL_PADDING);
    return ((uint64_t) std::min(tokens, most) + CELL_PADDING - 1)/CELL_PADDING*CELL_PADDING;
}

// The longest prompt, up to `longest`, of which no more tokens than that are there at once.
double longest_prompt(const kvfold_plan & plan, double at_once, double longest) {
    if (plan.evict_chunk == 0 || at_once >= longest) {
        return std::min(at_once, longest);
    }
    uint32_t fits = 0, too_long = (uint32_t) longest + 1;
    while (too_long - fits > 1) {
        const uint32_t middle = fits + (too_long - fits)/2;
        (evict_peak_of(plan, middle) <= at_once ? fits : too_long) = middle;
    }
    return fits;
}

error does_not_fit(const std::string & what, double needed, double there) {
    const double most = (double) std::numeric_limits<int64_t>::max()/2;
    return error(KVFOLD_ERROR_OUT_OF_MEMORY, what + " need " + std::to_string((int64_t) std::min(needed, most)) + " bytes but there are " +
                                                 std::to_string((int64_t) std::min(there, most)))
        .compares((int64_t) std::min(needed, most), (int64_t) std::min(there, most));
}

// 60% of what each place has left, taken as one: a place that holds a part of the layers holds that part of the budget.
double default_budget(const model_facts & facts, const memory_places & places, double computed) {
    double budget = std::numeric_limits<double>::infinity();
    if (places.on_device > 0) {
        budget = (double) places.device - places.on_device*(double) facts.bytes - computed;
        budget = budget/places.on_device;
    }
    if (places.on_device < 1 && places.host != memory_reading::unknown) {
        const double left = (double) places.host - (double) weights_on_host(facts, places) - (places.on_device > 0 ? 0 : computed);
        budget = std::min(budget, left/(1 - places.on_device));
    }
    return budget_share*budget;
}

} // namespace

void fit_to_memory(engine_options & options, const model_facts & facts, const kvfold_plan & plan, const memory_places & places) {
    common_params & params   = options.params;
    const costs     cost     = costs_of(params, facts, plan);
    const bool      unknown  = places.on_device == 0 && places.host == memory_reading::unknown;
    const double    there    = places.host == memory_reading::unknown ? std::numeric_limits<double>::infinity()
                                                                      : (double) places.host + (double) places.device;
    const double    own      = default_budget(facts, places, cost.computed*params.n_ubatch);
    const double    budget   = options.kv_budget > 0 ? (double) options.kv_budget : own;
    const bool      whole    = places.on_device > 0 ? !places.device_pages : !places.host_pages;
    const bool      ctx_open = params.n_ctx == 0 && params.kv_unified_per_slot == 0;
    const double    fits     = unknown && options.kv_budget == 0 ? std::numeric_limits<double>::infinity() : cost.tokens_for(budget);

    // what one request may use
    if (params.kv_unified_per_slot == 0) {
        const double trained = (double) std::min<uint64_t>(facts.context_length, std::numeric_limits<int32_t>::max());
        params.kv_unified_per_slot = params.n_ctx > 0 ? params.n_ctx : (int32_t) (options.kv_budget > 0 ? trained : std::min(trained, std::max(longest_prompt(plan, fits, trained), (double) CELL_PADDING)));
        params.n_ctx               = 0;
    }
    if (params.kv_unified_per_slot == 0) {
        return; // the file does not say; llama.cpp will
    }
    const double allowed  = MASK_SHARE*std::max(budget, own);
    const bool   embeds   = params.embedding || params.pooling_type != LLAMA_POOLING_TYPE_UNSPECIFIED; // whole inputs in one ubatch
    const auto   pool_for = [&](double of_one) {
        const double slots = params.kv_unified && whole ? 1 : params.n_parallel; // what is there as a whole is no larger than it must be
        const double pool  = of_one*slots;
        return params.kv_unified ? (double) padded(std::max(of_one, std::min(pool, fits))) : (double) (padded(of_one)*params.n_parallel);
    };
    double of_one = params.kv_unified_per_slot;
    double pool   = params.n_ctx > 0 ? params.n_ctx : pool_for(of_one);
    if (!unknown) {
        while (!options.ubatch_size_given && !embeds && params.n_ubatch > MIN_UBATCH && cost.attention(pool, params.n_ubatch) > allowed) {
            params.n_ubatch /= 2;
        }
        if (cost.attention(pool, params.n_ubatch) > allowed && params.n_ctx == 0 && params.kv_unified) {
            const double longest = allowed/cost.attention(1, params.n_ubatch);
            if (ctx_open) {
                of_one = std::min(of_one, std::max((double) CELL_PADDING, longest));
            }
            pool = (double) padded(std::max(of_one, std::min(pool, longest)));
        }
    }
    params.kv_unified_per_slot = (int32_t) of_one;
    params.n_ctx               = (int32_t) std::min(pool, (double) std::numeric_limits<int32_t>::max());

    const double attention = cost.attention(pool, params.n_ubatch);
    const double weights   = (double) facts.bytes;
    const double cells     = CELL_BYTES*pool + (whole ? (cost.per_token - USED_CELL_BYTES)*pool : 0);
    const double least     = cost.per_token*std::min(pool, (double) CELL_PADDING); // to be of any use
    if (weights + cells + attention + least > there) {
        throw does_not_fit("weights (" + std::to_string(facts.bytes) + " bytes) and a context of " + std::to_string((int64_t) pool) + " tokens",
                           weights + cells + attention + least, there);
    }
    if (params.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_DISABLED && !unknown && attention > std::max(allowed, (double) (64 << 20))) {
        throw does_not_fit("without \"flash-attn\", products of queries and keys over " + std::to_string((int64_t) pool) + " tokens",
                           attention, allowed)
            .about_option("flash-attn");
    }
    if (options.kv_budget == 0 && !unknown) {
        options.kv_budget = (uint64_t) std::max(own, least);
    }
}

std::string describe_fit_to_memory(const engine_options & options, const model_facts & facts, const kvfold_plan & plan) {
    const common_params & params = options.params;
    const std::string     slots  = std::to_string(params.n_parallel) + " requests at once, each of up to " +
                               std::to_string(params.kv_unified_per_slot) + " tokens, " + std::to_string(params.n_ctx) + " together";
    if (options.kv_budget == 0) {
        return "room for " + slots;
    }
    const double tokens = std::min((double) params.n_ctx, costs_of(params, facts, plan).tokens_for((double) options.kv_budget));
    return "room for " + slots + "; keys and values may take " + std::to_string(options.kv_budget >> 20) + " MiB (kv-budget" +
           (options.kv_budget_given ? "" : ", by default 60% of what is free") + "), enough for about " + std::to_string((int64_t) tokens) +
           " tokens";
}

} // namespace kvfold
