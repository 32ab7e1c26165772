// What the server core tells about a slot while it runs a request, and what it asks. Implemented in serving. Called on the
// worker thread, between two decodes.
#ifndef KVFOLD_SLOT_HOOKS_H
#define KVFOLD_SLOT_HOOKS_H

#include <cstdint>
#include <vector>

struct llama_context;
struct server_prompt;
struct server_task;

// The slot is about to run the task: what it holds of earlier ones may be replaced by a saved state. False if the KV cache
// has no room, for the task or for that state; to be called again when an idle slot has given its cells up.
bool kvfold_slot_begins(llama_context * ctx, int id_slot, server_prompt & prompt, const server_task & task);

// There is no more that could give way: it begins without the state.
void kvfold_slot_begins_anew(const server_task & task);

// The slot is done with the task and still holds all of its tokens.
void kvfold_slot_ends(llama_context * ctx, int id_slot, const server_prompt & prompt, const server_task & task);

// What the idle slot held is still to be copied, when others have made room for that.
bool kvfold_slot_awaits_copy(int id_slot);

// Makes that room, and the copies. In kv-scheduler.h.
template <typename slots_t> void kvfold_make_copies(slots_t & slots);

// What of the tokens that a slot holds a new prompt of `n_tokens` can begin with: nothing, if lazy layers were decided on, or
// tokens evicted, by what it does not share. `n_past` tokens agree, the next position is `pos_next`.
void kvfold_keep_prefix(llama_context * ctx, int id_slot, server_prompt & prompt, int n_tokens, int & n_past, int32_t & pos_next);

// Whether something is gone of what a token at `pos_next` sees of the slot's cells, so that a checkpoint is needed to go on there.
// True of every memory that is llama.cpp's own, which knows better.
bool kvfold_window_is_gone(llama_context * ctx, int id_slot, int32_t pos_next);

// The slot has made one more part of a streamed answer.
void kvfold_slot_sends(const server_task & task);

// Whether to leave the slot out of the next batch, because nobody reads what it has made so far.
bool kvfold_slot_pauses(const server_task & task);

// Clears the idle slot whose tokens have not been asked for the longest, `last` only when no other holds any. False if
// there is none to clear.
template <typename server_slot>
bool kvfold_clear_idle_slot(std::vector<server_slot> & slots, const server_slot & last) {
    server_slot * oldest = nullptr;
    for (server_slot & slot : slots) {
        if (slot.is_processing() || slot.prompt.n_tokens() == 0 || kvfold_slot_awaits_copy(slot.id)) {
            continue;
        }
        if (!oldest || oldest == &last || (&slot != &last && slot.t_last_used < oldest->t_last_used)) {
            oldest = &slot;
        }
    }
    if (oldest) {
        oldest->prompt_clear();
    }
    return oldest != nullptr;
}

template <typename server_slot>
void kvfold_launch(std::vector<server_slot> & slots, server_slot & slot, const server_task & task) {
    kvfold_make_copies(slots);
    while (!kvfold_slot_begins(slot.ctx_tgt, slot.id, slot.prompt, task)) {
        if (!kvfold_clear_idle_slot(slots, slot)) {
            kvfold_slot_begins_anew(task);
            return;
        }
    }
}

#endif
