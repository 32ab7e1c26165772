// Lazy layers of sequences, under a plan with automatic retention. Implemented in kv/graph and serving.
#ifndef KVFOLD_KV_LAZY_LAYERS_H
#define KVFOLD_KV_LAZY_LAYERS_H

#include <cstdint>

struct ggml_backend_sched;
struct llama_context;
struct llama_ubatch;
struct server_prompt;
class  llm_graph_result;

// After a ubatch was computed: reads the scores of its queries and decides.
void kvfold_ubatch_done(llm_graph_result & res, const llama_ubatch & ubatch, ggml_backend_sched * sched);

// What of the tokens that a slot holds a new prompt of `n_tokens` can begin with: nothing, if lazy layers were decided on, or
// tokens evicted, by what it does not share. `n_past` tokens agree, the next position is `pos_next`.
void kvfold_keep_prefix(llama_context * ctx, int id_slot, server_prompt & prompt, int n_tokens, int & n_past, int32_t & pos_next);

// Whether something is gone of what a token at `pos_next` sees of the slot's cells, so that a checkpoint is needed to go on there.
// True of every memory that is llama.cpp's own, which knows better.
bool kvfold_window_is_gone(llama_context * ctx, int id_slot, int32_t pos_next);

#endif
