// Whether a model can run under a plan.
#pragma once

#include "hooks/kv-plan.h"

struct llama_hparams;
struct llama_model_loader;

namespace kvfold::plans {

// Throws std::invalid_argument.
void check_against_model(const kvfold_plan & plan, const llama_model_loader & ml, const llama_hparams & hparams);

} // namespace kvfold::plans
