// Which cells a shift of the context rewrites. Implemented in kv/memory.
#ifndef KVFOLD_K_SHIFT_H
#define KVFOLD_K_SHIFT_H

#include <cstdint>
#include <vector>

class  llama_kv_cache;
struct ggml_context;
struct ggml_tensor;
struct llama_hparams;

// Whether ggml can rotate its keys for other positions: f32 and f16, and whole blocks of quantised ones. `rotated`: those are stored after
// another rotation, of as many elements as the largest power of two that divides a head, which is undone for whole ones.
bool kvfold_keys_can_shift(const llama_kv_cache & cache, const llama_hparams & hparams, bool rotated);

// A run of cells of a stream from the first to the last one with another position than its key was rotated for, as far as there is
// memory behind all of them. None: 0 cells.
struct kvfold_shift {
    uint32_t stream;
    uint32_t first;
    uint32_t n_cells;
};

// The one that is next: they are shifted one after the other.
kvfold_shift kvfold_shift_of(const llama_kv_cache & cache);

// It is done. False if that was the last one of its stream.
bool kvfold_shift_goes_on(const llama_kv_cache & cache);

// How far each of its cells is shifted.
void kvfold_get_shifts(const llama_kv_cache & cache, int32_t * shifts);

// Their keys in a layer, given those of each stream: [row, cells].
ggml_tensor * kvfold_shifted_cells(ggml_context * ctx, const llama_kv_cache & cache, const std::vector<ggml_tensor *> & streams);

#endif
