// What patches/cpu-attention.patch calls.
#include "attention/attention.h"
#include "hooks/cpu-attention.h"

#include "ggml-cpu-impl.h"

using namespace kvfold::attention;

void kvfold_choose_attention(ggml_tensor * op, int32_t cpu_attention) {
    mark(*op, cpu_attention == KVFOLD_CPU_ATTENTION_FUSED);
}

size_t kvfold_attention_work_size(const ggml_tensor * op, int n_tasks) {
    return work_size(*op, n_tasks);
}

bool kvfold_attention(const ggml_compute_params * params, ggml_tensor * op) {
    if (params->use_ref || !takes_over(*op)) {
        return false;
    }
    const team pool = {
        params->ith,
        params->nth,
        params->threadpool,
        [](void * pool) { ggml_barrier((ggml_threadpool *) pool); },
        [](void * pool, int next) { ggml_threadpool_chunk_set((ggml_threadpool *) pool, next); },
        [](void * pool) { return ggml_threadpool_chunk_add((ggml_threadpool *) pool, 1); },
    };
    return compute(*op, pool, params->wdata, params->wsize);
}
