// Who runs, who gives way and who comes back, as a pure function of what the slots hold: no llama.cpp, no clock, no memory of
// its own. The engine and the simulator of native/test/scheduler_test.cpp call the same function.
//
// When cells run short, what is kept of earlier requests goes first (least recently used, of what would free any), then
// prompts get fewer tokens at a time, then a request is suspended: one that nobody reads, else the youngest. The oldest that is read is never
// suspended, so that there is progress; and it fails only if all cells together are too few for it. What could not be computed again as
// it was goes before older ones as long as it holds cells, for it cannot give way; and an answer that is about to lose older tokens, and
// could not be computed again then, rests until it is the oldest or finds room beside all those and the oldest. Where what cannot give way
// has only paused, for a reader that is slow, the others wait rather than fail, until that reader has stalled.
#pragma once

#include "hooks/kv-scheduler.h"

#include <cstdint>
#include <vector>

namespace kvfold {

struct slot_view : kvfold_slot_view {
    bool     swapped   = false; // its cells are in a file, and come back all at once
    bool     stalled   = false; // it has paused, and others do not wait for its reader any more
    bool     suspended = false; // its cells are to be computed again, or are being: `n_cells` of them are there
    bool     resuming  = false;
    uint32_t n_cells   = 0;     // that it holds, some of them perhaps with others
    uint32_t n_gone    = 0;     // tokens that it has computed and that were evicted since
    uint32_t n_peak    = UINT32_MAX; // cells that its tokens take at most at once
    uint32_t n_step    = 1;     // of an answer: its next token, and what may be drafted with it
    uint64_t last_run  = 0;     // the step in which it ran last

    // Whether it can lose its cells and have them again.
    bool gives_way() const { return replayable || swappable; }
};

// Whether a came before b.
bool came_before(const slot_view & a, const slot_view & b);

struct prefix_view {
    int      slot      = 0; // or any other number that no slot has
    int64_t  last_used = 0;
    uint32_t n_cells   = 0;
};

// Cells that several hold, which are free when the last of them has given them up.
struct shared_cells {
    std::vector<int> holders; // slots, of running requests and of prefixes
    uint32_t         n_cells = 0;
};

struct cell_room {
    uint64_t n_cells = 0; // of the cache
    uint64_t n_free  = 0;
    uint64_t n_affordable = UINT64_MAX; // tokens for whose cells there is memory, by estimate; says who may come back
    uint32_t n_batch = 0; // tokens of a batch
    uint64_t n_whole = UINT64_MAX; // slots for all of whose tokens there are cells and memory at the same time
    std::vector<shared_cells> shared;
};

struct slot_action {
    enum what_t : uint8_t { RUN, HOLD, EVICT, SUSPEND, RESUME, FAIL };

    what_t   what;
    int      slot;
    uint32_t n_tokens = 0; // RUN: at most so many of a prompt
};

// Cells that stay free when a request begins or comes back, so that it is not the next to give way.
uint64_t watermark(const cell_room & room);

// A request that has begun, or is about to.
struct runner {
    uint32_t n_prompt  = 0;
    uint32_t n_cells   = 0; // that it has
    uint64_t bytes_coming = 0; // that the rest of its prompt may take
    bool     suspended = false;
    bool     paused    = false;
};

// Whether one may begin beside others: when there will be cells and memory for their prompts and for its own, as far as can
// be told. `bytes` counts what idle slots hold, which would go for it.
bool may_begin(const runner & one, const std::vector<runner> & others, const cell_room & room, uint64_t bytes);

// Evictions, suspensions and failures come before what they make room for; each slot is run, held, resumed, suspended or
// failed.
std::vector<slot_action> plan_step(const std::vector<slot_view> & slots, const std::vector<prefix_view> & prefixes, const cell_room & room);

// What makes room when there was no memory for a step that plan_step() had planned: one EVICT, SUSPEND or FAIL, or nothing
// if nobody runs.
std::vector<slot_action> give_way(const std::vector<slot_view> & slots, const std::vector<prefix_view> & prefixes);

} // namespace kvfold
