// What a saved state says about its plan. Implemented in kv/plan.
#ifndef KVFOLD_KV_PLAN_STATE_H
#define KVFOLD_KV_PLAN_STATE_H

struct llama_hparams;
class  llama_io_read_i;
class  llama_io_write_i;

// A saved state carries the hash of its plan; reading throws if it is another one. Nothing without a plan.
void kvfold_state_write(const llama_hparams & hparams, llama_io_write_i & io);
void kvfold_state_read (const llama_hparams & hparams, llama_io_read_i  & io);

#endif
