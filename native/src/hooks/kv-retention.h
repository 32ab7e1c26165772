// The memory of a model with layers that keep first and recent tokens only. Implemented in kv/memory.
#ifndef KVFOLD_KV_RETENTION_H
#define KVFOLD_KV_RETENTION_H

struct llama_cparams;
struct llama_memory_i;
struct llama_memory_params;
struct llama_model;

// Null under a plan without windows and lazy layers, and without a plan.
llama_memory_i * kvfold_create_memory(const llama_model & model, const llama_memory_params & params, const llama_cparams & cparams);

#endif
