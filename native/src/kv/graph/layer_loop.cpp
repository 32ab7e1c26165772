// The order of layers: a group that reads upward is passed over again.

#include "hooks/kv-plan-attention.h"

#include "kv/graph/attn_input.h"

#include "llama-hparams.h"

kvfold_layer_loop::kvfold_layer_loop(const llm_graph_context & graph, llm_graph_input_attn_kv * inp_attn) {
    if (graph.hparams.kv_plan.upward()) {
        plan = &graph.hparams.kv_plan;
        inp  = static_cast<kvfold_attn_input *>(inp_attn);
    }
}

kvfold_layer_loop::kvfold_layer_loop(const llm_graph_context &, llm_graph_input_attn_no_cache *) {}

void kvfold_layer_loop::enter(int il, ggml_tensor * inpL) {
    if (!inp || group_first >= 0 || !plan->reads_upward(il)) {
        return;
    }
    group_first = il;
    group_input = inpL;

    inp->group_top = (int) plan->group_top(il);
    inp->pass      = 0;
    inp->iterating = inp->n_passes > 1;
}

void kvfold_layer_loop::leave(int & il, ggml_tensor * & inpL) {
    if (group_first < 0 || il != inp->group_top) {
        return;
    }
    if (inp->iterating) {
        inp->pass++;
        inp->iterating = inp->pass + 1 < inp->n_passes;
        inpL = group_input;
        il   = group_first - 1; // the loop's own increment comes next
    } else {
        group_first = -1;
    }
}
