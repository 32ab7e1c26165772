// What the patches in patches/ call. Declarations only: the code is in native/src, linked into the same library.
#ifndef KVFOLD_KV_PLAN_HOOKS_H
#define KVFOLD_KV_PLAN_HOOKS_H

#include "kv_memory_hooks.h"
#include "kv_plan.h"

#include <cstdint>
#include <vector>

struct ggml_backend_sched;
struct ggml_tensor;
struct LLM_TN_IMPL;
struct llama_batch;
struct llama_context;
struct llama_cparams;
struct llama_hparams;
struct llama_model;
struct llama_model_loader;
struct llama_ubatch;
struct llm_graph_context;
struct server_prompt;
class  llama_kv_cache;
class  llama_kv_cells;
class  llama_io_read_i;
class  llama_io_write_i;
class  llm_graph_input_attn_kv;
class  llm_graph_input_attn_no_cache;
class  llm_graph_result;

// How a prompt is cut into ubatches when the plan has upward readers (llama_context_params::kv_prefill).
enum kvfold_prefill {
    KVFOLD_PREFILL_FIXED = 0, // as many tokens as a ubatch holds, the plan's number of passes over them
    KVFOLD_PREFILL_AUTO  = 1, // tokens per sequence and passes by a cost model, see kv_prefill.cpp
    KVFOLD_PREFILL_EXACT = 2, // like AUTO, but never more tokens of a sequence than passes

    // not options: like FIXED, for contexts whose every position has an output
    KVFOLD_PREFILL_EVALUATION  = 3, // all tokens are a prompt's, so that layers may turn out lazy on the way
    KVFOLD_PREFILL_OBSERVATION = 4, // no layer does
};

// ---- model: reading a plan, weights of layers that keep no keys and values

// Sets hparams.kv_plan from the override or else from the metadata. Throws std::runtime_error.
void kvfold_load_plan(const llama_model_loader & ml, llama_hparams & hparams, const char * override_text);

// The flags of create_tensor(): layers that nobody reads need no key and value weights.
int kvfold_tensor_flags(const llama_hparams & hparams, const LLM_TN_IMPL & tn, int flags, int flag_not_required, int flag_skip);

// ---- graph

// In place of build_attn_inp_kv() and of build_attn() on the KV cache.
llm_graph_input_attn_kv * kvfold_build_attn_inp(const llm_graph_context & graph);

ggml_tensor * kvfold_build_attn(
        const llm_graph_context & graph,
        llm_graph_input_attn_kv * inp,
        ggml_tensor * wo,
        ggml_tensor * wo_b,
        ggml_tensor * wo_s,
        ggml_tensor * q_cur, // [n_embd_head, n_head,    n_tokens]
        ggml_tensor * k_cur, // [n_embd_head, n_head_kv, n_tokens]; not looked at where the layer keeps none
        ggml_tensor * v_cur,
        ggml_tensor * kq_b,
        ggml_tensor * sinks,
        float kq_scale,
        int il);

// Whether flash attention takes keys and values in F32 as they are. Upstream rounds them to F16, as the kernels of GPUs
// need; passes over layers that read upward would amplify that.
bool kvfold_attends_in_f32(const llm_graph_context & graph);

// A tensor that stands for the keys or values of a layer that keeps none: never computed, since nothing reads it.
ggml_tensor * kvfold_absent_kv(const llm_graph_context & graph, int64_t n_embd_head, int64_t n_head);

// Walks the layers of a graph in the order of the plan: a cyclic group starts again from its own input until its
// passes are done. Without upward readers it does nothing.
class kvfold_layer_loop {
public:
    kvfold_layer_loop(const llm_graph_context & graph, llm_graph_input_attn_kv * inp);
    kvfold_layer_loop(const llm_graph_context & graph, llm_graph_input_attn_no_cache * inp);

    void enter(int il, ggml_tensor * inpL);     // first thing in the loop's body
    void leave(int & il, ggml_tensor * & inpL); // last thing in the loop's body

private:
    const kvfold_plan * plan = nullptr;
    struct kvfold_attn_input * inp = nullptr;
    ggml_tensor * group_input = nullptr;
    int group_first = -1;
};

// Nodes that a graph can have, given what it could have without a plan.
uint32_t kvfold_graph_max_nodes(const llama_hparams & hparams, const llama_cparams & cparams, uint32_t n_tokens, uint32_t n_nodes);

// ---- batches

// Tokens of one sequence per ubatch are what upward readers pay for, so the split is ours for such plans.
struct kvfold_split_policy {
    const kvfold_plan * plan = nullptr; // null: upstream's split
    int32_t prefill = KVFOLD_PREFILL_FIXED;
    float   ridge   = 0.0f; // tokens in a ubatch at which computing takes as long as reading the weights
};

kvfold_split_policy kvfold_make_split_policy(const llama_model & model, const llama_cparams & cparams);

// The size to give split_equal() for the next ubatch, at most n_ubatch; `used` says which tokens earlier ubatches took.
uint32_t kvfold_ubatch_tokens(
        const kvfold_split_policy & policy,
        const llama_batch & batch,
        const std::vector<bool> & used,
        uint32_t n_ubatch,
        bool sequential);

// ---- cache

// Cells of the window-sized cache, given upstream's number: sinks stay beside the windows of n_seqs sequences.
uint32_t kvfold_window_cells(const kvfold_plan & plan, uint32_t n_cells, uint32_t n_cells_full, uint32_t n_seqs, uint32_t n_ubatch);

// The position from which on a window-sized cache holds a sequence without a gap. Sinks below a gap do not count.
int32_t kvfold_window_pos_min(const llama_kv_cells & cells, int32_t seq_id, uint32_t n_sinks);

// Lazy layers of sequences under a plan with automatic retention: kv_retention.cpp. All of these do nothing without one.

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

// ---- state

// A saved state carries the hash of its plan; reading throws if it is another one. Nothing without a plan.
void kvfold_state_write(const llama_hparams & hparams, llama_io_write_i & io);
void kvfold_state_read (const llama_hparams & hparams, llama_io_read_i  & io);

// ---- server

// What of the tokens that a slot holds a new prompt can begin with: nothing, if the lazy layers were decided on by tokens
// that it does not share. `n_past` tokens agree, the next position is `pos_next`.
void kvfold_keep_prefix(llama_context * ctx, int id_slot, server_prompt & prompt, int & n_past, int32_t & pos_next);

// How many tokens of its prompt a slot may put into the next batch when `n_waiting` slots have one.
int32_t kvfold_prompt_share(const llama_model * model, int32_t n_batch, int32_t n_waiting);

#endif
