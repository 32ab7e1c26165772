// Which cells of a KV cache a batch gets. Implemented in kv/memory.
#ifndef KVFOLD_KV_PLACEMENT_H
#define KVFOLD_KV_PLACEMENT_H

#include <cstdint>
#include <vector>

class  llama_kv_cache;
struct llama_ubatch;

// `idxs` are free cells for the tokens, one after the other: by stream, and of one stream if all sequences share its cells. Puts
// better ones in their place, unless these are `fixed`: contiguous, or of llama.cpp's own window, whose cells are taken in the order of
// their positions where none is free.
void kvfold_place_cells(const llama_kv_cache & cache, const llama_ubatch & ubatch, bool fixed, std::vector<std::vector<uint32_t>> & idxs);

#endif
