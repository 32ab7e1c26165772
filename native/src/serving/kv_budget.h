// Which requests may begin: those whose keys and values fit a budget in bytes, with everything that was promised to others.
//
// A request is promised the memory of its prompt and of the longest answer that it asks for, before it gets a slot, and
// waits in order of arrival until that is free. So nothing that runs has to end for what comes later. What idle slots keep
// of earlier requests is promised to nobody and is cleared when it is in the way.
#pragma once

#include "process/error.h"
#include "kv/memory/layout.h"

#include "server-task.h"

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <vector>

struct llama_context;

namespace kvfold {

struct kv_budget {
    struct limits {
        uint64_t bytes     = 0; // 0: no budget, nothing waits
        size_t   slots     = 1;
        size_t   max_queue = 0; // requests that may wait
        int32_t  n_slot    = 0; // tokens that a slot holds
        int32_t  n_predict = -1; // tokens of an answer where a request does not say; -1: any number
    };

    // What the budget does through the server core, on the worker thread.
    struct actions {
        std::function<void(std::vector<server_task> &&)>              post;   // to run before what came later
        std::function<void(int id_task, const error & why)>           refuse;
        std::function<const void *(int id_task)>                      request_of; // null if it is gone
    };

    // Throws KVFOLD_ERROR_INVALID_ARGUMENT or KVFOLD_ERROR_UNSUPPORTED where no such budget can be kept.
    kv_budget(const limits & limits, const kv_layout & layout, actions actions);

    bool is_set() const { return bytes_limit > 0; }

    // ---- on the worker thread, between two decodes; see hooks/kv-budget.h

    bool    waits(server_task & task);
    void    gone(int id_task);
    int32_t answer_limit(const server_task & task, int32_t limit, int64_t n_generated, const std::function<bool()> & make_room);

    // Whether a slot can begin a task that was promised its memory, holding n_first tokens before it computes any; false
    // as long as idle slots are in the way. Nothing if it cannot, however many of them are cleared.
    std::optional<bool> begins(int id_slot, int id_task, uint64_t n_first);

    // ---- on any thread

    uint64_t bytes() const { return bytes_limit; }
    uint64_t bytes_promised() const { return promised; }
    uint64_t bytes_promised(int id_slot) const { return is_set() ? promised_to_slot[id_slot].load() : 0; }

    // Requests that wait for memory.
    size_t n_waiting() const { return waiting_requests; }

  private:
    struct promise {
        uint64_t bytes   = 0;
        int32_t  tokens  = 0;
        uint64_t n_prompt = 0; // of these; 0 where the layers of a task are not decided on
        bool     grows   = false; // the request sets no limit
        int      id_slot = -1;    // none yet
    };

    promise  promise_for(const server_task & task) const;
    bool     is_free(uint64_t bytes) const { return promised + bytes <= bytes_limit; }
    void     grant(int id_task, const promise & what);
    void     admit_waiting();
    void     count_waiting();
    uint64_t bytes_held_by_idle(int id_slot) const;
    uint64_t bytes_running(int except_task) const;

    const limits      rules;
    const kv_layout & layout;
    const actions     server;
    uint64_t          bytes_limit;
    int32_t           share = 0; // tokens by which an answer without a limit grows

    std::map<int, promise>  promises; // by task
    std::deque<server_task> waiting;

    std::atomic<uint64_t>              promised{ 0 };
    std::vector<std::atomic<uint64_t>> promised_to_slot;
    std::atomic<size_t>                waiting_requests{ 0 };
};

// While one lives, the hooks that run on this thread, a worker, ask this budget.
struct budget_scope {
    explicit budget_scope(kv_budget & budget);
    ~budget_scope();
    budget_scope(const budget_scope &)             = delete;
    budget_scope & operator=(const budget_scope &) = delete;
};

// That of this thread, or null.
kv_budget * budget_of_worker();

} // namespace kvfold
