#include "serving/http_server.h"

#include "process/at_exit.h"
#include "process/json_text.h"
#include "process/kvfold_log.h"
#include "serving/request.h"

#include "server-common.h"

#include <list>

namespace kvfold {

enum class method { get, post };

struct route {
    method                                          how;
    const char *                                    path;
    server_http_context::handler_t server_routes::* handler;
    bool                                            needs_slot;
};

// As llama_server() in tools/server/server.cpp registers them, without what reads or writes files, runs tools, forwards
// requests or loads other models.
static const route routes[] = {
    { method::get,  "/health",                           &server_routes::get_health,                  false },
    { method::get,  "/v1/health",                        &server_routes::get_health,                  false },
    { method::get,  "/metrics",                          &server_routes::get_metrics,                 false },
    { method::get,  "/props",                            &server_routes::get_props,                   false },
    { method::get,  "/models",                           &server_routes::get_models,                  false },
    { method::get,  "/v1/models",                        &server_routes::get_models,                  false },
    { method::get,  "/slots",                            &server_routes::get_slots,                   false },
    { method::get,  "/lora-adapters",                    &server_routes::get_lora_adapters,           false },
    { method::post, "/completion",                       &server_routes::post_completions,            true  },
    { method::post, "/completions",                      &server_routes::post_completions,            true  },
    { method::post, "/v1/completions",                   &server_routes::post_completions_oai,        true  },
    { method::post, "/chat/completions",                 &server_routes::post_chat_completions,       true  },
    { method::post, "/v1/chat/completions",              &server_routes::post_chat_completions,       true  },
    { method::post, "/v1/chat/completions/control",      &server_routes::post_control,                false },
    { method::post, "/responses",                        &server_routes::post_responses_oai,          true  },
    { method::post, "/v1/responses",                     &server_routes::post_responses_oai,          true  },
    { method::post, "/audio/transcriptions",             &server_routes::post_transcriptions_oai,     true  },
    { method::post, "/v1/audio/transcriptions",          &server_routes::post_transcriptions_oai,     true  },
    { method::post, "/v1/messages",                      &server_routes::post_anthropic_messages,     true  },
    { method::post, "/infill",                           &server_routes::post_infill,                 true  },
    { method::post, "/embedding",                        &server_routes::post_embeddings,             true  },
    { method::post, "/embeddings",                       &server_routes::post_embeddings,             true  },
    { method::post, "/v1/embeddings",                    &server_routes::post_embeddings_oai,         true  },
    { method::post, "/rerank",                           &server_routes::post_rerank,                 true  },
    { method::post, "/reranking",                        &server_routes::post_rerank,                 true  },
    { method::post, "/v1/rerank",                        &server_routes::post_rerank,                 true  },
    { method::post, "/v1/reranking",                     &server_routes::post_rerank,                 true  },
    { method::post, "/tokenize",                         &server_routes::post_tokenize,               false },
    { method::post, "/detokenize",                       &server_routes::post_detokenize,             false },
    { method::post, "/apply-template",                   &server_routes::post_apply_template,         false },
    { method::post, "/chat/completions/input_tokens",    &server_routes::post_chat_completions_tok,   false },
    { method::post, "/v1/chat/completions/input_tokens", &server_routes::post_chat_completions_tok,   false },
    { method::post, "/responses/input_tokens",           &server_routes::post_responses_tok_oai,      false },
    { method::post, "/v1/responses/input_tokens",        &server_routes::post_responses_tok_oai,      false },
    { method::post, "/v1/messages/count_tokens",         &server_routes::post_anthropic_count_tokens, false },
};

static error_type type_of(const error & e) {
    switch (e.status) {
        case KVFOLD_ERROR_INVALID_ARGUMENT:
        case KVFOLD_ERROR_BUDGET_EXCEEDED:  return ERROR_TYPE_INVALID_REQUEST;
        case KVFOLD_ERROR_UNSUPPORTED:      return ERROR_TYPE_NOT_SUPPORTED;
        case KVFOLD_ERROR_CANCELLED:
        case KVFOLD_ERROR_CLOSED:           return ERROR_TYPE_UNAVAILABLE;
        default:                            return ERROR_TYPE_SERVER;
    }
}

// In the shape of llama-server's own errors, which is OpenAI's.
static json describe(const error & e) {
    json object = format_error_response(e.message, type_of(e));
    if (e.status == KVFOLD_ERROR_QUEUE_FULL) {
        object["code"] = 429;
        object["type"] = "rate_limit_error";
    }
    return object;
}

// An answer on its way to a client. Freed when the client has it or has gone, which cancels the request.
struct served_answer : server_http_res {
    std::shared_ptr<request> running;
};

struct llama_http_server : http_server {
    llama_http_server(const std::shared_ptr<request_host> & owner, common_params && params) : owner(owner), params(std::move(params)) {}

    ~llama_http_server() override {
        {
            std::lock_guard<std::mutex> lock(mutex);
            closing = true;
            for (const auto & weak : running) {
                if (const auto request = weak.lock()) {
                    request->cancel();
                }
            }
        }
        http.stop();
        http.join();
    }

    void start() {
        const error_lines errors;
        bool              listening = http.init(params);
        if (listening) {
            for (const route & each : routes) {
                add(each);
            }
            listening = http.start();
        }
        if (!listening) {
            throw error(KVFOLD_ERROR_ADDRESS, "cannot listen on " + address() + ": " + errors.cause("the reason is not known") +
                                                  " (is the port in use?)")
                .about_option("port");
        }
        http.is_ready = true;
    }

    json info() const override { return json({ { "addresses", http.listening_addresses }, { "port", http.port } }); }

  private:
    std::string address() const {
        std::string hosts;
        for (const auto & host : params.hostnames) {
            hosts += (hosts.empty() ? "" : ", ") + host;
        }
        return hosts + " port " + std::to_string(params.port);
    }

    void add(const route & each) {
        const auto handler = [this, each](const server_http_req & origin) -> server_http_res_ptr { return serve(each, origin); };
        if (each.how == method::get) {
            http.get(each.path, handler);
        } else {
            http.post(each.path, handler);
        }
    }

    // Never throws: what it would throw is an answer.
    server_http_res_ptr serve(const route & each, const server_http_req & origin) {
        auto answer = std::make_unique<served_answer>();
        try {
            if (each.how == method::post && origin.files.empty()) {
                parse_body(origin.body);
            }
            answer->running = open_request(each, origin);
            if (answer->running->take_answer(*answer)) {
                answer->next = [running = answer->running.get()](std::string & out) { return next_piece(*running, out); };
            }
        } catch (...) {
            const json object = describe(current_error());
            answer->status    = object.at("code").get<int>();
            answer->data      = json({ { "error", object } }).dump_safe();
        }
        return answer;
    }

    static bool next_piece(request & running, std::string & out) {
        try {
            return running.next_piece(out);
        } catch (...) {
            out = "data: " + json({ { "error", describe(current_error()) } }).dump_safe() + "\n\n";
            return false;
        }
    }

    std::shared_ptr<request> open_request(const route & each, const server_http_req & origin) {
        std::lock_guard<std::mutex> lock(mutex);
        if (closing) {
            throw error(KVFOLD_ERROR_CLOSED, "the server was closed");
        }
        request_host::use inside(*owner); // its routes go with it
        if (each.how == method::post) {
            owner->require_tokenizer();
        }
        auto opened = request::open(owner, owner->handler_of(each.handler), each.needs_slot, origin);
        running.remove_if([](const auto & weak) { return weak.expired(); });
        running.push_back(opened);
        return opened;
    }

    const std::shared_ptr<request_host> owner;
    const common_params           params; // the HTTP layer keeps a reference
    server_http_context           http;

    std::mutex                        mutex;
    bool                              closing = false;
    std::list<std::weak_ptr<request>> running;
};

std::unique_ptr<http_server> http_server::open(const std::shared_ptr<request_host> & owner, const std::string & options) {
    auto server = std::make_unique<llama_http_server>(owner, owner->server_params(options));
    server->start();
    return server;
}

} // namespace kvfold
