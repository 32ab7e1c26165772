#include "engine/engine.h"

#include "process/at_exit.h"
#include "engine/evaluation.h"
#include "kv/memory/refusal.h"
#include "kv/retention/cuts.h"
#include "process/kvfold_log.h"

#include "common.h"
#include "llama-model.h"
#include "llama.h"

#include <algorithm>

namespace kvfold {

void check_sequence(const llama_model * model, const int32_t * tokens, int32_t n_tokens) {
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
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
    if (!llama_model_has_decoder(model)) {
        throw error(KVFOLD_ERROR_UNSUPPORTED, "this model has no decoder");
    }
}

// As the engine's, but for one sequence of n_tokens whose positions may have outputs.
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
    own.kv_prefill            = KVFOLD_PREFILL_EVALUATION; // a chunk is what the caller's ubatch size says
    own.samplers              = nullptr;
    own.n_samplers            = 0;
    return own;
}

evaluation::evaluation(engine & owner, const llama_model * model, const common_params & options, int32_t n_tokens,
                       const std::function<void(llama_context_params &)> & adjust) : owner(owner) {
    llama_context_params params = context_params(options, n_tokens);
    params.abort_callback       = [](void * self) { return process_is_exiting() || static_cast<engine *>(self)->is_closing(); };
    params.abort_callback_data  = &owner;
    adjust(params);
    {
        const abort_guard  guard;
        const ledger_scope charged(owner.memory());
        context.reset(llama_init_from_model(const_cast<llama_model *>(model), params));
    }
    if (!context) {
        throw error(KVFOLD_ERROR_OUT_OF_MEMORY, errors.cause("no context for " + std::to_string(n_tokens) + " tokens"));
    }
    if (!options.lora_init_without_apply) {
        auto adapters = options.lora_adapters;
        common_set_adapter_lora(context.get(), adapters);
    }
}

void evaluation::decode(const int32_t * tokens, int32_t start, int32_t end, int32_t first) {
    llama_batch batch = llama_batch_init(end - start, 0, 1);
    const std::unique_ptr<llama_batch, void (*)(llama_batch *)> scope(&batch, [](llama_batch * b) { llama_batch_free(*b); });
    for (int32_t i = start; i < end; i++) {
        common_batch_add(batch, tokens[i], i, { 0 }, i >= first);
    }
    const int32_t result = llama_decode(context.get(), batch);
    if (owner.is_closing()) {
        throw error(KVFOLD_ERROR_CLOSED, "the engine was closed");
    }
    if (const auto refusal = refusal_of(llama_get_memory(context.get())); refusal && result != 0) {
        throw out_of_memory(*refusal);
    }
    if (result != 0) {
        throw error(KVFOLD_ERROR_INTERNAL, errors.cause("llama_decode returned " + std::to_string(result)));
    }
}

void engine::evaluate(const int32_t * tokens, int32_t n_tokens, int32_t first, kvfold_logits_callback on_logits, void * user) {
    use                 inside(*this);
    const busy_scope    busy([] {}); // the abort callback looks at process_is_exiting()
    const llama_model * model = llama_get_model(server->get_llama_context());
    check_sequence(model, tokens, n_tokens);
    if (first < 0 || first >= n_tokens) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "the first logits are those of position " + std::to_string(first) + ", but there are " +
                                                       std::to_string(n_tokens) + " tokens").compares(first, n_tokens);
    }

    const int32_t n_ubatch = options.params.n_ubatch;
    evaluation    run(*this, model, options.params, n_tokens, [&](llama_context_params & params) {
        params.n_outputs_max         = std::min(n_ubatch, n_tokens - first);
        params.n_outputs_max_per_seq = params.n_outputs_max;
    });
    // which layers are lazy, before it counts; and where tokens are evicted, the first that counts is the last of a prompt
    const kvfold_plan & plan    = model->hparams.kv_plan;
    const int32_t       decided = plan.is_automatic() ? first : plan.evicts() ? first + 1 : 0;
    for (int32_t start = 0, end; start < n_tokens; start = end) {
        end = std::min(start + n_ubatch, start < decided ? decided : n_tokens);
        if (plan.evicts()) {
            const auto to_cut = start < decided ? tokens_to_cut : tokens_to_answer_cut;
            end = (int32_t) std::min<int64_t>(end, (int64_t) start + to_cut(run.get(), (uint32_t) start));
        }
        run.decode(tokens, start, end, first);
        const int32_t from = std::max(start, first);
        if (from < end && !on_logits(from, end - from, llama_get_logits(run.get()), user)) {
            throw error(KVFOLD_ERROR_CANCELLED, "the evaluation was abandoned after " + std::to_string(end) + " of " +
                                                    std::to_string(n_tokens) + " tokens");
        }
    }
}

} // namespace kvfold
