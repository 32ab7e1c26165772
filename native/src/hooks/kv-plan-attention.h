// How a graph attends under a plan. Implemented in kv/graph.
#ifndef KVFOLD_KV_PLAN_ATTENTION_H
#define KVFOLD_KV_PLAN_ATTENTION_H

#include "kv-plan.h"
#include <cstdint>

struct ggml_tensor;
struct llm_graph_context;
class  llm_graph_input_attn_kv;
class  llm_graph_input_attn_no_cache;

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
// need. With the CPU alone the fused kernel takes them, under any plan; so does ggml's under plans with layers that read
// upward, whose passes would amplify the rounding.
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

#endif
