// What the threads of a request and the worker tell each other about the slot that runs it.
#pragma once

#include "kv/state/state.h"

#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>

struct server_task;

namespace kvfold {

// Owned by the request and by the table below; guarded by `mutex`.
struct slot_exchange {
    std::mutex              mutex;
    std::condition_variable changed;

    std::string salt; // requests share cells of the KV cache with those that have the same one

    std::optional<kv_state>                  load; // to begin with
    std::function<std::optional<kv_state>()> read; // gives it, until the slot has begun; none if no state is saved
    bool                                     reading = false; // before the task is posted, so that the worker does not wait for a disk
    bool                                     strict  = false; // it waits for memory of it beside others

    bool                                            save = false; // whether the worker is to fill `saved` or `save_failure`
    bool                                            save_strict = false; // others give way to it
    std::optional<kv_state>                         saved;
    std::function<written_state(const kv_state &)>  write;
    bool                                            writing = false; // what was in `saved`, by the thread of the request
    std::optional<written_state>                    written; // by the worker, which needed its memory
    std::optional<error>                            save_failure;
    bool                                            slot_ended = false;

    void forget_state() {
        load.reset();
        read = nullptr;
    }

    void forget_copy() {
        save = false;
        saved.reset();
        written.reset();
    }

    std::optional<error> refusal; // why the worker did not begin the request

    size_t unread = 0; // parts of a streamed answer that nobody has asked for yet
    bool   paused = false;
    int64_t read_at = 0; // ggml_time_us() at which it paused, or was last read since
    bool   awaited = false; // somebody asks for the next one. Then the slot goes on whatever is unread: of some results the
                            // server core makes no part, as while its parser holds back a tool call's arguments
};

// What a slot that has ended still holds, and is to be copied. It runs nothing else until then.
struct awaited_copy {
    int                            id_slot;
    const server_prompt *          prompt;
    size_t                         n_tokens;
    bool                           stays; // afterwards, for a prompt that begins alike
    std::shared_ptr<slot_exchange> exchange;
};

// The exchanges of an engine by the ids of their tasks. Thread-safe.
struct slot_exchanges {
    void add(const std::unordered_set<int> & task_ids, const std::shared_ptr<slot_exchange> & exchange);
    void remove(const std::unordered_set<int> & task_ids);

    std::shared_ptr<slot_exchange> find(int task_id);

    // Reads the state that the request begins with, if there is memory for it.
    void read_state(const std::shared_ptr<slot_exchange> & exchange);

    // Whether one is being read.
    bool reads_state();

    // Gives the memory of a state back that no slot has taken yet: of the last one that was read, but not this one's. It is read again
    // when it is the request's turn. False if there is none.
    bool drop_state(const slot_exchange * except = nullptr);

    // A copy has been taken of what a slot held, and its request is to write it when its answer has been read.
    void add_copy(const std::shared_ptr<slot_exchange> & exchange);

    // Of the worker's thread, and used by it alone: those that others have to make room for.
    std::list<awaited_copy> awaited;

    // Gives the memory of such a copy back, but not of this one's: waits while one is being written, or writes the first one. False if
    // there is none. On a worker's thread.
    bool write_copy(const slot_exchange * except = nullptr);

  private:
    // Whether it is true of any of them; the last one first, each locked.
    bool any_with_state(const slot_exchange * except, const std::function<bool(slot_exchange &)> & what);

    std::mutex                                              mutex;
    std::unordered_map<int, std::shared_ptr<slot_exchange>> by_task;
    std::list<std::weak_ptr<slot_exchange>>                 with_state; // the last one first
    std::list<std::weak_ptr<slot_exchange>>                 with_copy;  // the first one first
};

// While one lives, the hooks that run on this thread, a worker, look here.
struct worker_scope {
    explicit worker_scope(slot_exchanges & exchanges);
    ~worker_scope();
    worker_scope(const worker_scope &)             = delete;
    worker_scope & operator=(const worker_scope &) = delete;
};

// admission::actions::state_of, on a worker's thread.
std::optional<size_t> state_of(const server_task & task, bool alone);

// Whether states of requests that have not begun took memory, of which there is more now or in a moment. On a worker's thread.
bool waiting_state_gives_way();

// Whether a copy of a conversation that has ended took memory, of which there is more now. On a worker's thread.
bool saved_state_gives_way();

// On the thread of the request, when its slot has ended: what was saved, in a file. Nothing if nobody asks for it any more; throws
// KVFOLD_ERROR_STATE if there is none.
std::optional<written_state> written_copy(slot_exchange & exchange);

// Of the request that the task belongs to; none if that has gone. On a worker's thread.
std::optional<std::string> cache_salt_of(const server_task & task);

// Whether the slot has paused and nobody has read anything for so long that others do not wait for its reader. On a worker's thread.
bool reader_stalls(int task_id);

// Somebody asks for the next part. True if the slot has paused and is to be woken.
bool note_waiting(slot_exchange & exchange);

// It was answered, with a part or with something that no slot has sent. True if the slot has paused and is to be woken.
bool note_read(slot_exchange & exchange, bool part);

} // namespace kvfold
