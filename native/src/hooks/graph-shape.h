// What tells two graphs apart for the allocator. Implemented in kv/graph; C, included by ggml-alloc.c.
#ifndef KVFOLD_GRAPH_SHAPE_H
#define KVFOLD_GRAPH_SHAPE_H

#include <stdint.h>

struct ggml_cgraph;

#ifdef __cplusplus
extern "C" {
#endif

// A hash of which node reads which node or leaf, and which of them have memory of their own already. Graphs that differ
// in it do not share where their tensors lie, even if they have equally many tensors of the same sizes.
uint64_t kvfold_graph_shape(const struct ggml_cgraph * graph);

#ifdef __cplusplus
}
#endif

#endif
