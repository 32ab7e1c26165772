// Token eviction that gives memory back.
//
// When a prompt has ended, each KV head of each layer keeps some of its rows (kv/eviction/choice.h). They move, byte by byte, into
// the first cells of their sequence, and the other cells are free. So row i of a head need not be the token that row i of another
// one is. Keys were rotated to their positions before they were stored and keep these; the position of a cell says only whether a
// query sees it, and all that is kept lies before every token to come. The cells of n_kept rows have the positions 0 to
// n_kept - 2 and that of the newest token, from which the next one is counted.
//
// The next prompt of the conversation is added to what is left, and at its end rows are chosen anew from all that is there.
#pragma once

#include "hooks/kv-plan.h"
#include "kv/eviction/evicted.h"
#include "kv/retention/ubatch_part.h"

#include "llama.h"

#include <cstdint>
#include <vector>

struct llama_hparams;
class  llama_io_read_i;
class  llama_io_write_i;
class  llama_kv_cache;

namespace kvfold {

struct kv_tensors;

// Owned by the memory of the cache, used by the thread that decodes.
class evictor {
public:
    // Throws std::runtime_error if the heads of the cache are not stored in whole blocks.
    evictor(const llama_hparams & hparams, llama_kv_cache & cache);

    // A ubatch was computed, and nothing computes with its sequences any more. `prefill` is of kvfold_prefill.
    void advance(const kv_ubatch_part & part, int32_t prefill);

    // A prompt has ended since settle().
    bool is_due() const;

    // Evicts from the sequences whose prompts have ended; between two batches.
    void settle();

    // Layer il does not see the cell at this position of the sequence: other layers keep more.
    bool hides(llama_seq_id seq_id, int il, llama_pos pos) const {
        const sequence & seq = sequences[seq_id];
        return pos < seq.n_compact() && (uint32_t) pos >= seq.n_rows[il] && seq.n_rows[il] < seq.n_cells;
    }

    // Producers a and b keep equally many rows of every sequence.
    bool keep_alike(int a, int b) const;

    // Not all producers do.
    bool hides_any() const { return unlike; }

    const evicted & of(llama_seq_id seq_id) const { return sequences[seq_id]; }

    // Some cell of the sequence is another one's as well, so that nothing can be evicted from it.
    bool shares(llama_seq_id seq_id) const;

    // Tokens of the sequence that have no cell, and need none.
    uint32_t n_gone(llama_seq_id seq_id) const { return (uint32_t) sequences[seq_id].n_compact() - sequences[seq_id].n_cells; }

    // Of the cells that it has, those that hold nothing of producer il.
    uint32_t n_hidden(llama_seq_id seq_id, int il) const;

    void remove(llama_seq_id seq_id, llama_pos p0, llama_pos p1); // -1: every sequence
    void copy  (llama_seq_id from, llama_seq_id to);
    void keep  (llama_seq_id seq_id);

    void write(llama_io_write_i & io, llama_seq_id seq_id) const;
    void read (llama_io_read_i  & io, llama_seq_id seq_id);

private:
    struct sequence : evicted {
        bool in_prompt = false; // the last ubatch ended in the middle of a prompt
        bool ended     = false; // a prompt has, since settle()
    };

    void evict(llama_seq_id seq_id);

    // The cells of a sequence in the order of their positions.
    std::vector<uint32_t> cells_of(llama_seq_id seq_id) const;

    // Leaves producer il the rows that it keeps of `cells`, in the first of `to`.
    void move(const kv_tensors & layer, uint32_t stream, const std::vector<uint32_t> & cells, uint32_t n_kept, const std::vector<uint32_t> & to);

    const llama_hparams & hparams;
    const kvfold_plan &   plan;
    llama_kv_cache &      cache;
    uint32_t              k_rotated = 0; // elements that are stored rotated together
    uint32_t              v_rotated = 0;
    bool                  unlike    = false;
    std::vector<sequence> sequences;
};

} // namespace kvfold
