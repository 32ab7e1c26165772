// Token eviction that gives memory back.
//
// When a prompt has ended, each KV head of each layer keeps some of its rows (kv/eviction/choice.h). They move, byte by byte, into
// the first cells of their sequence, and the other cells are free. So row i of a head need not be the token that row i of another
// one is. Keys were rotated to their positions before they were stored and keep these; the position of a cell says only whether a
// query sees it, and all that is kept lies before every token to come. The cells of n_kept rows have the positions 0 to
// n_kept - 2 and that of the newest token, from which the next one is counted.
//
// The next prompt of the conversation is added to what is left, and at its end rows are chosen anew from all that is there. With
// at=chunk this is also done on the way, wherever a prompt is cut (kv/retention/cuts.h). Those queries decide that have come since.
// With answer=N it goes on in the answer, whenever the sequence has come to a multiple of N tokens. Drafts are cut there
// (kvfold_most_drafted()), so that such a multiple is complete when tokens up to it have been accepted.
#pragma once

#include "hooks/kv-plan.h"
#include "kv/eviction/evicted.h"
#include "kv/eviction/expected.h"
#include "kv/eviction/votes.h"
#include "kv/retention/retention.h"
#include "kv/retention/ubatch_part.h"

#include "llama.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

struct llama_hparams;
class  llama_io_read_i;
class  llama_io_write_i;
class  llama_kv_cache;

namespace kvfold {

class  cell_rows;
struct head_rows;
struct kv_tensors;

// Where the attention of the last queries of a prompt decides, a graph computes it beside the attention of the ubatch that ends the
// prompt (kv/graph/scores.h). What the readers of a layer say is added up.
//
// Owned by the memory of the cache, used by the thread that decodes.
class evictor : public kv_judge {
public:
    // Throws std::runtime_error if the heads of the cache are not stored in whole blocks, or if queries decide and sequences have
    // cells of their own.
    evictor(const llama_hparams & hparams, llama_kv_cache & cache);

    std::vector<kv_query>      scored_queries(const kv_ubatch_part & part, int32_t prefill) const override;
    std::vector<int32_t>       kept_rows(const kv_ubatch_part & part, int32_t prefill) const override;
    const std::vector<float> & kept_values(llama_seq_id seq_id, int il) const override { return sequences[seq_id].kept.values[il]; }
    bool                       judges(llama_seq_id seq_id, int il) const override;

    // How much the scored queries of layer il attend to each cell: votes[head][cell], with n_kv cells. Before advance().
    void vote(const kv_ubatch_part & part, int il, const float * votes, int64_t n_kv);

    // Where moments of queries decide: the node of a graph by which layer il turns its queries, which are then compared with keys and
    // multiplied by `scale`. Null: it does not.
    void turns(int il, const ggml_tensor * rope, float scale);

    // A ubatch was computed, and nothing computes with its sequences any more. `kept`: the queries of its kept rows. `prefill` is of
    // kvfold_prefill.
    void advance(const kv_ubatch_part & part, int32_t prefill, const kv_kept_queries & kept);

    // A prompt has ended since settle(), or a chunk of one, or an answer has come to where it loses tokens.
    bool is_due() const;

    // Where noise is added: what the product of a query and a key is divided by with it, from 1 in a prompt to 2.
    float temperature(const kv_ubatch_part & part, int32_t prefill, llama_pos query) const;

    // Evicts from the sequence if it is time, or from each for which it is; between two batches, when of drafted tokens those are there
    // that were accepted.
    void settle(llama_seq_id seq_id = -1);

    // Is told which of their rows the heads of producer il keep, of a sequence of n_tokens.
    using listener = std::function<void(llama_seq_id seq_id, uint32_t il, const std::vector<std::vector<uint32_t>> & rows, uint32_t n_tokens)>;
    void on_choice(listener told) { listens = std::move(told); }

    // Layer il does not see the cell at this position of the sequence: other layers keep more.
    bool hides(llama_seq_id seq_id, int il, llama_pos pos) const {
        const sequence & seq = sequences[seq_id];
        return pos < seq.n_compact() && (uint32_t) pos >= seq.n_rows[il] && seq.n_rows[il] < seq.n_cells;
    }

    // Producers a and b keep equally many rows of every sequence.
    bool keep_alike(int a, int b) const;

    // Not all producers do.
    bool hides_any() const { return unlike; }

    // What it has done since the memory was made; for any thread.
    struct account {
        uint64_t              n_prompts      = 0; // that lost tokens
        uint64_t              n_microseconds = 0;
        uint64_t              n_bytes        = 0; // of rows that are gone
        std::vector<uint64_t> n_kept;             // rows by layer
        std::vector<uint64_t> n_evicted;
    };
    account so_far() const;

    // The tokens of a sequence that gave its cells up are computed again, in batches as those of a prompt: but what was an answer,
    // between two prompts or behind the last one of n_prompt tokens, is none.
    void replays (llama_seq_id seq_id, const evicted & before, llama_pos n_prompt);
    void replayed(llama_seq_id seq_id);

    const evicted & of(llama_seq_id seq_id) const { return sequences[seq_id]; }

    bool is_in_prompt(llama_seq_id seq_id) const { return sequences[seq_id].in_prompt; }

    // Some cell of the sequence is another one's as well, so that it needs others for what it keeps.
    bool shares(llama_seq_id seq_id) const;

    // A prompt of n_prompt tokens has n_common of them in common with the n_listed ones of the sequence: with how many it can begin, so
    // that it leaves what it would leave without them, or beside what an earlier prompt of the conversation has left.
    uint32_t n_beginning(llama_seq_id seq_id, uint32_t n_common, uint32_t n_listed, uint32_t n_prompt) const;

    // The position of the first of the last n cells of the sequence; 0 if it has no more than these.
    llama_pos first_of_last(llama_seq_id seq_id, uint32_t n) const;

    // Tokens of the sequence that have no cell, and need none.
    uint32_t n_gone(llama_seq_id seq_id) const { return (uint32_t) sequences[seq_id].n_compact() - sequences[seq_id].n_cells; }

    // Gives a sequence without cells the first n_tokens of another one in cells of its own, as n_beginning() says that they may be had,
    // so that both lose tokens as if they were alone. False, and nothing is done, if there is no room.
    bool copy_beginning(llama_seq_id from, llama_seq_id to, llama_pos n_tokens);

    // Of the cells that it has, those that hold nothing of producer il; and of those of all sequences. For any thread.
    uint64_t n_hidden(llama_seq_id seq_id, int il) const;
    uint64_t n_hidden(int il) const;

    // Whether these are whole sequences, or none of the tokens whose cells are no tokens any more. -1: every sequence.
    bool can_remove(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const;

    void remove(llama_seq_id seq_id, llama_pos p0, llama_pos p1);
    void copy  (llama_seq_id from, llama_seq_id to);
    void keep  (llama_seq_id seq_id);

    void write(llama_io_write_i & io, llama_seq_id seq_id) const;
    void read (llama_io_read_i  & io, llama_seq_id seq_id);

    // The cells of what was read are there as well.
    void restored(llama_seq_id seq_id);

private:
    struct sequence : evicted {
        bool in_prompt = false; // the last ubatch ended in the middle of a prompt
        bool due       = false; // a prompt, a chunk of it or a part of the answer ended with the last ubatch, since settle()
        bool answers   = false; // that was a part of the answer

        kv_kept_queries                              kept;         // the last ones of its prompt
        votes_by_head                                votes;        // since its prompt began or lost tokens, or since the sequence did
        votes_by_head                                votes_left;   // where these are kept: as they were when it had lost tokens last
        std::vector<query_moments>                   moments;      // by layer, likewise
        uint32_t                                     n_scored = 0; // tokens of its prompt, likewise
        std::vector<uint32_t>                        voted_on;     // its cells, while votes of a ubatch come in

        llama_pos begin    = 0; // of its prompt
        llama_pos previous = 0; // where the one before that had ended, when it has

        // while it is computed again: as it was before, and where its answer begins
        evicted   before;
        llama_pos answer = INT32_MAX;
    };

    void evict(llama_seq_id seq_id);

    // While it is computed again: which of the points before comes next after the token at this position.
    static size_t point_after(const sequence & seq, llama_pos pos);

    // What of the sums of votes belongs to the first tokens of a sequence, of which none has gone since it lost some last.
    votes_by_head votes_of_first(const sequence & seq, llama_pos n_tokens) const;

    // For what the sequence keeps: of its own cells those in front that nobody else has, and free ones. None if there is no room.
    std::vector<uint32_t> cells_to_keep_in(llama_seq_id seq_id, const std::vector<uint32_t> & own, uint32_t n_cells);

    // The memory of layers that keep fewer rows of the sequence than others, which has these cells for itself.
    void release_hidden(llama_seq_id seq_id);

    void count_hidden(llama_seq_id seq_id);
    void share_hidden(llama_seq_id seq_id, llama_seq_id from); // -1: none are

    // n_kept_before: of these, that are counted already.
    void count(const kv_tensors & layer, uint64_t n_kept, uint64_t n_kept_before, uint64_t n_evicted);

    stage stage_of_part(const kv_ubatch_part & part, int32_t prefill) const;

    // Whether rows are chosen after the ubatch, if there are too many.
    bool evicts_after(const kv_ubatch_part & part, stage now) const;

    // The cells of a sequence in the order of their positions: all, and those of them that producer il has rows in.
    std::vector<uint32_t> cells_of(llama_seq_id seq_id) const;
    std::vector<uint32_t> rows_of (llama_seq_id seq_id, uint32_t il, std::vector<uint32_t> cells) const;

    // Producers that do not see the cell at this position.
    size_t n_hiding(llama_seq_id seq_id, llama_pos pos) const;

    // Some producer has more rows of a sequence of n_tokens than it is to keep.
    bool has_too_many(llama_seq_id seq_id, uint32_t n_tokens) const;

    // For each head of producer il which of its rows in `cells` it keeps.
    std::vector<std::vector<uint32_t>> choose(llama_seq_id seq_id, const kv_tensors & layer, const std::vector<uint32_t> & cells, uint32_t n_kept);

    // What one head is worth to the queries that are to come, by moments.
    std::vector<float> expected_scores(const sequence & seq, int il_kv, uint32_t head, const head_rows & rows, llama_pos n_tokens);

    // The mean of what layer il does to queries that come after n_tokens.
    const std::vector<float> & turn_of(int il, llama_pos n_tokens);

    llama_pos last_of(llama_seq_id seq_id) const; // -1: it has no cells

    bool is_whole(llama_seq_id seq_id, llama_pos p0, llama_pos p1) const;

    uint32_t stream_of(llama_seq_id seq_id) const;
    cell_rows keys_of  (llama_seq_id seq_id, const kv_tensors & layer, const std::vector<uint32_t> & cells) const;
    cell_rows values_of(llama_seq_id seq_id, const kv_tensors & layer, const std::vector<uint32_t> & cells) const;

    const llama_hparams & hparams;
    const kvfold_plan &   plan;
    llama_kv_cache &      cache;
    uint32_t              k_rotated = 0; // elements that are stored rotated together
    uint32_t              v_rotated = 0;
    bool                  unlike    = false;
    std::vector<sequence> sequences;
    listener              listens;

    struct turned {
        rotation how;
        float    scale = 0; // 0: it was not told
    };
    std::vector<turned> queries; // by layer

    // the last one of turn_of()
    rotation           turned_how;
    llama_pos          turned_at = -1;
    std::vector<float> turned_mean;

    mutable std::mutex mutex; // for what follows, and readers on other threads
    account            done;

    // By sequence, where layers keep unequally many rows: cells that hold nothing of each producer. Those that share the cells have the same.
    std::vector<std::shared_ptr<const std::vector<uint32_t>>> hidden;
};

} // namespace kvfold
