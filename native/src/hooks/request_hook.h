// What the server core tells about a request while it runs, and what it asks. Implemented in native/src/request.cpp,
// native/src/slot_exchange.cpp and native/src/kv_budget.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <unordered_set>
#include <vector>

struct llama_context;
struct server_prompt;
struct server_task;

// Called on the posting thread, after the tasks are registered as waiting and before they are queued.
void kvfold_tasks_waiting(const std::unordered_set<int> & ids);

// The others are called on the worker thread, between two decodes.

// A task has come that needs a slot. True if it is to wait, or has been refused: it was taken, and comes again when the
// memory for its keys and values is set aside.
bool kvfold_task_waits(llama_context * ctx, server_task & task);

// The task is cancelled, or could not be launched.
void kvfold_task_gone(int id_task);

// Tokens that the answer may have now that it has n_generated, -1 for any number; given what the request says. `make_room`
// clears what an idle slot keeps, and is false when none keeps anything.
int32_t kvfold_answer_limit(
        llama_context * ctx,
        const server_task & task,
        int32_t limit,
        int64_t n_generated,
        const std::function<bool()> & make_room);

// The slot is about to run the task: what it holds of earlier ones may be replaced by a saved state. False if the KV cache
// has no room, for the task or for that state; to be called again when an idle slot has given its cells up.
bool kvfold_slot_begins(llama_context * ctx, int id_slot, server_prompt & prompt, const server_task & task);

// The slot is done with the task and still holds all of its tokens.
void kvfold_slot_ends(llama_context * ctx, int id_slot, const server_prompt & prompt, const server_task & task);

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
        if (slot.is_processing() || slot.prompt.n_tokens() == 0) {
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
