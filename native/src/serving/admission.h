// Which requests may begin, in order of arrival.
//
// Ordinarily one begins when there is a slot, room in the KV cache for its prompt, and nobody who was suspended waits to come
// back (see scheduler.h). With "admission" set to "reserve" it waits until the memory of its prompt and of the longest answer
// that it asks for can be set aside from "kv-budget", so that nothing that runs is ever suspended.
//
// A request that could not run alone is refused at once, with both numbers.
#pragma once

#include "kv/memory/layout.h"
#include "process/error.h"

#include "server-task.h"

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <vector>

struct llama_context;

namespace kvfold {

struct admission {
    struct limits {
        uint64_t bytes     = 0; // that keys and values may take; 0: any number
        bool     reserve   = false;
        size_t   slots     = 1;
        size_t   max_queue = 0; // requests that may wait
        int32_t  n_slot    = 0; // tokens that a slot holds
        int32_t  n_predict = -1; // tokens of an answer where a request does not say; -1: any number
    };

    // What is done through the server core, on the worker thread.
    struct actions {
        std::function<void(std::vector<server_task> &&)>              post;   // to run before what came later
        std::function<void(int id_task, const error & why)>           refuse;
        std::function<const void *(int id_task)>                      request_of; // null if it is gone
        // for so many tokens of a prompt, beside tasks that were let in before, by id with those of their prompts
        std::function<bool(uint64_t n_prompt, const std::map<int, uint32_t> & granted)> has_room;
        std::function<std::string(const server_task &)>               likeness_of; // of what it may share; none: nothing
        // whether what the task has computed of its prompt, or will, can be so many tokens of another one
        std::function<bool(int id_task, size_t n_tokens)>             lends;
        // tokens of the saved state that it begins with, 0 if there is none. Nothing: it waits for memory of that, somebody else being read;
        // throws an error if it cannot begin without
        std::function<std::optional<size_t>(const server_task &, bool alone)> state_of;
    };

    // Throws KVFOLD_ERROR_INVALID_ARGUMENT or KVFOLD_ERROR_UNSUPPORTED where no such budget can be kept.
    admission(const limits & limits, const kv_layout & layout, actions actions);

    // Memory is set aside for each request.
    bool reserves() const { return rules.reserve && bytes_limit > 0; }

    // ---- on the worker thread, between two decodes; see hooks/kv-budget.h

    bool    waits(server_task & task);
    void    gone(int id_task);
    int32_t answer_limit(const server_task & task, int32_t limit, int64_t n_generated, const std::function<bool()> & make_room);

    // Whether a slot can begin a task that was promised its memory, holding n_first tokens before it computes any; false
    // as long as idle slots are in the way. Nothing if it cannot, however many of them are cleared.
    std::optional<bool> begins(int id_slot, int id_task, uint64_t n_first);

    // Lets those begin for whom there is room now.
    void admit_waiting();

    void refuse(int id_task, const error & why) { server.refuse(id_task, why); }

    // ---- on any thread

    uint64_t bytes() const { return bytes_limit; }
    uint64_t bytes_promised() const { return promised; }
    uint64_t bytes_promised(int id_slot) const { return reserves() ? promised_to_slot[id_slot].load() : 0; }

    // Requests that wait to begin.
    size_t n_waiting() const { return waiting_requests; }

  private:
    struct promise {
        uint64_t bytes   = 0;
        int32_t  tokens  = 0;
        uint32_t n_own    = 0; // tokens of its prompt, or text, that it does not share with one that was let in before
        uint64_t n_prompt = 0; // of these; 0 where the layers of a task are not decided on
        bool     grows   = false; // the request sets no limit
        int      id_slot = -1;    // none yet

        std::string   likeness; // none: it shares nothing
        server_tokens prompt;
    };

    promise  promise_for(const server_task & task, size_t n_answers) const; // that are set aside together: for one of them
    uint64_t at_once(const server_task & task) const;
    bool     is_free(uint64_t bytes) const { return promised + bytes <= bytes_limit; }
    bool     can_begin(const server_task & task) const; // throws an error if it never can
    bool     refuse_impossible(const server_task & task);
    void     grant(const server_task & task);
    void     grant(int id_task, promise && what);
    size_t   n_shared(const server_task & task, const std::string & likeness) const;
    void     count_waiting();
    uint64_t bytes_held_by_idle(int id_slot) const;
    uint64_t bytes_running(int except_task) const;

    const limits      rules;
    const kv_layout & layout;
    const actions     server;
    uint64_t          bytes_limit;
    int32_t           share = 0; // tokens by which an answer without a limit grows

    std::map<int, promise>  promises; // by task, of those that have begun or are about to
    std::deque<server_task> waiting;

    uint64_t                           cells_promised = 0;
    std::atomic<uint64_t>              promised{ 0 };
    std::vector<std::atomic<uint64_t>> promised_to_slot;
    std::atomic<size_t>                waiting_requests{ 0 };
};

} // namespace kvfold
