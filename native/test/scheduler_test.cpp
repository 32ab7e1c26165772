// The policy of serving/scheduler.h against a simulated cache: requests come, grow, pause, are cancelled and compute again
// what they had, for as many steps as asked for. Prints the seed of the simulation that failed.
//
//   scheduler_test [steps [seed]]

#include "serving/scheduler.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

using namespace kvfold;

namespace {

uint64_t seed_now = 0;
uint64_t step_now = 0;

[[noreturn]] void fail(const std::string & what) {
    fprintf(stderr, "seed %llu, step %llu: %s\n", (unsigned long long) seed_now, (unsigned long long) step_now, what.c_str());
    exit(1);
}

void expect(bool holds, const char * what) {
    if (!holds) {
        fail(what);
    }
}

struct job {
    int      task;
    uint32_t n_prompt, n_answer; // tokens
    bool     replayable, swappable, whole;
    uint32_t n_draft;

    bool gives_way() const { return replayable || swappable; }
};

struct seat {
    bool     busy = false;
    job      what = {};
    bool     answers = false, paused = false, stalled = false, suspended = false, resuming = false;
    uint32_t n_tokens = 0; // listed
    uint32_t n_cells  = 0;
    uint32_t n_made   = 0;
    uint64_t last_run = 0, began = 0;
    uint64_t last_used = 0; // of an idle one
    uint32_t n_prefix  = 0; // that an idle one keeps
};

struct world {
    std::mt19937_64   rng;
    uint32_t          n_pool, n_batch, n_slot;
    std::vector<seat> seats;
    std::deque<job>   queue;
    int               next_task = 0;
    uint64_t          n_done = 0, n_failed = 0, n_suspensions = 0, n_recomputed = 0, n_computed = 0, n_adopted = 0;
    std::map<int, int> suspensions; // by task
    std::vector<shared_cells> shared;

    uint64_t pick(uint64_t least, uint64_t most) { return std::uniform_int_distribution<uint64_t>(least, most)(rng); }
    bool     chance(double p) { return std::uniform_real_distribution<double>()(rng) < p; }

    explicit world(uint64_t seed) : rng(seed) {
        n_pool  = (uint32_t) pick(32, 2000);
        n_batch = (uint32_t) pick(1, 300);
        n_slot  = (uint32_t) pick(n_pool/2, n_pool);
        seats.resize(pick(1, 8));
    }

    uint32_t used() const {
        uint32_t n = 0;
        for (const seat & each : seats) {
            n += each.busy ? each.n_cells : each.n_prefix;
        }
        for (const shared_cells & each : shared) {
            n -= each.n_cells*((uint32_t) each.holders.size() - 1);
        }
        return n;
    }

    bool shares(int at) const {
        return std::any_of(shared.begin(), shared.end(), [&](const auto & each) {
            return std::count(each.holders.begin(), each.holders.end(), at) > 0;
        });
    }

    void give_up(int at) {
        for (shared_cells & each : shared) {
            each.holders.erase(std::remove(each.holders.begin(), each.holders.end(), at), each.holders.end());
        }
        shared.erase(std::remove_if(shared.begin(), shared.end(), [](const auto & each) { return each.holders.size() < 2; }), shared.end());
    }

    // So many cells of one become another's as well.
    void adopt(int at, int from, uint32_t n) {
        uint32_t n_alone = seats[from].busy ? seats[from].n_cells : seats[from].n_prefix;
        for (size_t i = 0, n_all = shared.size(); i < n_all; ++i) {
            if (std::count(shared[i].holders.begin(), shared[i].holders.end(), from) == 0) {
                continue;
            }
            n_alone -= shared[i].n_cells;
            if (n > 0 && shared[i].n_cells > n) {
                shared.push_back({ shared[i].holders, shared[i].n_cells - n });
                shared[i].n_cells = n;
            }
            if (n > 0) {
                shared[i].holders.push_back(at);
                n -= shared[i].n_cells;
            }
        }
        expect(n <= n_alone, "no more is adopted than there is");
        if (n > 0) {
            shared.push_back({ { from, at }, n });
        }
    }

    void post() {
        job next;
        next.task       = next_task++;
        next.n_prompt   = (uint32_t) pick(1, std::max(2u, n_slot - 2));
        next.n_answer   = (uint32_t) pick(1, n_slot - next.n_prompt);
        next.replayable = chance(0.95);
        next.swappable  = chance(0.3);
        next.whole      = chance(0.05) && next.n_prompt <= n_batch;
        next.n_draft    = chance(0.2) ? (uint32_t) pick(1, 16) : 0;
        queue.push_back(next);
    }

    // As slot_schedule::has_room().
    bool has_room(const job & what) const {
        std::vector<runner> others;
        for (const seat & each : seats) {
            if (each.busy) {
                others.push_back({ each.what.n_prompt, each.n_cells, 0, each.suspended, each.paused });
            }
        }
        return may_begin({ what.n_prompt }, others, room(), UINT64_MAX);
    }

    cell_room room() const {
        cell_room now;
        now.n_cells = n_pool;
        now.n_free  = n_pool - used();
        now.n_batch = n_batch;
        now.shared  = shared;
        return now;
    }

    void launch() {
        while (!queue.empty() && has_room(queue.front())) {
            auto at = std::find_if(seats.begin(), seats.end(), [](const seat & each) { return !each.busy; });
            if (at == seats.end()) {
                return;
            }
            const int id   = (int) (at - seats.begin());
            uint32_t  kept = shares(id) ? 0 : std::min({ at->n_prefix, queue.front().n_prompt - 1, (uint32_t) pick(0, 50) });
            *at            = {};
            at->busy       = true;
            at->what       = queue.front();
            at->began      = step_now;
            give_up(id);
            const int      from  = (int) pick(0, seats.size() - 1);
            const uint32_t there = std::min(seats[from].busy ? seats[from].n_cells : seats[from].n_prefix, at->what.n_prompt - 1);
            if (from != id && there > kept && chance(0.5)) {
                kept = (uint32_t) pick(kept + 1, there);
                adopt(id, from, kept);
                n_adopted += kept;
            }
            at->n_tokens = at->n_cells = kept;
            queue.pop_front();
        }
    }

    void release(seat & each, bool keep) {
        const uint32_t n_prefix = keep && !each.suspended ? each.n_cells : 0;
        if (n_prefix == 0) {
            give_up((int) (&each - seats.data()));
        }
        suspensions.erase(each.what.task);
        each           = {};
        each.n_prefix  = n_prefix;
        each.last_used = step_now;
    }

    std::vector<slot_view> view() const {
        std::vector<slot_view> views;
        for (size_t i = 0; i < seats.size(); ++i) {
            const seat & each = seats[i];
            if (!each.busy) {
                continue;
            }
            slot_view v;
            v.slot       = (int) i;
            v.task       = each.what.task;
            v.arrival    = each.what.task;
            v.stage      = each.answers ? slot_view::ANSWER : slot_view::PROMPT;
            v.paused     = each.paused;
            v.stalled    = each.stalled;
            v.replayable = !each.answers || each.what.replayable;
            v.swappable  = each.answers && each.what.swappable && !each.suspended;
            v.swapped    = each.answers && each.what.swappable && each.suspended;
            v.whole      = each.what.whole;
            v.group      = each.what.whole ? -1 : 0;
            v.n_tokens   = each.n_tokens;
            v.n_prompt   = each.what.n_prompt;
            v.suspended  = each.suspended;
            v.resuming   = each.resuming;
            v.n_cells    = each.n_cells;
            v.n_step     = std::max<int64_t>(1, std::min<int64_t>(1 + each.what.n_draft, (int64_t) n_slot - each.n_tokens - 1));
            v.last_run   = each.last_run;
            views.push_back(v);
        }
        return views;
    }

    std::vector<prefix_view> prefixes() const {
        std::vector<prefix_view> views;
        for (size_t i = 0; i < seats.size(); ++i) {
            if (!seats[i].busy && seats[i].n_prefix > 0) {
                views.push_back({ (int) i, (int64_t) seats[i].last_used, seats[i].n_prefix });
            }
        }
        return views;
    }

    // What cannot be computed again has its cells until somebody reads on.
    bool waits_for_reader() const {
        return std::any_of(seats.begin(), seats.end(), [](const seat & each) {
            return each.busy && each.answers && !each.what.gives_way() && each.n_cells > 0 && each.paused && !each.stalled;
        });
    }

    int oldest_read() const {
        int oldest = -1;
        for (size_t i = 0; i < seats.size(); ++i) {
            const auto age = [&](int seat) { // what cannot be computed again goes first
                const bool stays = seats[seat].answers && !seats[seat].what.gives_way() && seats[seat].n_cells > 0;
                return std::make_pair(!stays, seats[seat].what.task);
            };
            if (seats[i].busy && !seats[i].paused && (oldest < 0 || age((int) i) < age(oldest))) {
                oldest = (int) i;
            }
        }
        return oldest;
    }

    void apply(const slot_action & action, int oldest, bool refused = false) {
        seat & each = seats[action.slot];
        switch (action.what) {
            case slot_action::EVICT:
                expect(!each.busy && each.n_prefix > 0, "what an idle slot keeps is evicted");
                each.n_prefix = 0;
                give_up(action.slot);
                break;
            case slot_action::SUSPEND:
                expect(each.busy && each.n_cells > 0, "who is suspended had cells");
                expect(action.slot != oldest || (refused && waits_for_reader()), "the oldest that is read is not suspended, but while it waits for a reader");
                expect(!each.answers || each.what.gives_way(), "what cannot come back is not suspended");
                expect(prefixes().empty(), "prefixes go before anybody is suspended");
                each.suspended = true;
                each.resuming  = false;
                each.n_cells   = 0;
                give_up(action.slot);
                if (!each.answers) {
                    each.n_tokens = 0;
                }
                n_suspensions++;
                suspensions[each.what.task]++;
                break;
            case slot_action::FAIL:
                expect(each.busy, "who fails was busy");
                if (!refused) {
                    expect(!waits_for_reader(), "nobody fails while a reader is slow");
                }
                if (action.slot == oldest) {
                    for (const seat & other : seats) {
                        expect(&other == &each || !other.busy || other.n_cells == 0, "the oldest fails only alone");
                    }
                } else {
                    expect(!each.what.gives_way() && each.answers, "a younger one fails only if it cannot give way");
                }
                n_failed++;
                release(each, false);
                break;
            default:
                break;
        }
    }

    void step() {
        ++step_now;
        if (queue.size() < 30 && chance(0.05)) {
            post();
        }
        launch();
        bool any = false;
        for (seat & each : seats) {
            if (!each.busy) {
                continue;
            }
            any = true;
            if (chance(0.001)) {
                release(each, each.n_tokens == each.n_cells); // cancelled
            } else if (each.answers && chance(0.002)) {
                each.paused = true;
            } else if (each.paused && chance(0.02)) {
                each.paused = each.stalled = false;
            } else if (each.paused && chance(0.01)) {
                each.stalled = true;
            }
        }
        if (!any) {
            return;
        }
        const int  oldest = oldest_read();
        const auto views  = view();
        std::vector<slot_action> actions = plan_step(views, prefixes(), room());
        std::map<int, int> seen;
        uint64_t n_taken = 0;
        bool     oldest_runs = false;
        int      group = INT32_MAX;
        std::vector<slot_action> runs;
        for (const slot_action & action : actions) {
            apply(action, oldest);
            if (action.what != slot_action::EVICT) {
                seen[action.slot]++;
            }
            if (action.what == slot_action::RUN || action.what == slot_action::RESUME) {
                expect(action.n_tokens > 0, "who runs has tokens");
                const seat & own_seat = seats[action.slot];
                const uint32_t n_left = own_seat.answers ? (action.what == slot_action::RESUME ? own_seat.n_tokens - own_seat.n_cells : action.n_tokens)
                                                         : own_seat.what.n_prompt - own_seat.n_cells;
                n_taken += std::min(action.n_tokens, n_left);
                runs.push_back(action);
                oldest_runs |= action.slot == oldest;
                if (action.what == slot_action::RUN) {
                    const int own = seats[action.slot].what.whole ? -1 : 0;
                    expect(group == INT32_MAX || group == own, "only slots of one group share a batch");
                    group = own;
                }
            }
            oldest_runs |= action.what == slot_action::FAIL;
        }
        for (const slot_view & each : views) {
            expect(seen[each.slot] == 1, "each slot is told once");
        }
        expect(used() + n_taken <= n_pool, "no more cells are given out than there are");
        expect(oldest < 0 || !runs.empty() || oldest_runs || waits_for_reader(), "somebody makes progress");
        // the batch holds answers first, then prompts as far as it goes
        uint32_t in_batch = 0;
        for (const bool answers : { true, false }) {
            for (const slot_action & action : runs) {
                seat & each = seats[action.slot];
                if (!each.busy || action.what == slot_action::RESUME || each.answers != answers) {
                    continue;
                }
                expect(!each.suspended, "who is suspended does not run");
                each.last_run = step_now;
                if (answers) {
                    const uint32_t n_accepted = (uint32_t) pick(1, std::min<uint64_t>(action.n_tokens, each.what.n_answer - each.n_made));
                    n_computed += n_accepted;
                    each.n_tokens += n_accepted;
                    each.n_cells  += n_accepted;
                    each.n_made   += n_accepted;
                    in_batch += action.n_tokens;
                    if (each.n_made >= each.what.n_answer || each.n_tokens + 1 >= n_slot) {
                        n_done++;
                        release(each, true);
                    }
                    continue;
                }
                const uint32_t left = each.what.n_prompt - each.n_tokens;
                const uint32_t n    = std::min({ action.n_tokens, left, n_batch - std::min(n_batch, in_batch) });
                if (n == 0 || (each.what.whole && n < left)) {
                    continue;
                }
                in_batch += n;
                n_computed += n;
                each.n_tokens += n;
                each.n_cells  += n;
                if (each.n_tokens == each.what.n_prompt) {
                    if (each.what.whole) {
                        n_done++;
                        release(each, false);
                    } else {
                        each.answers = true;
                        each.n_made  = 1;
                        if (each.n_made >= each.what.n_answer) {
                            n_done++;
                            release(each, true);
                        }
                    }
                }
            }
        }
        for (const slot_action & action : runs) {
            seat & each = seats[action.slot];
            if (action.what != slot_action::RESUME || !each.busy) {
                continue;
            }
            if (!each.answers) {
                each.suspended = false;
                continue;
            }
            each.resuming = true;
            const uint32_t n = std::min({ action.n_tokens, each.n_tokens - each.n_cells, each.what.swappable ? UINT32_MAX : n_batch });
            expect(!each.what.swappable || n == each.n_tokens, "what lies in a file comes back as a whole");
            each.n_cells += n;
            n_recomputed += each.what.swappable ? 0 : n;
            if (each.n_cells == each.n_tokens) {
                each.suspended = each.resuming = false;
            }
        }
        expect(used() <= n_pool, "cells in use fit the pool");
        if (oldest >= 0 && seats[oldest].busy) {
            // bounded: nobody stays the oldest for longer than its own tokens take, whatever the others do
            expect(step_now - seats[oldest].began < 400000, "the oldest ends");
        }
        // sometimes the system gives no memory for what was planned
        if (!runs.empty() && chance(0.01)) {
            const auto now = view();
            if (!now.empty()) {
                const int first = oldest_read();
                const auto ways = give_way(now, prefixes());
                expect(first < 0 || ways.size() == 1, "one gives way at a time");
                for (const slot_action & action : ways) {
                    apply(action, first, true);
                }
            }
        }
    }
};

void fixed_cases() {
    cell_room room;
    room.n_cells = 100;
    room.n_free  = 0;
    room.n_batch = 32;
    slot_view old, young;
    old.slot = 0, old.task = 1, old.arrival = 1, old.stage = slot_view::ANSWER, old.n_tokens = old.n_cells = 60;
    young.slot = 1, young.task = 2, young.arrival = 2, young.stage = slot_view::ANSWER, young.n_tokens = young.n_cells = 40;
    auto actions = plan_step({ young, old }, {}, room);
    expect(actions.size() == 2 && actions[0].what == slot_action::SUSPEND && actions[0].slot == 1 && actions[1].what == slot_action::RUN && actions[1].slot == 0,
           "the younger of two gives way");
    old.paused = true;
    actions    = plan_step({ young, old }, {}, room);
    expect(actions[0].what == slot_action::SUSPEND && actions[0].slot == 0, "who is not read gives way although it is older");
    old.paused = false;
    actions    = plan_step({ young, old }, { { 2, 7, 5 }, { 3, 3, 5 } }, room);
    expect(actions[0].what == slot_action::EVICT && actions[0].slot == 3, "the prefix that was used least recently goes first");
    room.shared = { { { 3, 0 }, 5 } };
    actions     = plan_step({ young, old }, { { 2, 7, 5 }, { 3, 3, 5 } }, room);
    expect(actions[0].what == slot_action::EVICT && actions[0].slot == 2, "one that frees nothing stays");
    room.shared = { { { 0, 1 }, 40 } };
    actions     = plan_step({ young, old }, {}, room);
    expect(actions.size() == 2 && actions[0].what == slot_action::SUSPEND && actions[1].what == slot_action::FAIL,
           "cells that the older one holds as well are not freed by the younger");
    room.shared.clear();
    actions = plan_step({ old }, {}, { 60, 0, UINT64_MAX, 32, {} });
    expect(actions.size() == 1 && actions[0].what == slot_action::FAIL, "what does not fit alone fails");
    young.suspended = true, young.n_cells = 0;
    room.n_free = 45;
    actions = plan_step({ young, old }, {}, room);
    expect(actions.size() == 2 && actions[1].what == slot_action::HOLD, "nobody comes back without room to spare");
    room.n_free = 60;
    actions = plan_step({ young, old }, {}, room);
    expect(actions[1].what == slot_action::RESUME && actions[1].slot == 1, "who was suspended comes back");
    room.n_affordable = 50; // of the 53 that it takes to come back
    actions = plan_step({ young, old }, { { 2, 7, 5 }, { 3, 3, 5 } }, room);
    expect(actions.size() == 3 && actions[0].what == slot_action::EVICT && actions[0].slot == 3 && actions[2].what == slot_action::RESUME,
           "no more prefixes go than it takes to come back");
    room.n_affordable = UINT64_MAX;
    room.n_free = 10;
    room.shared = { { { 2, 3 }, 50 } };
    actions = plan_step({ young, old }, { { 2, 7, 50 }, { 3, 3, 50 } }, room);
    expect(actions.size() == 4 && actions[1].what == slot_action::EVICT && actions[3].what == slot_action::RESUME,
           "cells that nobody but prefixes hold are free when all of these go");
    room.shared.clear();
    room.n_free = 60;
    room.n_affordable = 0;
    actions = plan_step({ young, old }, {}, room);
    expect(actions[1].what == slot_action::HOLD, "nobody comes back while memory is short");
    room.n_affordable = UINT64_MAX;
    young.suspended = false, young.n_cells = 40;
    young.shifts = old.shifts = true;
    room.n_whole = 1;
    actions = plan_step({ young, old }, {}, room);
    expect(actions.size() == 2 && actions[0].what == slot_action::RUN && actions[1].what == slot_action::HOLD,
           "of two whose older tokens are about to go the younger rests");
    room.n_free = 0;
    actions = plan_step({ young, old }, {}, room);
    expect(actions[0].what == slot_action::SUSPEND && actions[0].slot == 1, "and can give way");
    room.n_free = 60;
    young.suspended = true, young.n_cells = 0;
    actions = plan_step({ young, old }, {}, room);
    expect(actions[1].what == slot_action::HOLD, "and does not come back in vain");
    room.n_whole = 2;
    young.suspended = false, young.n_cells = 40;
    actions = plan_step({ young, old }, {}, room);
    expect(actions[1].what == slot_action::RUN, "until there is room for all tokens of both");
    old.replayable = false;
    old.shifts = false;
    room.n_whole = 1;
    actions = plan_step({ young, old }, {}, room);
    expect(actions[1].what == slot_action::HOLD, "beside one whose tokens are gone");
    std::swap(old.arrival, young.arrival);
    young.shifts = false;
    room.n_free = 0;
    actions = plan_step({ young, old }, {}, room);
    expect(actions[0].what == slot_action::SUSPEND && actions[0].slot == 1 && actions[1].what == slot_action::RUN,
           "which goes before one that has come earlier");
    std::swap(old.arrival, young.arrival);
    old.paused = true;
    room.n_free = 0;
    actions = plan_step({ young, old }, {}, room);
    expect(actions.size() == 2 && actions[0].what == slot_action::HOLD && actions[1].what == slot_action::HOLD,
           "nobody fails for one whose reader is slow");
    actions = give_way({ young, old }, {});
    expect(actions.size() == 1 && actions[0].what == slot_action::SUSPEND && actions[0].slot == 1, "and who finds no memory beside it comes back later");
    room.n_free = 60;
    young.shifts = true;
    actions = plan_step({ young, old }, {}, room);
    expect(actions[1].what == slot_action::HOLD, "nor do its older tokens go");
    old.stalled = true;
    actions = plan_step({ young, old }, {}, room);
    expect(actions[1].what == slot_action::RUN && actions[1].slot == 1, "until that reader has stalled");
    room.n_free = 0;
    actions = plan_step({ young, old }, {}, room);
    expect(actions[0].what == slot_action::FAIL && actions[0].slot == 0, "whose answer fails for the others");
    old.paused = old.stalled = false;
    old.swappable = young.swappable = true;
    std::swap(old.arrival, young.arrival);
    room.n_free = 0;
    actions = plan_step({ young, old }, {}, room);
    expect(actions[0].what == slot_action::SUSPEND && actions[0].slot == 0, "what can come back from a file gives way as others do");
    room.n_free = 60;
    actions = plan_step({ young, old }, {}, room);
    expect(actions[0].what == slot_action::RUN && actions[1].what == slot_action::RUN, "and nobody rests for it");
    std::swap(old.arrival, young.arrival);
    old.swappable = young.swappable = young.shifts = false;
    old.replayable = true, young.suspended = true, young.n_cells = 0;
    room.n_free = 60;
    room.n_cells = 100;
    room.n_batch = 10; // and so much stays free: 10 of 100 cells
    expect(may_begin({ 500, 0, 500 }, {}, room, 0), "one that is alone begins, whatever it needs");
    expect(may_begin({ 29, 0, 30 }, { { 60, 20, 40 } }, room, 70), "what the prompts of both will take is there");
    expect(!may_begin({ 30, 0, 30 }, { { 60, 20, 40 } }, room, 70), "no cell for the first token");
    expect(!may_begin({ 29, 0, 30 }, { { 60, 20, 40 } }, room, 69), "no memory for the prompt of the one that runs");
    expect(!may_begin({ 1, 0, 1 }, { { 5, 0, 0, true } }, room, 70), "who was suspended comes first");
    expect(may_begin({ 1, 0, 1 }, { { 90, 90, 0, true, true } }, room, 70), "but not if nobody reads it");
    expect(give_way({}, {}).empty(), "nobody gives way where nobody runs");
}

} // namespace

int main(int argc, char ** argv) {
    const uint64_t n_steps = argc > 1 ? strtoull(argv[1], nullptr, 10) : 2000000;
    fixed_cases();
    uint64_t n = 0, n_done = 0, n_failed = 0, n_suspensions = 0, n_recomputed = 0, n_computed = 0, n_adopted = 0;
    for (uint64_t seed = argc > 2 ? strtoull(argv[2], nullptr, 10) : 1; n < n_steps; ++seed) {
        seed_now = seed;
        step_now = 0;
        world sim(seed);
        for (int i = 0; i < 20000 && n < n_steps; ++i, ++n) {
            sim.step();
        }
        n_done += sim.n_done, n_failed += sim.n_failed, n_suspensions += sim.n_suspensions, n_recomputed += sim.n_recomputed, n_computed += sim.n_computed, n_adopted += sim.n_adopted;
        if (argc > 2) {
            break;
        }
    }
    expect(n_done > 0 && n_suspensions > 0 && n_adopted > 0, "the simulation does something");
    printf("%llu steps: %llu requests done, %llu failed, %llu suspensions, %llu tokens computed, %llu computed again, %llu adopted\n", (unsigned long long) n,
           (unsigned long long) n_done, (unsigned long long) n_failed, (unsigned long long) n_suspensions, (unsigned long long) n_computed,
           (unsigned long long) n_recomputed, (unsigned long long) n_adopted);
    return 0;
}
