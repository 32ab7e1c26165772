// First and recent tokens in the window-sized cache. Implemented in kv/retention.
#ifndef KVFOLD_KV_RETENTION_H
#define KVFOLD_KV_RETENTION_H

#include <cstdint>

struct kvfold_plan;
class  llama_kv_cells;

// Cells of the window-sized cache, given upstream's number: sinks stay beside the windows of n_seqs sequences.
uint32_t kvfold_window_cells(const kvfold_plan & plan, uint32_t n_cells, uint32_t n_cells_full, uint32_t n_seqs, uint32_t n_ubatch);

// The position from which on a window-sized cache holds a sequence without a gap. Sinks below a gap do not count.
int32_t kvfold_window_pos_min(const llama_kv_cells & cells, int32_t seq_id, uint32_t n_sinks);

#endif
