// What the scheduler knows of each slot from step to step, and how a suspended one gets its cells back. Of one engine; on its
// worker thread, but for the counts.
#pragma once

#include "kv/eviction/evicted.h"
#include "kv/memory/compaction.h"
#include "kv/state/swap.h"
#include "serving/admission.h"
#include "serving/prefix_cache.h"
#include "serving/scheduler.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

struct llama_context;
struct server_prompt;

namespace kvfold {

struct slot_schedule {
    struct limits {
        size_t   slots          = 1;
        uint32_t n_slot         = 0; // tokens that a slot holds
        uint32_t n_batch        = 0;
        uint32_t tokens_at_once = 1; // of an answer: one, and those that are drafted
        std::string swap_dir; // for the cells of answers that give way; empty: these are computed again
    };

    slot_schedule(const limits & limits, const kv_layout & layout, prefix_cache & prefixes)
        : prefixes(prefixes), rules(limits), layout(layout), bytes_of_slot(layout.bytes_for(limits.n_slot, 1)), swaps(limits.swap_dir),
          entries(limits.slots), keepers(limits.slots) {}

    std::vector<kvfold_slot_action> share(std::vector<kvfold_prompt_view> slots);

    std::vector<kvfold_slot_action> plan(
            llama_context * ctx, llama_context * ctx_dft, const std::vector<kvfold_slot_view> & slots, const std::vector<kvfold_prefix_view> & idle);

    std::vector<kvfold_slot_action> give_way(
            llama_context * ctx, const std::vector<kvfold_slot_view> & slots, const std::vector<kvfold_prefix_view> & idle);

    // Whether so many tokens of a prompt may be computed beside the tasks that were let in before. These are given with what
    // they were expected to compute of their prompts; some of them may have no slot yet.
    bool has_room(llama_context * ctx, uint64_t n_prompt, const std::map<int, uint32_t> & granted) const;

    bool     rests(int id_slot) const { return entries[id_slot].rests; }
    int32_t  most(int id_slot) const { return entries[id_slot].n_most; }
    int      to_replay() const { return replayed_slot; }
    bool     suspended(llama_context * ctx, int id_slot, uint32_t n_tokens, bool replayable);
    int      replay(llama_context * ctx, common_speculative * spec, int id_slot, const server_tokens & tokens, uint32_t n_prompt, bool replayable);
    int64_t  resumed(int id_slot);
    bool     forgets(int id_slot);

    // The slot runs something from here on, until it forgets.
    void begins(int id_slot, server_prompt & prompt, int id_task);

    // Before others may begin with what the slot holds.
    void ends(int id_slot, const server_task & task);

    // Tokens that one of several answers may have where `limit` (-1: none) is what the request says: a context is not shifted in which
    // they share their prompt.
    int32_t limit_of_several(const server_task & task, int32_t limit) const;

    // Whether a slot but this one runs something.
    bool others_run(int id_slot) const;

    // Nobody reads what the task has made; others need not wait for it.
    void pauses(int id_task);

    // Somebody runs, and nobody reads what anybody has made.
    bool all_pause() const;

    // The task could not be launched, or has ended.
    void runs_no_more(int id_task);

    // Clears what was used least recently of what idle slots but this one, and prefixes, keep. False if they keep nothing.
    bool drop_idle(int id_slot = -1);

    // Of an idle slot, in the midst of a step.
    void clear(int id_slot);

    // Bytes for which there is room beside what the slot holds, when nobody else holds any.
    uint64_t bytes_beside(int id_slot) const;

    // Of those whose cells can be computed again; -1 if there is none.
    int youngest_with_cells(llama_context * ctx, const std::vector<kvfold_slot_view> & slots);

    prefix_cache & prefixes; // used by the worker's thread, as this is

    // What the server core could not compute, given what llama_decode() returned: for want of memory or cells where that is 1, or since a
    // file could not be had.
    error why_it_failed(llama_context * ctx, int id_task, int ret);

    // ---- on any thread

    std::atomic<uint64_t> n_preemptions{ 0 };
    std::atomic<uint64_t> n_recomputed{ 0 }; // tokens
    std::atomic<size_t>   n_suspended{ 0 };
    std::atomic<uint64_t> bytes_swapped{ 0 }; // in files
    std::atomic<uint64_t> n_shared{ 0 }; // cells that would be there once more if sequences shared none

  private:
    struct entry {
        int      task       = -1;
        bool     rests      = false;
        bool     suspended  = false;
        bool     resuming   = false;
        bool     paused     = false;
        bool     swappable  = false;
        bool     shifts     = false; // once it runs
        bool     moved      = false; // its older tokens have gone
        uint32_t n_listed   = 0; // tokens of a suspended answer
        uint32_t n_replayed = 0;
        uint32_t n_gathered = 0; // tokens that it had when it was suspended although it ran alone
        uint32_t n_prompt   = 0;
        uint32_t n_prompt_cells = 0; // that its prompt takes at most at once
        evicted  gone; // what it had lost when it gave its cells up
        std::optional<swapped_sequence> swapped; // what it had when it was suspended, if not to be computed again
        int32_t  n_most     = INT32_MAX; // tokens of its prompt in the next batch
        int32_t  n_at_once  = INT32_MAX; // of its prompt in any batch, since there was no memory for more
        uint64_t last_run   = 0;
        int64_t  since      = 0; // ggml_time_us() of its suspension
    };

    // What a slot keeps when it is idle.
    struct keeper {
        server_prompt * prompt    = nullptr; // null: the slot has run nothing yet
        bool            runs      = false;
        int             task      = -1;
        int64_t         last_used = 0;
    };

    std::vector<slot_view>   view(const std::vector<kvfold_slot_view> & slots, llama_context * ctx);
    std::vector<prefix_view> view(const std::vector<kvfold_prefix_view> & idle, llama_context * ctx) const;
    void                     evict(int seq_id, std::vector<kvfold_slot_action> & actions);
    bool                     shortens(const std::vector<slot_view> & slots);
    bool                     draft_gives_way();
    bool                     compacts(const std::vector<slot_view> & slots);
    int                      one_that_can_wait(const std::vector<slot_view> & slots, int id_slot);
    bool                     gathers(const std::vector<slot_view> & slots, int id_slot);
    void                     count_suspended();
    uint64_t                 grantable() const;

    enum { TARGET, DRAFT, n_contexts };

    const limits       rules;
    const kv_layout &  layout;
    const uint64_t     bytes_of_slot; // with all the tokens that it holds
    swap_folder        swaps;
    std::array<llama_context *, n_contexts> contexts{}; // of the last step; null: there is none
    std::vector<entry>  entries;
    std::vector<keeper> keepers;
    uint64_t            step          = 0;
    uint64_t            refused_at    = 0; // the last step for which there was no memory
    tries_of_compaction compaction;
    std::vector<std::pair<int, llama_pos>> compacted_at; // the task and last position of each slot since `compaction` counts
    int                 replayed_slot = -1;
    std::string         swap_failure; // of the answer that fails next
};

// While one lives, the hooks that run on this thread, a worker, ask these.
struct schedule_scope {
    schedule_scope(admission & admits, slot_schedule & schedule);
    ~schedule_scope();
    schedule_scope(const schedule_scope &)             = delete;
    schedule_scope & operator=(const schedule_scope &) = delete;
};

// Those of this thread, or null.
admission *     admission_of_worker();
slot_schedule * schedule_of_worker();

} // namespace kvfold
