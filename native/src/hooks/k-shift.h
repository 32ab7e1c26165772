// Which cells a shift of the context rewrites. Implemented in kv/memory.
#ifndef KVFOLD_K_SHIFT_H
#define KVFOLD_K_SHIFT_H

#include <cstdint>

class llama_kv_cache;

// The first cells of a stream, up to the last used one.
struct kvfold_shift {
    uint32_t stream;
    uint32_t n_cells;
};

// The first of the streams whose cells are to be shifted, which are shifted one after the other.
kvfold_shift kvfold_shift_of(const llama_kv_cache & cache);

// Before all of them are: false if there is no memory for that. Then no batch finds cells until there is.
bool kvfold_commit_shifted_cells(const llama_kv_cache & cache);

// And after.
void kvfold_cells_rewritten(const llama_kv_cache & cache);

#endif
