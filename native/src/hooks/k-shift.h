// How many cells a shift of the context rewrites. Implemented in kv/memory.
#ifndef KVFOLD_K_SHIFT_H
#define KVFOLD_K_SHIFT_H

#include <cstdint>

class llama_kv_cache;

// Of each stream: those up to the last used one, and all where there are several streams, which are also copied as a whole.
uint32_t kvfold_shifted_cells(const llama_kv_cache & cache);

#endif
