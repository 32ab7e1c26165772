// One running request: the handler of a route, its answer cut into JSON chunks, and how it is ended from outside.
#pragma once

#include "process/deep_thread.h"
#include "serving/answer_usage.h"
#include "serving/request_host.h"
#include "serving/response_events.h"

#include <atomic>
#include <deque>
#include <unordered_set>

namespace kvfold {

// The `state` of kvfold_request_open_state().
struct state_files {
    std::string load; // empty: none
    std::string save;
    bool        strict = false;

    static state_files parse(const std::string & text);
};

// The body of a request, as text and as what that says.
struct request_body {
    std::string text;
    json        object; // null where it is not JSON

    // Throws KVFOLD_ERROR_INVALID_ARGUMENT for what no handler may be given, see process/json_text.h and serving/request_check.h.
    static request_body parse(const request_host & owner, const std::string & route, const std::string & given);
};

struct request : std::enable_shared_from_this<request> {
    static std::shared_ptr<request> open(const std::shared_ptr<request_host> & owner, const std::string & route, const std::string & body,
                                         const state_files & files = {});

    // One that came over HTTP, on the route `path`. `origin`.should_stop() is asked until take_answer() returns, and then by next_piece().
    // It shares what the KV cache holds with those only that came with the same API key.
    static std::shared_ptr<request> open(const std::shared_ptr<request_host> & owner, const server_http_context::handler_t & handler,
                                         const char * path, bool posts, bool needs_slot, const server_http_req & origin, const std::string & api_key);

    ~request();

    // Waits for the answer, for one that came over HTTP, and hands over all of it but the pieces of a stream. True if it is one.
    bool take_answer(server_http_res & into);

    // The next piece of a streamed answer as it is; false if it is the last one.
    bool next_piece(std::string & out);

    // The next chunk, or nothing after the last one.
    std::optional<std::string> next();

    // Ends the request on behalf of its owner.
    void cancel();

    // Makes next() fail with `why`, at once if it waits. The first caller wins.
    void end(kvfold_status why);

    // Wakes what waits for this request's tasks and frees their slots. Only while the engine cannot go away.
    void stop_tasks();

    // Drops the answer and everything of the server core that it holds. Only when no call is inside this request.
    void release();

    // Called by the hooks in server_response_reader, on the thread that posts and on the one that reads results.
    void on_tasks_waiting(const std::unordered_set<int> & ids, std::vector<server_task> * tasks);
    void on_task_ended(const server_task_result & last);

    // Called by the hooks in the tokeniser, on the thread that makes tokens of the request.
    void on_text(size_t bytes);
    void on_tokenizer_step();

  private:
    request(const std::shared_ptr<request_host> & owner, const server_http_context::handler_t & handler, bool needs_slot, const std::string & route,
            request_body && body, std::function<bool()> gone, const state_files & files);

    void start();

    void run_handler();
    void load_state();
    void save_state();
    void keep_state_from(const std::function<void()> & work);
    void call_handler();
    void rewrite_body();
    server_http_res_ptr answer_of_handler();
    void refuse_if(const std::function<void()> & check);
    void check_inputs(const std::vector<server_task> & tasks) const;
    void check_promises(const std::vector<server_task> & tasks) const;
    void settle(server_http_res_ptr result, std::optional<error> caught);
    void await_answer();
    bool has_answer();
    bool fetch_piece(std::string & text);
    void fetch();
    void throw_refusal();
    void read_answer();
    error answer_error() const;
    static std::string in_plain_words(const std::string & data);
    void read_events(const std::string & text);
    void finish();

    const std::shared_ptr<request_host>          owner;
    const server_http_context::handler_t & handler;
    const bool                             needs_slot; // decodes, so it counts against "max-queue"
    const std::function<bool()>            gone; // whether a client has gone away; may be empty
    const std::function<bool()>            should_stop;
    server_http_req                        http_request;
    json                                   given; // its body, until the handler is called
    const state_files                      files;
    const std::shared_ptr<slot_exchange>   exchange = std::make_shared<slot_exchange>();

    std::atomic<int> ended{ 0 }; // a kvfold_status, or 0

    std::mutex              mutex;
    std::condition_variable changed;
    deep_work               handler_work;
    bool                    answered = false; // guarded by `mutex`: the handler has returned
    std::optional<error>    failure;          // guarded by `mutex` until `answered`
    std::unordered_set<int> task_ids;         // guarded by `mutex`; those that may still have to be stopped
    std::unordered_set<int> all_task_ids;     // guarded by `mutex`
    answer_usage            usage;            // guarded by `mutex` until `answered`
    std::deque<server_task> kept_tasks;       // guarded by `mutex`; those that are queued when others have ended

    // Used by one thread at a time: the one inside next(), or the one that closes the engine after the last next().
    server_http_res_ptr     answer;
    std::deque<std::string> chunks;
    response_events         events; // of /v1/responses
    bool                    needs_call = false; // the answer is a tool call, or an error
    bool                    needs_format = false; // the answer is JSON of the format that was asked for, or an error
    bool                    exhausted = false; // nothing more will be added to `chunks`
    bool                    finished  = false; // next() has reported the end or a failure
    bool                    retired   = false;
};

} // namespace kvfold
