// Flash attention on a CPU that reads each key and value once for all query rows that see it, in place of ggml's
// flash_attn_ext: takes its operands, gives its results to rounding, and less of that. Independent of llama.cpp.
#pragma once

#include "attention/operands.h"

#include <vector>

struct ggml_tensor;

namespace kvfold::attention {

// The instruction sets that this library has code for and this processor runs, best first. Empty if it was compiled by
// another compiler than GCC or Clang.
const std::vector<const kernel *> & usable_kernels();

// The kernel that takes_over() and the rest compute with; for tests and measurements, while nothing is computed. Null: none.
const kernel * chosen_kernel();
void           choose_kernel(const kernel * kernel);

// Whether the op, a flash_attn_ext that was marked for it, is computed here; anything else is left to ggml.
bool takes_over(const ggml_tensor & op);

// Bytes of work memory that compute() needs, at most; for no more than n_threads threads.
size_t work_size(const ggml_tensor & op, int n_threads);

// What the threads of a pool that compute an op together can ask of each other.
struct team {
    int    index;
    int    size;
    void * pool;
    void (*barrier)(void * pool);
    void (*set_next)(void * pool, int next); // of a counter
    int (*take_next)(void * pool);           // its value, which is one more afterwards
};

// Called by every thread of the team; false, by all of them, if `work` is too small.
bool compute(const ggml_tensor & op, const team & team, void * work, size_t work_bytes);

// Marks a flash_attn_ext for takes_over(); no kernel of ggml reads the mark.
void mark(ggml_tensor & op, bool takes_over);

} // namespace kvfold::attention
