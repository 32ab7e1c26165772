// Reading a plan, and the weights of layers that keep no keys and values. Implemented in kv/plan.
#ifndef KVFOLD_KV_PLAN_MODEL_H
#define KVFOLD_KV_PLAN_MODEL_H

struct LLM_TN_IMPL;
struct llama_hparams;
struct llama_model_loader;

// Sets hparams.kv_plan from the override or else from the metadata. Throws std::runtime_error.
void kvfold_load_plan(const llama_model_loader & ml, llama_hparams & hparams, const char * override_text);

// The flags of create_tensor(): layers that nobody reads need no key and value weights.
int kvfold_tensor_flags(const llama_hparams & hparams, const LLM_TN_IMPL & tn, int flags, int flag_not_required, int flag_skip);

#endif
