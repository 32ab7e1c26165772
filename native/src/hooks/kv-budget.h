// Requests that wait for the memory of their keys and values. Implemented in serving. Called on the worker thread, between two
// decodes.
#ifndef KVFOLD_KV_BUDGET_H
#define KVFOLD_KV_BUDGET_H

#include <cstdint>
#include <functional>

struct llama_context;
struct server_task;

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

#endif
