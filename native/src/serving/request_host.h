// What requests and the HTTP server need of the engine that runs them. engine/engine.h implements it.
#pragma once

#include "process/error.h"
#include "kv/state/state.h"
#include "serving/plain_text.h"
#include "serving/slot_exchange.h"

#include "server-context.h"

#include <memory>
#include <string>
#include <unordered_set>

namespace kvfold {

struct request;

// Of a text that is embedded or ranked.
struct input_limit {
    size_t       n_tokens;
    const char * option; // that sets it
};

struct request_host {
    virtual ~request_host() = default;

    // Keeps the host from being torn down while a call uses it; the constructor throws KVFOLD_ERROR_CLOSED.
    struct use {
        explicit use(request_host & host) : host(host) { host.enter(); }
        ~use() { host.leave(); }
        use(const use &)             = delete;
        use & operator=(const use &) = delete;

      private:
        request_host & host;
    };

    // Counts a request that needs a slot; throws KVFOLD_ERROR_QUEUE_FULL.
    virtual void admit(const std::shared_ptr<request> & added, bool needs_slot) = 0;
    virtual void retire(request * gone, bool needs_slot)                        = 0;

    // How the worker finds what belongs to a task.
    slot_exchanges exchanges;

    // Lets a slot that has paused go on.
    virtual void wake_worker() = 0;

    // How many tasks of one request keep the slots busy; queues one that was kept back.
    virtual size_t tasks_at_once() const            = 0;
    virtual void   queue_task(server_task && task) = 0;

    // Ends what waits for these tasks and frees their slots.
    virtual void cancel_tasks(const std::unordered_set<int> & ids) = 0;

    // KV states of conversations, see kv/state. The first throws KVFOLD_ERROR_UNSUPPORTED if there are none here; the second gives
    // nothing while there is no memory for the state.
    virtual void                    require_states()                                         = 0;
    virtual std::optional<kv_state> load_state(const std::string & path)                     = 0;
    virtual written_state           write_state(const std::string & path, const kv_state & state) = 0;

    // Options of a server in front of this engine; the handlers of its routes.
    virtual common_params                          server_params(const std::string & options)                                        = 0;
    virtual const server_http_context::handler_t & handler_of(server_http_context::handler_t server_routes::* member) const = 0;

    // The handler behind a route of kvfold_request_open(), or null.
    virtual const server_http_context::handler_t * find_handler(const std::string & route) const = 0;

    // Throws KVFOLD_ERROR_UNSUPPORTED if the file has token ids only, no texts for them.
    virtual void require_tokenizer() const = 0;

    // Throws KVFOLD_ERROR_UNSUPPORTED if the file has a chat template that cannot be used.
    virtual void require_template() const = 0;

    // Throws KVFOLD_ERROR_UNSUPPORTED if llama.cpp reads this template's answers in a way that leaves no room for a JSON schema.
    virtual void require_formats() = 0;

    // What texts of this engine's model are made of.
    virtual const llama_vocab * vocabulary() const = 0;

    virtual int slots() const    = 0;
    virtual int adapters() const = 0;

    // Tokens that a text to embed or to rank may have.
    virtual input_limit longest_input() const = 0;

    // Throws KVFOLD_ERROR_CONTEXT_EXCEEDED if a text has more tokens than a slot holds whatever they are.
    virtual void check_text(size_t bytes) const = 0;

    virtual const plain_text & texts() const             = 0;
    virtual bool               describes_schemas() const = 0;
    virtual bool               describes_tools() const   = 0;
    virtual bool               continues_answers() const = 0;

  protected:
    virtual void enter() = 0;
    virtual void leave() = 0;
};

} // namespace kvfold
