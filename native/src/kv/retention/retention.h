// Which layers of which sequences are lazy, under a plan with automatic retention.
#pragma once

#include "hooks/kv-plan.h"
#include "kv/memory/memory.h"
#include "kv/retention/ubatch_part.h"

#include "llama-kv-cells.h"

#include <mutex>
#include <vector>

class llama_kv_cache;
class llama_io_read_i;
class llama_io_write_i;

// Where the queries of a sequence find the keys and values of the layer that they read.
enum class kv_read : uint8_t {
    ALL,            // in the full cache
    ALL_BY_WINDOW,  // in the full cache, of which they see sinks and window
    WINDOW,         // in the window-sized cache
};

kv_read kvfold_fixed_read(const kvfold_plan & plan, int il);

// A query whose attention is scored: a row of the ubatch, or one that was kept from an earlier ubatch of its prompt.
struct kv_query {
    llama_seq_id seq_id;
    llama_pos    pos;
    int32_t      row;  // -1: kept
    int32_t      kept; // among those that are kept of the sequence; -1: a row
};

// Queries as a layer compares them with its keys, in the order of their positions.
struct kv_kept_queries {
    std::vector<llama_pos>          pos;
    std::vector<std::vector<float>> values; // by layer, [n_embd_head*n_head, pos.size()]; empty where nothing is scored
};

// How many of n queries have their probabilities in memory at once.
int64_t  kvfold_scored_at_once(int64_t n);
// Of a graph that scores so many of one cache, perhaps those of each sequence for themselves. n_more: for each part of them.
uint32_t kvfold_score_max_nodes(const kvfold_plan & plan, uint32_t n_queries, uint32_t n_seqs, uint32_t n_more);

// Who looks at how the last queries of a prompt attend.
struct kv_judge {
    // The queries of a sequence that are scored in a ubatch, by position; none if it is not time, or if nothing is left to
    // decide. `prefill` is of kvfold_prefill.
    virtual std::vector<kv_query> scored_queries(const kv_ubatch_part & part, int32_t prefill) const = 0;

    // Rows whose queries are kept, since the prompt may end before a later ubatch has enough of its own.
    virtual std::vector<int32_t> kept_rows(const kv_ubatch_part & part, int32_t prefill) const = 0;

    // Of layer il; empty where nothing is left to decide.
    virtual const std::vector<float> & kept_values(llama_seq_id seq_id, int il) const = 0;

    virtual bool judges(llama_seq_id seq_id, int il) const = 0;

protected:
    ~kv_judge() = default;
};

namespace kvfold {

// The last n_queries of a sequence with this part of a ubatch; of ubatches before, those at these positions are kept.
std::vector<kv_query> last_queries(const kv_ubatch_part & part, const std::vector<llama_pos> & kept, size_t n_queries);

// Adds `more` and leaves the last n_queries, of the layers that are judged.
void keep_last(kv_kept_queries & kept, const kv_kept_queries & more, size_t n_queries, const std::vector<bool> & judged);

// Leaves those before this position.
void keep_before(kv_kept_queries & kept, llama_pos end);

} // namespace kvfold

// Owned by the memory of the two caches, used by the thread that decodes.
struct kvfold_retention : kv_judge {
    kvfold_retention(const kvfold_plan & plan, llama_kv_cache & full, llama_kv_cache & window);

    const kvfold_plan plan;

    kv_read read_of(llama_seq_id seq_id, int il) const;

    // Of a producer in both caches: where its rows of the sequence are.
    bool is_in_window(llama_seq_id seq_id, int il) const { return sequences[seq_id].in_window[il]; }

    bool judges(llama_seq_id seq_id, int il) const override;

    // Whether a sequence of so many tokens has any that a lazy layer would forget, the scored queries aside.
    bool enough(llama_pos n_tokens) const;

    std::vector<kv_query> scored_queries(const kv_ubatch_part & part, int32_t prefill) const override;
    std::vector<int32_t>  kept_rows(const kv_ubatch_part & part, int32_t prefill) const override;

    const std::vector<float> & kept_values(llama_seq_id seq_id, int il) const override { return sequences[seq_id].kept.values[il]; }

    // After the ubatch: masses[query][layer] of its scored queries, each the mean over heads, and the queries of its kept
    // rows. Decides where it is time.
    void advance(const kv_ubatch_part & part, int32_t prefill, const std::vector<std::vector<float>> & masses, const kv_kept_queries & kept);

    // Whether layers of some sequence may have turned out lazy and still have their rows in the full cache.
    bool is_due() const { return due; }

    // Moves those of a sequence, or of each (-1), into the other one, between two batches. As long as there is no memory for that they
    // read the full one as a window.
    void settle(llama_seq_id seq_id = -1);

    // Whether a state of the sequence can be written: it says of a lazy layer what the window has.
    bool                      is_settled(llama_seq_id seq_id) const;
    std::vector<llama_seq_id> unsettled (llama_seq_id seq_id = -1) const;

    void remove(llama_seq_id seq_id, llama_pos p0, llama_pos p1); // -1: every sequence
    void copy  (llama_seq_id from, llama_seq_id to);
    void keep  (llama_seq_id seq_id);

    // No layer of this sequence reads through a window, now or later.
    bool keeps_all(llama_seq_id seq_id) const;

    // Nothing is left to decide for the sequence.
    bool is_final(llama_seq_id seq_id) const { return sequences[seq_id].final; }

    // What the sequence has was computed as the beginning of a prompt, and may go on as that of another one.
    bool is_in_prompt(llama_seq_id seq_id) const { return sequences[seq_id].in_prompt; }

    // Its first n tokens may be the beginning of any prompt: they are no more than a lazy layer retains, and none is known to be one.
    bool is_open(llama_seq_id seq_id, llama_pos n) const;

    // Whether a prompt of n_prompt tokens that goes on after its first n ones is judged by the same queries as if it was computed at once.
    // Of what was computed before, the last queries are there if the sequence ends there in the middle of a prompt, or not at all.
    bool has_queries(llama_seq_id seq_id) const;
    bool may_go_on  (llama_seq_id seq_id, llama_pos n, llama_pos n_prompt) const;

    // A prompt has its first tokens from a sequence that is open there.
    void begin(llama_seq_id seq_id);

    // The first tokens of a sequence that decided which of its layers are lazy, or that none is; 0 if nothing is decided yet.
    llama_pos n_decisive(llama_seq_id seq_id) const { return sequences[seq_id].n_decisive; }

    void write(llama_io_write_i & io, llama_seq_id seq_id) const;
    void read (llama_io_read_i  & io, llama_seq_id seq_id);
    // Gives back the pages of cells that no sequence in them needs: of all, or of those that were committed since.
    void release(bool recent = false);

    // Between two batches: pages as well on which some cells are not needed and the others are empty.
    void release_all();

    void restored();

    // By producer, of those in both caches: the sequences that need its rows in the one and in the other. For any thread.
    struct needs { std::vector<llama_kv_cells::seq_set_t> full, window; };
    needs needs_now() const;

    // Lazy layers by sequence, for any thread.
    std::vector<std::vector<int>> lazy_layers(uint32_t n_seqs) const;

private:
    struct sequence {
        std::vector<uint8_t> lazy;           // by layer
        std::vector<uint8_t> in_window;      // by producer
        bool                 final = false;  // no further layer turns out lazy
        llama_pos            n_decisive = 0;

        bool in_prompt      = false; // the last ubatch ended in the middle of a prompt
        bool awaits_first   = false; // the next token is the first one after a prompt
        llama_pos n_next = 0;        // the tokens with which it is scored again before the end of its prompt
        kv_kept_queries kept;        // the last ones of its prompt
    };

    // Whether some layer turned out lazy, or none will from now on. masses[query][layer]
    bool decide(sequence & seq, const std::vector<std::vector<float>> & masses, llama_pos n_tokens, bool last);
    void tell(llama_seq_id seq_id, const char * when) const;
    void reset(llama_seq_id seq_id);

    // A producer in both caches of which no reader needs more than the window, although it is not there yet.
    bool is_to_move(const sequence & seq, int il) const;

    // The cells of a layer that nobody needs there give their pages back.
    void release_layer(int il, kvfold::unneeded_cells which);

    // After a change of what a sequence needs.
    void note_needs(llama_seq_id seq_id);

    llama_kv_cache & full;
    llama_kv_cache & window;

    std::vector<sequence>       sequences;

    // By producer, of those in both caches: the sequences that need its rows in the one and in the other. Asked after each
    // ubatch, when they have seldom changed.
    std::vector<llama_kv_cells::seq_set_t> need_full, need_window;

    bool                        due      = false;
    bool                        refilled = false; // by a saved state, since release()
    mutable std::mutex          mutex; // for `lazy` and readers on other threads
};
