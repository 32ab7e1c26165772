#include "engine.h"

#include "at_exit.h"
#include "kvfold_log.h"

#include "common.h"
#include "llama-cpp.h"
#include "llama.h"

#include <algorithm>
#include <cstring>

namespace kvfold {

static void check_tokens(const int32_t * tokens, int32_t n_tokens, int32_t n_vocab) {
    if (!tokens || n_tokens < 1) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "no tokens to evaluate");
    }
    for (int32_t i = 0; i < n_tokens; i++) {
        if (tokens[i] < 0 || tokens[i] >= n_vocab) {
            throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "token " + std::to_string(tokens[i]) + " at position " + std::to_string(i) +
                                                           " is not in [0, " + std::to_string(n_vocab) + ")")
                .compares(tokens[i], n_vocab);
        }
    }
}

// A context like the engine's, but for one sequence of n_tokens of which every position has logits.
static llama_context_params context_params(const common_params & params, int32_t n_tokens) {
    llama_context_params own  = common_context_params_to_llama(params);
    own.n_ctx                 = n_tokens;
    own.n_seq_max             = 1;
    own.n_batch               = params.n_ubatch;
    own.n_ubatch              = params.n_ubatch;
    own.n_outputs_max         = params.n_ubatch;
    own.n_outputs_max_per_seq = params.n_ubatch;
    own.embeddings            = false;
    own.pooling_type          = LLAMA_POOLING_TYPE_NONE;
    own.kv_prefill            = KVFOLD_PREFILL_FIXED; // a chunk is what the caller's ubatch size says
    own.samplers              = nullptr;
    own.n_samplers            = 0;
    return own;
}

void engine::evaluate(const int32_t * tokens, int32_t n_tokens, float * logits, size_t n_logits) {
    use                 inside(*this);
    const busy_scope    busy([] {}); // the abort callback looks at process_is_exiting()
    const error_lines   errors;
    llama_model *       model   = const_cast<llama_model *>(llama_get_model(server->get_llama_context()));
    const int32_t       n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    const size_t        needed  = (size_t) std::max(n_tokens, 0) * n_vocab;
    check_tokens(tokens, n_tokens, n_vocab);
    if (!logits || n_logits < needed) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "the logits need " + std::to_string(needed) + " floats but there is room for " +
                                                       std::to_string(logits ? n_logits : 0))
            .compares((int64_t) n_logits, (int64_t) needed);
    }
    if (!llama_model_has_decoder(model)) {
        throw error(KVFOLD_ERROR_UNSUPPORTED, "this model has no decoder");
    }

    llama_context_params params = context_params(options.params, n_tokens);
    params.abort_callback       = [](void * self) { return process_is_exiting() || static_cast<engine *>(self)->is_closing(); };
    params.abort_callback_data  = this;
    llama_context_ptr context;
    {
        const abort_guard guard;
        context.reset(llama_init_from_model(model, params));
    }
    if (!context) {
        throw error(KVFOLD_ERROR_OUT_OF_MEMORY, errors.cause("no context for " + std::to_string(n_tokens) + " tokens"));
    }
    if (!options.params.lora_init_without_apply) {
        common_set_adapter_lora(context.get(), options.params.lora_adapters);
    }

    const int32_t n_chunk = std::min<int32_t>(n_tokens, options.params.n_ubatch);
    llama_batch   batch   = llama_batch_init(n_chunk, 0, 1);
    const std::unique_ptr<llama_batch, void (*)(llama_batch *)> owner(&batch, [](llama_batch * b) { llama_batch_free(*b); });
    for (int32_t start = 0; start < n_tokens; start += n_chunk) {
        const int32_t end = std::min(start + n_chunk, n_tokens);
        common_batch_clear(batch);
        for (int32_t i = start; i < end; i++) {
            common_batch_add(batch, tokens[i], i, { 0 }, true);
        }
        const int32_t result = llama_decode(context.get(), batch);
        if (is_closing()) {
            throw error(KVFOLD_ERROR_CLOSED, "the engine was closed");
        }
        if (result != 0) {
            throw error(KVFOLD_ERROR_INTERNAL, errors.cause("llama_decode returned " + std::to_string(result)));
        }
        memcpy(logits + (size_t) start * n_vocab, llama_get_logits(context.get()), (size_t) (end - start) * n_vocab * sizeof(float));
    }
}

} // namespace kvfold
