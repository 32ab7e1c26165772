// What prompts have in common is computed once and stored once.
//
// A prompt begins with the cells of another sequence that begins alike: of a slot that runs or is idle, or of a prefix that was
// kept when its slot began something else. Nothing is copied, the cells are marked as those of both (llama_memory_seq_cp()).
// Prompts that arrive together wait until the oldest of them has computed what they share.
//
// Sequences are alike if they have a salt and adapters in common. None is shared where tokens do not tell what cells hold (images,
// activated adapters) or cells may move (context shift, chunks reused by shifting), by a request with "cache_prompt" false, or
// where each slot has cells of its own. Where layers have a window, what is behind it is gone, so a sequence that is longer is shared
// at its end only; one that computes a prompt stops for a moment where others wait for it, and where it departs from an earlier one,
// to keep what a third one may begin with, there and a little before; and of a conversation that goes on, the end of each turn is
// kept. Where the end of a prompt decides which layers are lazy, it is shared before that, or by a prompt that goes on after its
// answer. Where tokens are evicted cells are copied instead, so that a beginning is computed once and
// each prompt loses tokens of its own; of a prompt that has lost some there is only what is left of a chunk. Where all queries decide
// nothing is shared.
#pragma once

#include "hooks/kv-scheduler.h"
#include "serving/scheduler.h"

#include "server-common.h"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <set>
#include <string>
#include <vector>

struct llama_context;
class  llama_kv_cells;
struct kvfold_retention;

namespace kvfold {

class evictor;

// The cells that several sequences hold, by these sequences.
std::vector<shared_cells> cells_in_common(const llama_kv_cells & cells);

// Of one engine; on its worker thread, but for the counts.
struct prefix_cache {
    struct limits {
        int  slots = 1;
        bool on    = true;
    };

    prefix_cache(llama_context * ctx, const limits & limits);

    // Before each step: which slots begin with cells of others, or with none, instead of what they held.
    std::vector<kvfold_slot_action> share(const std::vector<kvfold_prompt_view> & slots);

    // The slot begins when another one has computed what they have in common.
    bool waits(int id_slot) const { return seats[id_slot].waits; }

    // Tokens of its prompt at which a slot stops for one that waits; UINT32_MAX: none does.
    uint32_t stops_at(int id_slot) const { return seats[id_slot].stops_at; }

    // Instead of computing them again: the first tokens, `most` at most, of a slot that gave its cells up. How many there are.
    uint32_t adopt(int id_slot, const server_tokens & tokens, size_t most);
    uint32_t begin_again(int id_slot); // its prompt

    // Of a task that has no slot yet: tasks that are equal in it share cells. Empty if it shares none, or if it chooses its adapters.
    std::string likeness_of_task(const server_task & task) const;

    // Whether the first tokens of its prompt, which a task that was let in has or will have, can be those of another one.
    bool lends(int id_task, size_t n_tokens) const;

    // Whether what the slot holds is of such requests, which move cells or do not.
    bool is_of(int id_slot, const std::string & salt, bool shifts) const;

    // Tokens of a prompt that the server core finds in what the slot holds, and can go on after.
    size_t begins_with(int id_slot, const server_tokens & held, const server_tokens & wanted, const std::vector<uint32_t> & checkpoints) const;

    // The slot's older tokens but the first n_kept ones go (context shift): later ones were computed after them, so that they are not what
    // a prompt of the tokens that are left would make.
    void   moves(int id_slot, size_t n_kept) { seats[id_slot].n_unmoved = std::min(seats[id_slot].n_unmoved, n_kept); }
    size_t n_unmoved(int id_slot) const { return seats[id_slot].n_unmoved; }

    // A saved state is what the slot holds now.
    void restored(int id_slot, const std::string & salt, bool shifts);

    // When others last began with what the slot holds; 0: never.
    int64_t last_used(int id_slot) const { return seats[id_slot].last_used; }

    // Prefixes that no slot holds. Their numbers are those of sequences that are no slots.
    std::vector<kvfold_prefix_view> kept() const;
    void                            drop(int seq_id);
    bool                            drop_oldest(); // false if there is none

    void drop_as_asked();
    void end(); // nobody is there any more who would drop one

    // ---- on any thread

    // Waits until the thread that `wake` wakes has dropped one. False if there is none.
    bool ask_to_drop(const std::function<void()> & wake);

    std::atomic<uint64_t> n_prompts{ 0 }; // that could begin with cells of others
    std::atomic<uint64_t> n_hits{ 0 };    // that did
    std::atomic<uint64_t> n_adopted{ 0 }; // tokens
    std::atomic<size_t>   n_kept{ 0 };

  private:
    struct seat {
        int         task      = -1;
        std::string likeness;          // of what it holds
        bool        shareable = false; // what it holds
        bool        begun     = true;
        bool        waits     = false;
        bool        waited    = false; // in the step before
        uint32_t    stops_at  = UINT32_MAX;
        size_t      n_unmoved = SIZE_MAX; // tokens that lost none before them
        std::set<uint32_t> keeps_at;   // tokens of its prompt that are kept as a prefix
        int64_t     last_used = 0;

        const server_tokens * wanted = nullptr; // in this step
    };

    struct prefix {
        int           seq_id;
        server_tokens tokens;
        std::string   likeness;
        int64_t       last_used;
    };

    // A sequence that others may begin with.
    struct source {
        int                   seq_id;
        const server_tokens * tokens;
        const std::string *   likeness;
    };

    void   settle(const kvfold_prompt_view & slot, std::vector<kvfold_slot_action> & actions);
    void   keep(const kvfold_prompt_view & slot, int64_t last_used);
    void   list_sources(const std::vector<kvfold_prompt_view> & slots);
    bool   begin(const kvfold_prompt_view & slot, const std::vector<const kvfold_prompt_view *> & older, std::vector<kvfold_slot_action> & actions);
    size_t computed(int seq_id) const;
    size_t computed_of(const kvfold_prompt_view & slot) const;
    void   keep_at(int id_slot, size_t n_computed, size_t n, bool others);
    bool   has_window(int seq_id, size_t n) const;
    size_t in_common(const source & from, const server_tokens & wanted, size_t most, bool answered) const;
    size_t in_common_once(int id_slot, const server_tokens & wanted, size_t most, bool & others) const;
    bool   is_kept(const std::string & likeness, const server_tokens & wanted, size_t n) const;
    const source * longest(int id_slot, const server_tokens & wanted, size_t most, bool answered, size_t & n) const;
    bool   copy(const source & from, int id_slot, size_t n); // false if there is no room
    void   recount() const;

    llama_context * const ctx;
    const limits          rules;
    bool                  on      = false;
    bool                  windows = false;
    size_t                n_keepable = 0; // prefixes
    const kvfold_retention * retention = nullptr; // where each sequence decides which layers are lazy
    const evictor *          evicts    = nullptr; // where each loses tokens
    std::vector<seat>     seats;
    std::list<prefix>     prefixes;
    std::vector<source>   sources; // of this step

    std::mutex              mutex; // for what follows
    std::condition_variable changed;
    uint64_t                n_asked    = 0;
    uint64_t                n_answered = 0;
    bool                    ended      = false;
};

} // namespace kvfold
