// Lazy layers of sequences. Implemented in kv/retention, kv/graph and serving.
#ifndef KVFOLD_KV_LAZY_LAYERS_H
#define KVFOLD_KV_LAZY_LAYERS_H

#include <cstdint>
#include <memory>

struct ggml_backend_sched;
struct kvfold_plan;
struct kvfold_retention;
struct llama_context;
struct llama_ubatch;
struct server_prompt;
class  llama_io_read_i;
class  llama_io_write_i;
class  llama_kv_cache;
class  llm_graph_result;

// Lazy layers of sequences under a plan with automatic retention. All of these do nothing without one.

// To the two caches of a memory; both keep it as `retention`.
void kvfold_attach_retention(const kvfold_plan & plan, llama_kv_cache & full, llama_kv_cache & window);

// Before the caches do the same; as llama_memory_seq_rm() and the like.
void kvfold_retention_rm  (llama_kv_cache & full, int32_t seq_id, int32_t p0, int32_t p1);
void kvfold_retention_cp  (llama_kv_cache & full, int32_t seq_id_src, int32_t seq_id_dst);
void kvfold_retention_keep(llama_kv_cache & full, int32_t seq_id);

// No layer of the sequence forgets anything, so that it can be rewound to any position.
bool kvfold_retention_keeps_all(const llama_kv_cache & full, int32_t seq_id);

// Goes before the cells of a saved state; reading throws std::runtime_error. The last one is called when they are read.
void kvfold_retention_write   (const llama_kv_cache & full, llama_io_write_i & io, int32_t seq_id);
void kvfold_retention_read    (llama_kv_cache & full, llama_io_read_i & io, int32_t seq_id);
void kvfold_retention_restored(llama_kv_cache & full);

// After a ubatch was computed: reads the scores of its queries and decides.
void kvfold_ubatch_done(llm_graph_result & res, const llama_ubatch & ubatch, ggml_backend_sched * sched);

// What of the tokens that a slot holds a new prompt can begin with: nothing, if the lazy layers were decided on by tokens
// that it does not share. `n_past` tokens agree, the next position is `pos_next`.
void kvfold_keep_prefix(llama_context * ctx, int id_slot, server_prompt & prompt, int & n_past, int32_t & pos_next);

#endif
