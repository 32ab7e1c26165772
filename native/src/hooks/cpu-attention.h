// Attention on a CPU by our own kernel. Implemented in attention; C, included by ggml-cpu.c too.
#ifndef KVFOLD_CPU_ATTENTION_H
#define KVFOLD_CPU_ATTENTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ggml_compute_params;
struct ggml_tensor;

// Which kernel computes flash attention on a CPU (llama_context_params::cpu_attention).
enum kvfold_cpu_attention {
    KVFOLD_CPU_ATTENTION_FUSED    = 0, // ours, which reads each key and value once for all query heads that share it
    KVFOLD_CPU_ATTENTION_UPSTREAM = 1, // ggml's
};

#ifdef __cplusplus
extern "C" {
#endif

// Says in a flash_attn_ext which of them computes it; one that nobody said it of is ggml's.
void kvfold_choose_attention(struct ggml_tensor * op, int32_t cpu_attention);

// Bytes of work memory for a flash_attn_ext beside what ggml takes; 0 if it is ggml's.
size_t kvfold_attention_work_size(const struct ggml_tensor * op, int n_tasks);

// Computes a flash_attn_ext as one of the threads of a pool; false if it is ggml's.
bool kvfold_attention(const struct ggml_compute_params * params, struct ggml_tensor * op);

#ifdef __cplusplus
}
#endif

#endif
