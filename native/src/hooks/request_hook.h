// What the server core tells about a request while it runs, and what it asks. Implemented in native/src/request.cpp and
// native/src/slot_exchange.cpp.
#pragma once

#include <unordered_set>

struct llama_context;
struct server_prompt;
struct server_task;

// Called on the posting thread, after the tasks are registered as waiting and before they are queued.
void kvfold_tasks_waiting(const std::unordered_set<int> & ids);

// The others are called on the worker thread, between two decodes.

// The slot is about to run the task: what it holds of earlier ones may be replaced by a saved state. False if the KV cache
// has no room for that state; to be called again when another slot has given its cells up.
bool kvfold_slot_begins(llama_context * ctx, int id_slot, server_prompt & prompt, const server_task & task);

// The slot is done with the task and still holds all of its tokens.
void kvfold_slot_ends(llama_context * ctx, int id_slot, const server_prompt & prompt, const server_task & task);

// The slot has made one more part of a streamed answer.
void kvfold_slot_sends(const server_task & task);

// Whether to leave the slot out of the next batch, because nobody reads what it has made so far.
bool kvfold_slot_pauses(const server_task & task);
