// Lazy layers of sequences, under a plan with automatic retention. Implemented in kv/graph.
#ifndef KVFOLD_KV_LAZY_LAYERS_H
#define KVFOLD_KV_LAZY_LAYERS_H

struct ggml_backend_sched;
struct llama_ubatch;
class  llm_graph_result;

// After a ubatch was computed: reads the scores of its queries and decides.
void kvfold_ubatch_done(llm_graph_result & res, const llama_ubatch & ubatch, ggml_backend_sched * sched);

#endif
