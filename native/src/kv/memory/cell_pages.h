// Which pages the cells of a cache lie in: what is committed before they are written, and given back when they are empty.
#pragma once

#include "hooks/k-shift.h"
#include "hooks/kv-memory.h"
#include "kv/memory/memory.h"
#include "kv/memory/pages.h"
#include "kv/memory/placement.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

struct ggml_backend_buffer;
struct ggml_tensor;
class  llama_kv_cache;
class  llama_kv_cells;

namespace kvfold {

// Null where memory is not committed as it fills.
page_map * pages_of(const ggml_backend_buffer * buffer);

// Where the cells of a K or V tensor lie: [row, cells, streams], or [cells, row, streams] where values are transposed.
struct cell_area {
    uint32_t            il;
    const ggml_tensor * tensor;
    page_map *          pages;    // or null
    size_t              offset;   // of the tensor, within its buffer
    size_t              n_cells;  // of a stream
    size_t              n_rows;   // of which each cell has a piece: 1, or ne[0] if transposed
    size_t              n_bytes;  // of a cell in a row
    size_t              end;      // of what was allocated for the tensor, within its buffer

    size_t n_row()    const { return n_cells*n_bytes; }
    size_t n_stream() const { return n_rows*n_row(); }

    // Calls what(offset, size) for each range of bytes that cells [first, last) of a stream take.
    template <typename F> void for_each(uint32_t stream, uint32_t first, uint32_t last, F && what) const {
        const size_t start = offset + stream*n_stream();
        if (first == 0 && last == n_cells) {
            what(start, n_stream());
            return;
        }
        for (size_t row = 0; row < n_rows; ++row) {
            what(start + row*n_row() + first*n_bytes, (last - first)*n_bytes);
        }
    }

    bool     commit (uint32_t stream, uint32_t first, uint32_t last) const;
    uint64_t missing(uint32_t stream, uint32_t first, uint32_t last) const;

    // What n cells of a stream hold, to cells of an area of the same kind.
    void copy(uint32_t stream, uint32_t first, uint32_t n, const cell_area & to, uint32_t to_stream, uint32_t to_first) const;
};

// Of all tensors, also of those without pages.
std::vector<cell_area> areas_of(const llama_kv_cache & cache);

// Calls what(first, last) for each run of consecutive cells, as long as it returns true. Whether it always did.
template <typename F> bool for_each_run(const std::vector<uint32_t> & cells, F && what) {
    for (size_t i = 0; i < cells.size();) {
        size_t n = 1;
        while (i + n < cells.size() && cells[i + n] == cells[i] + n) {
            ++n;
        }
        if (!what(cells[i], cells[i] + (uint32_t) n)) {
            return false;
        }
        i += n;
    }
    return true;
}

} // namespace kvfold

struct kvfold_kv_memory {
    std::vector<kvfold::cell_area> areas;

    std::optional<kvfold::placement> places; // since it is known which cells share a page

    uint32_t n_compact = 0; // cells in use when compact() looked last

    std::vector<kvfold_cell_range> fresh; // per stream, committed since settle_recent()

    // Whether tokens of a sequence are stored in a layer; asked for those that a ubatch is about to write. Null: in all.
    std::function<bool(uint32_t il, llama_seq_id seq_id)> stores;
    std::vector<llama_seq_id>                             writers; // of that ubatch

    std::function<void()> await_computation = [] {}; // with these tensors

    std::optional<kvfold_shift> shift;         // that is being done
    uint32_t                    n_shifted = 0; // cells of its stream that are done

    // what other threads may ask
    std::atomic<uint64_t>              refused{ 0 }; // bytes that could not be had for the last batch, 0 if they could
    std::atomic<uint64_t>              cap{ 0 };     // of the ledger, if that has refused them
    std::atomic<uint64_t>              held{ 0 };    // by it then
    std::atomic<uint64_t>              n_used{ 0 };
    std::vector<std::atomic<uint32_t>> n_used_by_seq;

    explicit kvfold_kv_memory(const llama_kv_cache & cache);

    // False, and `refused` says how much, if there is no memory for these cells.
    bool commit(uint32_t stream, const std::vector<uint32_t> & cells);
    bool commit(uint32_t stream, uint32_t first, uint32_t last);

    // Whether there is memory behind all of these cells, in every layer.
    bool has_memory(uint32_t stream, uint32_t first, uint32_t last) const;

    // Whether a ubatch that is about to be written stores anything in the layer: a graph writes its tokens of all sequences there.
    bool is_written(uint32_t il) const;

    // Of the empty cells in these ranges, one for each stream.
    void release(const llama_kv_cache & cache, std::vector<kvfold_cell_range> ranges);

    // Of cells that hold tokens which the layer does not need. Empty ones may be committed for a ubatch to come.
    void release_layer(
            uint32_t il,
            uint32_t stream,
            const llama_kv_cells & cells,
            const std::function<bool(const llama_kv_cells & cells, uint32_t cell)> & unneeded,
            kvfold::unneeded_cells which);

    void release_erased(const llama_kv_cache & cache);

    // Of all cells that are empty, also of those that were committed for a batch which does not come.
    void release_empty(const llama_kv_cache & cache);

    void count(const llama_kv_cache & cache);

private:
    uint32_t reach         = 0;     // cells that can share a page with a cell, on each side of it
    bool     shares_pages  = false; // some page holds cells of two tensors, or of more than two streams
    bool     streams_share = false; // some page holds cells of two streams

    // The empty cells in a range and those around it that can share pages with them.
    std::vector<kvfold_cell_range> empty_runs(const llama_kv_cells & cells, kvfold_cell_range range) const;
};
