#include "serving/scheduler.h"

#include <algorithm>
#include <map>

namespace kvfold {

bool came_before(const slot_view & a, const slot_view & b) {
    return a.arrival != b.arrival ? a.arrival < b.arrival : a.task < b.task;
}

namespace {

// Who cannot give way is as the oldest.
bool goes_first(const slot_view & a, const slot_view & b) {
    const auto stays = [](const slot_view & slot) { return !slot.gives_way() && slot.n_cells > 0; };
    return stays(a) != stays(b) ? stays(a) : came_before(a, b);
}

// Cells that a slot needs before it has made its next token.
uint64_t cells_ahead(const slot_view & slot) {
    const uint64_t n_listed = slot.stage == slot_view::ANSWER ? slot.n_tokens : slot.n_prompt;
    const uint64_t n_left   = n_listed - std::min<uint64_t>(n_listed, (uint64_t) slot.n_cells + slot.n_gone);
    return std::min<uint64_t>(n_left, slot.n_peak - std::min(slot.n_peak, slot.n_cells)) + slot.n_step;
}

class planner {
public:
    planner(const std::vector<slot_view> & slots, const std::vector<prefix_view> & prefixes, const cell_room & room)
        : prefixes(prefixes), room(room), shared(room.shared), n_free(room.n_free), n_affordable(room.n_affordable) {
        for (const slot_view & slot : slots) {
            by_age.push_back({ slot });
        }
        std::sort(by_age.begin(), by_age.end(), [](const seat & a, const seat & b) { return goes_first(a.slot, b.slot); });
        std::sort(this->prefixes.begin(), this->prefixes.end(), [](const prefix_view & a, const prefix_view & b) {
            return a.last_used != b.last_used ? a.last_used > b.last_used : a.slot > b.slot; // the next to go is the last
        });
    }

    std::vector<slot_action> plan() {
        run_answers();
        run_prompts();
        resume();
        take_turns();
        for (const seat & each : by_age) {
            switch (each.state) {
                case seat::RUNS:    actions.push_back({ slot_action::RUN,    each.slot.slot, each.n_tokens }); break;
                case seat::RESUMES: actions.push_back({ slot_action::RESUME, each.slot.slot, each.n_tokens }); break;
                case seat::HELD:    actions.push_back({ slot_action::HOLD,   each.slot.slot }); break;
                case seat::GONE:    break;
            }
        }
        return std::move(actions);
    }

    std::vector<slot_action> one_that_gives_way() {
        seat * const first = oldest();
        if (!first || make_room(first, true)) {
            return std::move(actions);
        }
        if (first->slot.gives_way() && first->holds() && waits_for_reader()) {
            suspend(*first);
        } else if (!fail_one_in_the_way(first)) {
            fail(*first); // it has all there is
        }
        return std::move(actions);
    }

private:
    struct seat {
        enum state_t { HELD, RUNS, RESUMES, GONE };

        slot_view slot;
        state_t   state    = HELD;
        uint32_t  n_tokens = 0; // that it may compute
        uint32_t  n_taken  = 0; // cells that are set aside for that

        bool competes() const { return state != GONE && !slot.paused && slot.stage != slot_view::WAITING; }
        bool holds()    const { return state != GONE && slot.n_cells > 0; }
        bool is_away()  const { return slot.suspended && !slot.resuming; }

        // Its cells are there until its reader goes on.
        bool keeps_others_waiting() const { return holds() && !slot.gives_way() && slot.paused && !slot.stalled; }
    };

    // Of those that somebody reads; null if there is none.
    seat * oldest() {
        for (seat & each : by_age) {
            if (each.competes()) {
                return &each;
            }
        }
        return nullptr;
    }

    bool waits_for_reader() const {
        return std::any_of(by_age.begin(), by_age.end(), [](const seat & each) { return each.keeps_others_waiting(); });
    }

    // Whether older tokens of its answer may go: beside all whose cells cannot be computed again there is room for the oldest.
    bool may_shift(const seat & who) {
        const auto         at    = std::find_if(by_age.begin(), by_age.end(), [](const seat & each) { return each.competes() || each.keeps_others_waiting(); });
        const seat * const first = at == by_age.end() ? nullptr : &*at;
        uint64_t           n     = 1;
        for (const seat & each : by_age) {
            const bool stays = each.holds() && !each.slot.gives_way();
            n += &each != &who && (stays || &each == first);
        }
        return &who == first || who.slot.swappable || n <= room.n_whole;
    }

    // Of the cells that it holds, those that nobody else does.
    uint64_t n_freed_by(int holder, uint64_t n_cells) const {
        for (const shared_cells & each : shared) {
            if (each.holders.size() > 1 && std::count(each.holders.begin(), each.holders.end(), holder) > 0) {
                n_cells -= each.n_cells;
            }
        }
        return n_cells;
    }

    // That nobody holds but prefixes.
    uint64_t n_idle_cells() const {
        uint64_t n = 0;
        for (const prefix_view & each : prefixes) {
            n += each.n_cells;
        }
        for (const shared_cells & each : shared) {
            const uint64_t n_idle = std::count_if(prefixes.begin(), prefixes.end(), [&](const prefix_view & prefix) {
                return std::count(each.holders.begin(), each.holders.end(), prefix.slot) > 0;
            });
            n -= n_idle*each.n_cells;
            n += n_idle > 0 && n_idle == each.holders.size() ? each.n_cells : 0;
        }
        return n;
    }

    uint64_t give_up(int holder, uint64_t n_cells) {
        const uint64_t freed = n_freed_by(holder, n_cells);
        for (shared_cells & each : shared) {
            each.holders.erase(std::remove(each.holders.begin(), each.holders.end(), holder), each.holders.end());
        }
        return freed;
    }

    // For `whom`, or anybody where that is null: frees some cells, if somebody is to give way.
    bool make_room(const seat * whom, bool may_suspend) {
        if (!prefixes.empty()) {
            const auto           frees = [&](const prefix_view & each) { return n_freed_by(each.slot, each.n_cells) > 0; };
            const auto           found = std::find_if(prefixes.rbegin(), prefixes.rend(), frees);
            const auto           at    = found == prefixes.rend() ? std::prev(prefixes.end()) : std::prev(found.base());
            const uint64_t       freed = give_up(at->slot, at->n_cells);
            n_free += freed;
            n_affordable += std::min(freed, UINT64_MAX - n_affordable);
            actions.push_back({ slot_action::EVICT, at->slot });
            prefixes.erase(at);
            return true;
        }
        seat * victim = may_suspend ? find_victim(whom) : nullptr;
        if (!victim) {
            return false;
        }
        suspend(*victim);
        return true;
    }

    void suspend(seat & whom) {
        n_free += give_up(whom.slot.slot, whom.slot.n_cells);
        n_free += whom.n_taken;
        whom.n_taken = 0;
        actions.push_back({ slot_action::SUSPEND, whom.slot.slot });
        whom.state          = seat::GONE;
        whom.slot.suspended = true;
        whom.slot.n_cells   = 0;
    }

    seat * find_victim(const seat * whom) {
        const seat * first = oldest();
        for (const bool paused : { true, false }) {
            for (auto each = by_age.rbegin(); each != by_age.rend(); ++each) {
                const bool younger = !whom || goes_first(whom->slot, each->slot);
                if (each->slot.paused == paused && each->holds() && each->slot.gives_way() && &*each != whom && &*each != first && (paused || younger)) {
                    return &*each;
                }
            }
        }
        return nullptr;
    }

    // Nobody can give way any more, so it is the turn of the youngest whose cells cannot be computed again, and before it of one whose
    // reader has stalled. False if there is none.
    bool fail_one_in_the_way(const seat * whom) {
        for (const bool stalled : { true, false }) {
            for (auto each = by_age.rbegin(); each != by_age.rend(); ++each) {
                if (each->holds() && &*each != whom && each->slot.stalled == stalled) {
                    fail(*each);
                    return true;
                }
            }
        }
        return false;
    }

    void fail(seat & whom) {
        n_free += give_up(whom.slot.slot, whom.slot.n_cells);
        actions.push_back({ slot_action::FAIL, whom.slot.slot });
        whom.state        = seat::GONE;
        whom.slot.n_cells = 0;
    }

    // Each answer has its next token, the oldest first; who finds no cells waits.
    void run_answers() {
        for (seat & each : by_age) {
            const bool waits = each.slot.shifts && !may_shift(each);
            if (each.slot.stage == slot_view::ANSWER && !each.slot.suspended && each.competes() && !waits) {
                while (n_free < each.slot.n_step && make_room(&each, true)) {}
                const bool first = &each == oldest() && !waits_for_reader();
                while (first && n_free < each.slot.n_step && fail_one_in_the_way(&each)) {}
                if (n_free >= each.slot.n_step) {
                    run(each, seat::RUNS, each.slot.n_step);
                } else if (first) {
                    fail(each);
                }
            }
        }
    }

    // What is left goes to prompts, and to what is being computed again, the oldest first.
    void run_prompts() {
        for (seat & each : by_age) {
            const bool computes = each.slot.stage == slot_view::PROMPT ? !each.slot.suspended || each.slot.resuming : each.slot.resuming;
            if (!computes || !each.competes()) {
                continue;
            }
            const uint64_t left  = std::max<uint64_t>(1, cells_ahead(each.slot) - each.slot.n_step);
            const uint64_t least = each.slot.whole ? left : 1;
            const bool     first = &each == oldest();
            while (n_free < (first ? std::min<uint64_t>(left, room.n_batch) : least) && make_room(&each, first)) {}
            const bool fails = first && !waits_for_reader();
            while (fails && n_free < least && fail_one_in_the_way(&each)) {}
            if (n_free >= least) {
                // a prompt that has not begun holds what an earlier one left, and may need more than it seems
                const uint32_t most = (uint32_t) std::min<uint64_t>(n_free, std::max<uint64_t>(room.n_batch, least));
                run(each, each.slot.resuming ? seat::RESUMES : seat::RUNS, (uint32_t) std::min<uint64_t>(left, most));
                each.n_tokens = most;
            } else if (fails) {
                fail(each);
            }
        }
    }

    void run(seat & who, seat::state_t how, uint32_t n_tokens) {
        who.state    = how;
        who.n_tokens = n_tokens;
        who.n_taken  = n_tokens;
        n_free      -= n_tokens;
    }

    // One at a time, the oldest first: when there is room for all of it and some to spare, or when nobody else runs, or will.
    void resume() {
        uint64_t n_coming = 0; // that those who run have yet to take before they have made a token
        bool     any_runs = waits_for_reader();
        for (const seat & each : by_age) {
            if (each.state == seat::RUNS || each.state == seat::RESUMES) {
                any_runs = true;
                n_coming += cells_ahead(each.slot) - std::min<uint64_t>(cells_ahead(each.slot), each.n_taken);
            }
            if (each.state == seat::RESUMES) {
                return;
            }
        }
        for (seat & each : by_age) {
            if (!each.is_away() || !each.competes() || (each.slot.shifts && !may_shift(each))) {
                continue;
            }
            const uint64_t needed = cells_ahead(each.slot);
            if (any_runs) {
                const uint64_t ample = needed + watermark(room) + n_coming;
                const uint64_t n_idle = n_idle_cells();
                if (n_free + n_idle < ample || (n_affordable < ample && n_affordable + n_idle < ample)) {
                    return;
                }
                while (n_free < ample || n_affordable < ample) {
                    if (!make_room(&each, false)) {
                        break;
                    }
                }
            } else {
                while (n_free < needed && make_room(&each, true)) {}
                while (n_free < needed && fail_one_in_the_way(&each)) {}
                if (n_free < needed) {
                    fail(each);
                    continue;
                }
            }
            if (n_free >= needed) {
                const uint64_t most = each.slot.swapped ? needed : std::max(room.n_batch, 1u);
                run(each, seat::RESUMES, (uint32_t) std::min(needed, most));
                return;
            }
        }
    }

    // Slots of different groups cannot share a batch: the group that has waited longest has this one.
    void take_turns() {
        const seat * next = nullptr;
        for (const seat & each : by_age) {
            if (each.state == seat::RUNS && (!next || each.slot.last_run < next->slot.last_run)) {
                next = &each;
            }
        }
        for (seat & each : by_age) {
            if (next && each.state == seat::RUNS && each.slot.group != next->slot.group) {
                each.state = seat::HELD;
            }
        }
    }

    std::vector<seat>        by_age;
    std::vector<prefix_view> prefixes;
    const cell_room &        room;
    std::vector<shared_cells> shared;
    uint64_t                 n_free;
    uint64_t                 n_affordable;
    std::vector<slot_action> actions;
};

} // namespace

uint64_t watermark(const cell_room & room) {
    return std::min<uint64_t>(std::max<uint64_t>(room.n_batch, room.n_cells/20), room.n_cells/8);
}

bool may_begin(const runner & one, const std::vector<runner> & others, const cell_room & room, uint64_t bytes) {
    uint64_t n_taken = one.n_prompt + 1, bytes_coming = one.bytes_coming;
    bool     any_runs = false;
    for (const runner & each : others) {
        if (each.suspended && !each.paused) {
            return false; // it comes first
        }
        if (!each.paused) {
            any_runs      = true;
            n_taken      += std::max(each.n_cells, each.n_prompt);
            bytes_coming += each.bytes_coming;
        }
    }
    return !any_runs || (n_taken + watermark(room) <= room.n_cells && bytes_coming <= bytes);
}

std::vector<slot_action> plan_step(const std::vector<slot_view> & slots, const std::vector<prefix_view> & prefixes, const cell_room & room) {
    return planner(slots, prefixes, room).plan();
}

std::vector<slot_action> give_way(const std::vector<slot_view> & slots, const std::vector<prefix_view> & prefixes) {
    const cell_room none;
    return planner(slots, prefixes, none).one_that_gives_way();
}

} // namespace kvfold
