// A context of its own for one token sequence, made with the options of an engine.
#pragma once

#include "engine/engine.h"
#include "process/kvfold_log.h"

#include "llama-cpp.h"
#include "llama.h"

#include <functional>

namespace kvfold {

// Throws unless every token is one of the model's and the model has a decoder.
void check_sequence(const llama_model * model, const int32_t * tokens, int32_t n_tokens);

class evaluation {
public:
    // `adjust` may change what the context is made with.
    evaluation(engine & owner, const llama_model * model, const common_params & options, int32_t n_tokens,
               const std::function<void(llama_context_params &)> & adjust = [](llama_context_params &) {});

    // Computes tokens [start, end), which follow those of the last call. Every position from `first` on has an output.
    void decode(const int32_t * tokens, int32_t start, int32_t end, int32_t first = 0);

    llama_context * get() const { return context.get(); }

private:
    engine &          owner;
    error_lines       errors;
    llama_context_ptr context;
};

} // namespace kvfold
