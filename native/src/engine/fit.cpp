#include "engine/fit.h"

#include "kv/eviction/method.h"
#include "kv/memory/memory.h"
#include "process/deep_thread.h"

#include "ggml-backend.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

namespace kvfold {

static constexpr uint64_t CELL_PADDING = 256; // llama_context's

// Of llama_kv_cells, one for each cell of a cache: position, shift, the set of its sequences; and two nodes of std::set once
// it is used.
static constexpr double CELL_BYTES      = 52;
static constexpr double USED_CELL_BYTES = 152;

// The worker's stack, while that of the thread which opens the engine becomes a request's; and the heaps of threads.
static constexpr uint64_t addresses_of_threads = deep_thread::addresses + (uint64_t(128) << 20);

static constexpr double  MASK_SHARE = 0.05; // of the budget
static constexpr int32_t MIN_UBATCH = 32;

memory_places memory_places_for(const model_facts & facts, const common_params & params, gauge & system) {
    memory_places places;
    places.host       = system.grantable();
    if (const uint64_t addresses = system.addresses(); addresses != memory_reading::unknown) {
        places.host = std::min(places.host, addresses - std::min(addresses, addresses_of_threads));
    }
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
    double summed    = 0; // the same where texts are computed as a whole, and what comes out of that

    double attention(double cells, double n_ubatch) const { return cells*(scored + masked*n_ubatch); }

    double tokens_for(double bytes) const { return std::max(0.0, bytes - window)/per_token; }
};

double row_bytes(uint64_t elements, ggml_type type) {
    return (double) elements*(double) ggml_type_size(type)/(double) ggml_blck_size(type);
}

costs costs_of(const engine_options & options, const model_facts & facts, const kvfold_plan & plan) {
    const common_params & params = options.params;
    costs                 sum;
    sum.per_token = USED_CELL_BYTES;
    for (size_t il = 0; il < facts.k_elements.size(); il++) {
        if (facts.is_encoder || !plan.is_producer(il)) {
            continue;
        }
        const double row = row_bytes(facts.k_elements[il], params.cache_type_k) + row_bytes(facts.v_elements[il], params.cache_type_v);
        sum.per_token += plan.in_swa[il] ? 0 : row;
        sum.window    += plan.has_window_cells(il) ? row*(double) plan.n_window_kept() : 0;
    }
    const bool flash = params.flash_attn_type != LLAMA_FLASH_ATTN_TYPE_DISABLED;
    const bool second = plan.n_swa > 0 || (facts.has_window && computes_whole_texts(options, facts));
    sum.masked = (flash ? 2 : 4)*(second ? 2 : 1); // a mask of F16 or F32; a second one where layers see sinks and window
    if (!flash) {
        sum.masked += 4*(double) facts.heads; // products of queries and keys
        if (computes_whole_texts(options, facts)) {
            sum.masked += 2*(double) facts.heads; // and their copy as F16, where a ubatch is no smaller for it
        }
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
    // every token has an output there, and llama.cpp copies its logits and vector; products with quantised weights take their factors
    // as F16 at most
    const double logits = facts.is_encoder ? 0 : (double) facts.vocabulary;
    sum.summed = 4*(std::max((double) facts.activations, logits + 3*(double) facts.embedding) + kept*(double) facts.embedding) +
                 4*(logits + (double) facts.embedding) + 2*(double) facts.activations;
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

// What each place has left for keys and values, taken as one: a place that holds a part of the layers holds that part of them.
double left_beside(const model_facts & facts, const memory_places & places, double computed) {
    double left = std::numeric_limits<double>::infinity();
    if (places.on_device > 0) {
        left = ((double) places.device - places.on_device*(double) facts.bytes - computed)/places.on_device;
    }
    if (places.on_device < 1 && places.host != memory_reading::unknown) {
        const double of_host = (double) places.host - (double) weights_on_host(facts, places) - (places.on_device > 0 ? 0 : computed);
        left = std::min(left, of_host/(1 - places.on_device));
    }
    return left;
}

// The most tokens of a slot, up to `trained`, such that a text as long fits beside what computing it as a whole takes.
double longest_text(double trained, const std::function<bool(double)> & fits) {
    double longest = std::min(trained, (double) CELL_PADDING), too_long = trained + 1;
    while (too_long - longest > 1) {
        const double middle = longest + std::floor((too_long - longest)/2);
        (fits(middle) ? longest : too_long) = middle;
    }
    return longest;
}

} // namespace

void fit_to_memory(engine_options & options, const model_facts & facts, const kvfold_plan & plan, const memory_places & places) {
    common_params & params   = options.params;
    const costs     cost     = costs_of(options, facts, plan);
    const bool      unknown  = places.on_device == 0 && places.host == memory_reading::unknown;
    const double    there    = places.host == memory_reading::unknown ? std::numeric_limits<double>::infinity()
                                                                      : (double) places.host + (double) places.device;
    const bool      whole    = places.on_device > 0 ? !places.device_pages : !places.host_pages;
    const bool      sums     = computes_whole_texts(options, facts);
    const bool      ctx_open = params.n_ctx == 0 && params.kv_unified_per_slot == 0;
    const double    trained  = (double) std::min<uint64_t>(facts.context_length, std::numeric_limits<int32_t>::max());

    const auto ubatch_of = [&](double of_one) {
        const int32_t n_ubatch = ubatch_of_slot(options, facts, (int64_t) of_one);
        return (double) (options.batch_size_given ? std::min(n_ubatch, params.n_batch) : n_ubatch);
    };
    const auto least_for = [&](double of_one) { return params.kv_unified ? (double) padded(of_one) : (double) padded(of_one)*params.n_parallel; };
    // what is computed and attended to at once, and what that leaves for keys and values
    const auto left_for  = [&](double of_one, double pool) {
        const double n_ubatch = ubatch_of(of_one);
        return left_beside(facts, places, sums ? cost.summed*n_ubatch + cost.attention(pool, n_ubatch) : cost.computed*n_ubatch);
    };
    if (sums && ctx_open && !unknown && trained > 0) {
        params.kv_unified_per_slot = (int32_t) longest_text(trained, [&](double of_one) {
            const double left = left_for(of_one, least_for(of_one));
            const double for_keys = options.kv_budget > 0 ? std::min((double) options.kv_budget, left) : budget_share*left;
            return cost.tokens_for(for_keys) >= std::min(of_one, ubatch_of(of_one)) + CELL_PADDING; // in whole pages
        });
    }
    const double of_text = params.kv_unified_per_slot > 0 ? params.kv_unified_per_slot : params.n_ctx > 0 ? params.n_ctx : trained;
    const double own     = budget_share*left_for(of_text, least_for(of_text));
    const double budget  = options.kv_budget > 0 ? (double) options.kv_budget : own;
    const double fits    = unknown && options.kv_budget == 0 ? std::numeric_limits<double>::infinity() : cost.tokens_for(budget);

    // what one request may use
    if (params.kv_unified_per_slot == 0) {
        params.kv_unified_per_slot = params.n_ctx > 0 ? params.n_ctx : (int32_t) (options.kv_budget > 0 ? trained : std::min(trained, std::max(longest_prompt(plan, fits, trained), (double) CELL_PADDING)));
        params.n_ctx               = 0;
    }
    if (params.kv_unified_per_slot == 0) {
        return; // the file does not say; llama.cpp will
    }
    const double allowed  = MASK_SHARE*std::max(budget, own);
    const bool   embeds   = (params.embedding || params.pooling_type != LLAMA_POOLING_TYPE_UNSPECIFIED) &&
                        pooling_of(params, facts) != LLAMA_POOLING_TYPE_LAST; // whole inputs in one ubatch
    const auto   pool_for = [&](double of_one) {
        const double slots = params.kv_unified && whole ? 1 : params.n_parallel; // what is there as a whole is no larger than it must be
        return params.kv_unified ? (double) padded(std::max(of_one, std::min(of_one*slots, fits))) : least_for(of_one);
    };
    double of_one = params.kv_unified_per_slot;
    double pool   = params.n_ctx > 0 ? params.n_ctx : pool_for(of_one);
    if (!unknown) {
        while (!options.ubatch_size_given && !embeds && params.n_ubatch > MIN_UBATCH && cost.attention(pool, params.n_ubatch) > allowed) {
            params.n_ubatch /= 2;
        }
        if (cost.attention(pool, ubatch_of(of_one)) > allowed && params.n_ctx == 0 && params.kv_unified) {
            const double longest = std::floor(allowed/cost.attention(1, ubatch_of(of_one))/CELL_PADDING)*CELL_PADDING;
            if (ctx_open && !sums) {
                of_one = std::min(of_one, std::max((double) CELL_PADDING, longest));
            }
            pool = (double) padded(std::max(of_one, std::min(pool, longest)));
        }
    }
    params.kv_unified_per_slot = (int32_t) of_one;
    params.n_ctx               = (int32_t) std::min(pool, (double) std::numeric_limits<int32_t>::max());

    const double n_ubatch  = ubatch_of(of_one);
    const double attention = cost.attention(pool, n_ubatch);
    const double weights   = (double) facts.bytes;
    const double cells     = CELL_BYTES*pool + (whole ? (cost.per_token - USED_CELL_BYTES)*pool : 0);
    const double least     = cost.per_token*std::min(pool, (double) CELL_PADDING); // to be of any use
    const double text      = std::min(cost.window + cost.per_token*(std::min(of_one, n_ubatch) + CELL_PADDING), options.kv_budget > 0 ? budget : there);
    if (!sums && weights + cells + attention + least > there) {
        throw does_not_fit("weights (" + std::to_string(facts.bytes) + " bytes) and a context of " + std::to_string((int64_t) pool) + " tokens",
                           weights + cells + attention + least, there);
    }
    const double lacks = cells + (whole ? 0 : text) - left_for(of_one, pool);
    if (sums && !unknown && lacks > 0) {
        const double place = places.on_device > 0 ? (double) places.device : (double) places.host;
        throw does_not_fit("weights (" + std::to_string(facts.bytes) + " bytes) and texts of up to " + std::to_string((int64_t) of_one) +
                               " tokens, which pooling by mean, first token or rank computes as a whole (\"ctx-size\" makes them shorter),",
                           place + (places.on_device > 0 ? places.on_device : 1)*lacks, place)
            .about_option("ctx-size");
    }
    if (!sums && params.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_DISABLED && !unknown && attention > std::max(allowed, (double) (64 << 20))) {
        throw does_not_fit("without \"flash-attn\", products of queries and keys over " + std::to_string((int64_t) pool) + " tokens",
                           attention, allowed)
            .about_option("flash-attn");
    }
    if (options.kv_budget == 0 && !unknown) {
        const double of_rest = sums ? budget_share*left_for(of_one, pool) : own;
        options.kv_budget    = (uint64_t) std::max(of_rest, sums ? text : least);
    }
}

std::string describe_fit_to_memory(const engine_options & options, const model_facts & facts, const kvfold_plan & plan) {
    const common_params & params = options.params;
    const std::string     slots  = std::to_string(params.n_parallel) + " requests at once, each of up to " +
                               std::to_string(params.kv_unified_per_slot) + " tokens, " + std::to_string(params.n_ctx) + " together";
    if (options.kv_budget == 0) {
        return "room for " + slots;
    }
    const costs  cost     = costs_of(options, facts, plan);
    const double tokens   = std::min((double) params.n_ctx, cost.tokens_for((double) options.kv_budget));
    const double n_ubatch = ubatch_of_slot(options, facts, params.kv_unified_per_slot); // fewer where "batch-size" is
    const double computed = cost.summed*n_ubatch + cost.attention(params.n_ctx, n_ubatch);
    const std::string buffers =
        computes_whole_texts(options, facts) ? ", as a whole, for which buffers take " + std::to_string((uint64_t) computed >> 20) + " MiB" : "";
    return "room for " + slots + buffers + "; keys and values may take " + std::to_string(options.kv_budget >> 20) + " MiB (kv-budget" +
           (options.kv_budget_given ? "" : ", by default 60% of what is free") + "), enough for about " + std::to_string((int64_t) tokens) +
           " tokens";
}

} // namespace kvfold
