// Which slots run in the next batch, which give their cells up and which get them back. The policy is serving/scheduler.cpp;
// the templates here only show it what the server core's slots hold, and do to them what it says. Called on the worker
// thread, between two decodes.
#ifndef KVFOLD_KV_SCHEDULER_H
#define KVFOLD_KV_SCHEDULER_H

#include "kv-memory.h"
#include "slot-hooks.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

struct common_speculative;
struct llama_batch;
struct llama_context;
struct server_task;
struct server_tokens;

// A slot that runs a request.
struct kvfold_slot_view {
    enum stage_t : uint8_t {
        WAITING, // for the prompt of its parent; holds nothing
        PROMPT,
        ANSWER,
    };

    int     slot     = 0;
    int     task     = 0;
    int64_t arrival  = 0; // the smaller the older; that of its parent for one of several answers
    stage_t stage    = PROMPT;
    bool    paused   = false; // nobody reads what it has made so far
    bool    replayable = true; // its cells can be computed again as they were
    bool    swappable = false; // all that belongs to its cells is in a state of them, so that they can come back from a file
    bool    shifts   = false; // once it runs its older tokens go, and it is not replayable any more
    bool    whole    = false; // its prompt goes into one batch or into none
    bool    drafts   = false;
    int     group    = 0; // slots of different groups cannot share a batch
    uint32_t n_tokens = 0; // of its prompt and answer that the slot lists as computed
    uint32_t n_prompt = 0;
};

// What a slot runs, and what its cells hold.
struct kvfold_prompt_view {
    int                   slot = 0;
    const server_task *   task = nullptr; // null: it is idle
    const server_tokens * held = nullptr;
    std::string           adapters; // that its task is computed with
    bool    plain          = false; // nothing but tokens and adapters says what its cells will hold
    bool    prompts        = false; // its prompt is not computed yet
    bool    begins         = false; // not at all: what it holds is of an earlier task
    bool    follows_parent = false; // what it holds is of an earlier task until its parent has computed their prompt
    int64_t last_used      = 0;     // before this task
    std::vector<uint32_t> checkpoints; // tokens of each that it has for prompts that depart from what it holds
};

// What is kept for a prompt that begins alike: by an idle slot, or as a sequence of its own.
struct kvfold_prefix_view {
    int      slot      = 0;
    int64_t  last_used = 0;
    uint32_t n_tokens  = 0;
};

struct kvfold_slot_action {
    enum what_t : uint8_t {
        EVICT,   // the idle slot forgets its prefix
        SUSPEND, // the slot gives its cells up, and nothing else
        FAIL,    // the request ends with the error that was sent
        BEGIN,   // the slot has the cells of the first tokens of its prompt, and no others
    } what;
    int      slot;
    uint32_t n_tokens = 0; // BEGIN
};

// Before anything else is decided: prompts that have yet to begin may begin with cells of other sequences, see
// serving/prefix_cache.h.
std::vector<kvfold_slot_action> kvfold_share_prefixes(std::vector<kvfold_prompt_view> slots);

// The slot's prompt begins when another slot has computed what both have in common.
bool kvfold_slot_follows(int id_slot);

// Decides on everything but the actions it returns, which are to be done in this order.
std::vector<kvfold_slot_action> kvfold_plan_slots(
        llama_context * ctx,
        llama_context * ctx_dft,
        const std::vector<kvfold_slot_view> & slots,
        const std::vector<kvfold_prefix_view> & prefixes);

// After a batch for which there were no cells, or no memory: what makes room.
std::vector<kvfold_slot_action> kvfold_give_way(
        llama_context * ctx,
        const std::vector<kvfold_slot_view> & slots,
        const std::vector<kvfold_prefix_view> & prefixes);

// Until no copy of what a slot held is waited for: makes one, or tells who gives way to it.
bool kvfold_copies_wait();
std::vector<kvfold_slot_action> kvfold_make_copy(llama_context * ctx, const std::vector<kvfold_slot_view> & slots);

// The slot has no part in the next batch.
bool kvfold_slot_rests(int id_slot);

// Of `n_tokens` that are computed already, how many more tokens of its prompt a slot may put into the next batch: at most
// `share`, and not beyond a position at which every prompt is cut whatever else runs. Not for a text that is pooled as a whole.
int32_t kvfold_prompt_tokens(llama_context * ctx, int id_slot, int32_t n_tokens, int32_t share);

// How many tokens may be drafted behind the next one of a slot that has `n_tokens`: at most `n_most`, and none beyond a position at
// which an answer loses tokens, so that those which are there are accepted ones.
int kvfold_drafted_tokens(llama_context * ctx, int n_tokens, int n_most);

// A draft model could not compute the batch, so that it forgets what it has of the sequences in there, whose drafts will be worse until
// their next prompts. False if there is none.
bool kvfold_draft_forgets(llama_context * ctx_dft, const llama_batch & batch);

// The slot's cells are about to go, and come back from a file or token by token; `n_tokens` of them are listed. False if they cannot:
// they would have to come from a file, which could not be written.
bool kvfold_slot_suspended(llama_context * ctx, int id_slot, uint32_t n_tokens, bool replayable);

// The slot whose turn it is to be computed again, or -1.
int kvfold_slot_to_replay();

// Computes the next of its tokens, or reads them all. As llama_decode(): 0, 1 for want of cells or memory, or an error.
int kvfold_replay(
        llama_context * ctx, common_speculative * spec, int id_slot, const server_tokens & tokens, uint32_t n_prompt, bool replayable);

// Microseconds that the slot was without its cells, if it has all of them back since the last call; else 0.
int64_t kvfold_slot_resumed(int id_slot);

// The tokens of the slot's answer are about to become fewer; what is drafted from their history begins anew.
void kvfold_history_shrinks(common_speculative * spec, int id_slot);

// The slot is released. True if it does not hold what it lists.
bool kvfold_slot_forgets(int id_slot);

// Ends the request with an error, given what llama_decode() returned: for want of room, 1, or because it could not compute.
void kvfold_slot_fails(llama_context * ctx, int id_task, int ret);

// Before the next batch in which it runs the server core drops tokens of its answer, or ends it.
template <typename slot_t>
bool kvfold_is_shifted_next(const slot_t & slot) {
    return slot.state == decltype(slot_t::state)::SLOT_STATE_GENERATING && slot.prompt.n_tokens() + 1 >= slot.n_ctx;
}

// Whether its cells can be computed again as they were. A prompt is begun again by the server core itself.
template <typename slot_t>
bool kvfold_is_replayable(const slot_t & slot) {
    return slot.state != decltype(slot_t::state)::SLOT_STATE_GENERATING ||
        (!slot.truncated && !slot.spec_is_replay && !slot.prompt.tokens.has_mtmd && slot.inp_embd.empty() &&
         slot.alora_invocation_start < 0 && !slot.task->params.sampling.backend_sampling);
}

template <typename slots_t>
std::vector<kvfold_slot_view> kvfold_view_slots(slots_t & slots) {
    using state = decltype(slots_t::value_type::state);
    std::vector<kvfold_slot_view> views;
    for (auto & slot : slots) {
        if (!slot.is_processing()) {
            continue;
        }
        kvfold_slot_view view;
        view.slot    = slot.id;
        view.task    = slot.task->id;
        view.arrival = slot.task->is_child() ? slot.task->id_parent : slot.task->id;
        view.stage   = slot.state == state::SLOT_STATE_WAIT_OTHER || kvfold_slot_follows(slot.id) ? kvfold_slot_view::WAITING
                     : slot.state == state::SLOT_STATE_GENERATING ? kvfold_slot_view::ANSWER : kvfold_slot_view::PROMPT;
        view.paused   = view.stage == kvfold_slot_view::ANSWER && kvfold_slot_pauses(*slot.task);
        view.whole    = !slot.can_split();
        view.drafts   = slot.can_speculate();
        view.n_tokens = (uint32_t) slot.prompt.n_tokens();
        view.n_prompt = (uint32_t) slot.task->n_tokens();
        view.replayable = kvfold_is_replayable(slot);
        view.swappable = view.stage == kvfold_slot_view::ANSWER && !slot.spec_is_replay && slot.inp_embd.empty() && !slot.ctx_dft &&
            !slot.prompt.tokens.has_mtmd && !slot.task->params.sampling.backend_sampling;
        view.shifts = kvfold_is_shifted_next(slot);
        for (auto & other : slots) {
            if (other.is_processing() && slot.can_batch_with(other)) {
                view.group = other.id;
                break;
            }
        }
        views.push_back(view);
    }
    return views;
}

template <typename slots_t>
std::vector<kvfold_prefix_view> kvfold_view_prefixes(const slots_t & slots) {
    std::vector<kvfold_prefix_view> views;
    for (const auto & slot : slots) {
        if (!slot.is_processing() && slot.prompt.n_tokens() > 0 && !kvfold_slot_awaits_copy(slot.id)) {
            views.push_back({ slot.id, slot.t_last_used, (uint32_t) slot.prompt.n_tokens() });
        }
    }
    return views;
}

// Everything but the slot's cells stays: its sampler, its text, its place. False if nothing has changed, see kvfold_slot_suspended().
template <typename slot_t>
bool kvfold_suspend(slot_t & slot) {
    const bool answers = slot.state == decltype(slot_t::state)::SLOT_STATE_GENERATING;
    if (!kvfold_slot_suspended(slot.ctx_tgt, slot.id, answers ? (uint32_t) slot.prompt.n_tokens() : 0, kvfold_is_replayable(slot))) {
        return false;
    }
    slot.mem.seq_rm(slot.id, -1, -1);
    slot.prompt.checkpoints.clear();
    slot.i_batch = -1;
    slot.spec_draft.clear();
    slot.spec_i_batch.clear();
    slot.spec_ckpt.clear();
    if (!answers) {
        slot.prompt.tokens.clear();
        slot.stats.n_prompt_processed = 0;
        slot.stats.n_prompt_cached    = 0;
    }
    return true;
}

// One of several answers was given copies of the cells of their prompt. If there was no memory for them it computes the prompt itself.
template <typename slot_t>
void kvfold_child_begins(slot_t & slot) {
    if (!kvfold_has_cells(slot.ctx_tgt, slot.id) || (slot.ctx_dft && !kvfold_has_cells(slot.ctx_dft, slot.id))) {
        kvfold_suspend(slot);
        slot.stats = { }; // its parent's
        slot.state = decltype(slot_t::state)::SLOT_STATE_STARTED;
    }
}

template <typename slot_t>
void kvfold_fail(slot_t & slot, int ret) {
    kvfold_slot_fails(slot.ctx_tgt, slot.task->id, ret);
    slot.release();
    slot.prompt_clear();
}

template <typename slot_t>
void kvfold_begin(slot_t & slot, uint32_t n_tokens) {
    slot.prompt.clear();
    slot.prompt.tokens = slot.task->tokens.clone();
    slot.prompt.tokens.keep_first(n_tokens);
    slot.stats.n_prompt_cached = n_tokens; // which is set again where it has not begun
}

template <typename slots_t>
void kvfold_apply(slots_t & slots, const std::vector<kvfold_slot_action> & actions) {
    for (const auto & action : actions) {
        auto & slot = slots[action.slot];
        switch (action.what) {
            case kvfold_slot_action::EVICT:
                slot.prompt_clear();
                break;
            case kvfold_slot_action::SUSPEND:
                if (!kvfold_suspend(slot)) {
                    kvfold_fail(slot, 1);
                }
                break;
            case kvfold_slot_action::FAIL:
                kvfold_fail(slot, 1);
                break;
            case kvfold_slot_action::BEGIN:
                kvfold_begin(slot, action.n_tokens);
                break;
        }
    }
}

template <typename slots_t>
void kvfold_make_copies(slots_t & slots) {
    while (kvfold_copies_wait()) {
        kvfold_apply(slots, kvfold_make_copy(slots.front().ctx_tgt, kvfold_view_slots(slots)));
    }
}

// Which adapters, and how strong.
template <typename adapters_t>
std::string kvfold_name_adapters(const adapters_t & adapters) {
    std::string name;
    for (const auto & each : adapters) {
        name.append((const char *) &each.ptr, sizeof(each.ptr)).append((const char *) &each.scale, sizeof(each.scale));
    }
    return name;
}

template <typename slots_t>
std::vector<kvfold_prompt_view> kvfold_view_prompts(const slots_t & slots) {
    using state = decltype(slots_t::value_type::state);
    std::vector<kvfold_prompt_view> views;
    for (const auto & slot : slots) {
        kvfold_prompt_view view;
        view.slot      = slot.id;
        view.held      = &slot.prompt.tokens;
        view.last_used = slot.t_last_used;
        if (slot.is_processing()) {
            view.task           = slot.task.get();
            view.adapters       = kvfold_name_adapters(slot.lora);
            view.plain          = slot.alora_invocation_start < 0 && slot.inp_embd.empty() && !slot.ctx_dft; // which holds more than cells
            view.prompts        = slot.state == state::SLOT_STATE_STARTED || slot.state == state::SLOT_STATE_PROCESSING_PROMPT;
            view.begins         = slot.state == state::SLOT_STATE_STARTED || (view.prompts && slot.prompt.tokens.empty());
            view.follows_parent = slot.state == state::SLOT_STATE_WAIT_OTHER;
            for (const auto & each : slot.prompt.checkpoints) {
                view.checkpoints.push_back((uint32_t) each.n_tokens);
            }
        }
        views.push_back(std::move(view));
    }
    return views;
}

// Before the next batch is made.
template <typename slots_t>
void kvfold_plan_step(slots_t & slots, common_speculative * spec, const std::function<void(std::function<void()> &&)> & yield) {
    auto * const ctx = slots.front().ctx_tgt;
    kvfold_make_copies(slots);
    kvfold_apply(slots, kvfold_share_prefixes(kvfold_view_prompts(slots)));
    kvfold_apply(slots, kvfold_plan_slots(ctx, slots.front().ctx_dft, kvfold_view_slots(slots), kvfold_view_prefixes(slots)));
    for (const auto & slot : slots) {
        if (kvfold_is_shifted_next(slot) && !kvfold_slot_rests(slot.id)) {
            kvfold_history_shrinks(spec, slot.id);
        }
    }
    const int id_slot = kvfold_slot_to_replay();
    if (id_slot < 0) {
        return;
    }
    auto & slot = slots[id_slot];
    int    ret  = 0;
    common_set_adapter_lora(ctx, slot.lora);
    yield([&] {
        ret = kvfold_replay(ctx, spec, id_slot, slot.prompt.tokens, (uint32_t) slot.task->n_tokens(), kvfold_is_replayable(slot));
    });
    if (ret == 1) {
        kvfold_suspend(slot);
        kvfold_apply(slots, kvfold_give_way(ctx, kvfold_view_slots(slots), kvfold_view_prefixes(slots)));
    } else if (ret != 0) {
        kvfold_fail(slot, ret);
    } else if (const int64_t gone = kvfold_slot_resumed(id_slot)) {
        slot.stats.t_start       += gone;
        slot.stats.t_prompt_last += gone;
    }
}

// What the failed part of a batch had taken from the slots is theirs again, and somebody makes room.
template <typename slots_t, typename batch_t>
void kvfold_step_back(slots_t & slots, batch_t & batch, int32_t off) {
    using state = decltype(slots_t::value_type::state);
    for (auto & slot : slots) {
        size_t n_taken = 0;
        for (size_t i = off; i < batch.tokens.size(); ++i) {
            n_taken += batch.tokens[i].id_slot == slot.id;
        }
        if (n_taken == 0) {
            continue;
        }
        slot.prompt.tokens.keep_first(slot.prompt.n_tokens() - n_taken);
        slot.i_batch = -1;
        slot.spec_i_batch.clear();
        if (!slot.spec_is_replay) {
            slot.spec_draft.clear();
        }
        if (slot.state == state::SLOT_STATE_DONE_PROMPT) {
            slot.state = state::SLOT_STATE_PROCESSING_PROMPT;
        }
    }
    batch.tokens.resize(off);
    if (batch.has_embd) {
        batch.embd.resize((size_t) off*batch.n_embd);
    }
    kvfold_apply(slots, kvfold_give_way(slots.front().ctx_tgt, kvfold_view_slots(slots), kvfold_view_prefixes(slots)));
}

#endif
