// Whether a model can run under a plan.
#pragma once

#include "hooks/kv-plan.h"

#include "llama-arch.h"

struct llama_hparams;
struct llama_model_loader;

namespace kvfold::plans {

// Throws std::invalid_argument.
void check_against_model(const kvfold_plan & plan, const llama_model_loader & ml, const llama_hparams & hparams);

// Architectures that build another graph once the hyperparameters name a sliding window. Their window readers see through a
// mask on the full cache.
bool has_graph_for_windows(llm_arch arch);

} // namespace kvfold::plans
