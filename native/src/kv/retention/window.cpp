// The window-sized cache of layers that retain sinks and recent tokens.

#include "hooks/kv-plan.h"
#include "hooks/kv-retention.h"

#include "ggml.h"
#include "llama-kv-cells.h"

#include <algorithm>

uint32_t kvfold_window_cells(const kvfold_plan & plan, uint32_t n_cells, uint32_t n_cells_full, uint32_t n_seqs, uint32_t n_ubatch) {
    if (plan.n_swa == 0) {
        return n_cells;
    }
    const uint64_t needed = ((uint64_t) plan.n_swa + plan.n_sinks)*n_seqs + n_ubatch; // more than 32 bits for a wide window
    return (uint32_t) GGML_PAD(std::min<uint64_t>(n_cells_full, needed), 256);
}

int32_t kvfold_window_pos_min(const llama_kv_cells & cells, int32_t seq_id, uint32_t n_sinks) {
    llama_pos lowest = -1, lowest_behind = -1;
    for (uint32_t i = 0; i < cells.size(); ++i) {
        if (cells.is_empty(i) || !cells.seq_has(i, seq_id)) {
            continue;
        }
        const llama_pos pos = cells.pos_get(i);
        if (lowest < 0 || pos < lowest) {
            lowest = pos;
        }
        if (pos >= (llama_pos) n_sinks && (lowest_behind < 0 || pos < lowest_behind)) {
            lowest_behind = pos;
        }
    }
    return lowest_behind > (llama_pos) n_sinks ? lowest_behind : lowest;
}
