#include "serving/http_server.h"

#include "process/at_exit.h"
#include "process/kvfold_log.h"
#include "serving/http_connections.h"
#include "serving/request.h"

#include "server-common.h"

#include <algorithm>
#include <filesystem>
#include <list>
#include <sstream>

namespace kvfold {

enum class method { get, post };

struct route {
    method                                          how;
    const char *                                    path;
    server_http_context::handler_t server_routes::* handler;
    bool                                            needs_slot;

    // A form with files instead of JSON.
    bool takes_files() const { return string_ends_with(path, "/transcriptions"); }
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
        case KVFOLD_ERROR_CONTEXT_EXCEEDED:
        case KVFOLD_ERROR_BUDGET_EXCEEDED:
        case KVFOLD_ERROR_UNSUPPORTED:      return ERROR_TYPE_INVALID_REQUEST; // clients ask again after llama-server's 501
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

// ---- who may ask -------------------------------------------------------------------------------------------------------

static std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return (char) std::tolower(c); });
    return text;
}

// More than one where a request spells a header in several ways; one that is empty where it has none.
static std::vector<std::string> values_of(const server_http_req & asked, const std::string & name) {
    std::vector<std::string> values;
    for (const auto & [key, value] : asked.headers) {
        if (lower(key) == name) {
            values.push_back(value);
        }
    }
    return values.empty() ? std::vector<std::string>{ "" } : values;
}

// As llama-server looks for it.
static std::string api_key_of(const server_http_req & asked) {
    static const std::string scheme = "Bearer ";
    const std::string        header = values_of(asked, "authorization").front();
    const std::string        key    = header.empty() ? values_of(asked, "x-api-key").front() : header;
    return string_starts_with(key, scheme) ? key.substr(scheme.size()) : key;
}

// "name:port", "name" or "[address]:port" without the port.
static std::string without_port(const std::string & authority) {
    const size_t from = !authority.empty() && authority.front() == '[' ? authority.find(']') : 0;
    return lower(authority.substr(0, from == std::string::npos ? from : authority.find(':', from)));
}

static bool names_this_machine(const std::string & host) {
    const bool is_number = host.find_first_not_of("0123456789.") == std::string::npos; // not 127.0.0.1.example.com
    return host == "localhost" || host == "::1" || host == "[::1]" || (is_number && host.rfind("127.", 0) == 0);
}

static bool is_socket_file(const std::string & host) {
    return string_ends_with(host, ".sock");
}

// A page of another site can send requests to this machine: under a name of its own that it lets point here, or to the
// address itself. What it sends then is nothing that the owner of this machine has asked for.
class request_guard {
  public:
    explicit request_guard(const common_params & params) : hosts(params.hostnames), has_key(!params.api_keys.empty()) {
        loopback = std::all_of(hosts.begin(), hosts.end(), [](const auto & host) { return names_this_machine(host) || is_socket_file(host); });
        std::stringstream list(params.cors_origins);
        for (std::string each; std::getline(list, each, ',');) {
            origins.push_back(lower(string_strip(each)));
        }
    }

    void check(const server_http_req & asked, bool posts, bool takes_files) const {
        const auto named_as = values_of(asked, "host");
        for (const auto & host : named_as) {
            if (loopback && !has_key && !host.empty() && !names_this_machine(without_port(host)) &&
                std::none_of(hosts.begin(), hosts.end(), is_socket_file)) {
                throw refusal(403, "this server is for this machine only and does not answer as \"" + host + "\"");
            }
        }
        for (const auto & origin : values_of(asked, "origin")) {
            if (!origin.empty() && !is_allowed(lower(origin), lower(named_as.front()))) {
                throw refusal(403, "pages of \"" + origin + "\" may not use this server, see \"cors-origins\"");
            }
        }
        for (const auto & type : values_of(asked, "content-type")) {
            if (posts && !(takes_files && !asked.files.empty()) && lower(string_strip(type.substr(0, type.find(';')))) != "application/json") {
                throw refusal(415, "the content type is \"" + type + "\" but must be \"application/json\"");
            }
        }
    }

    struct refusal {
        int         status;
        std::string message;

        refusal(int status, std::string message) : status(status), message(std::move(message)) {}
    };

  private:
    bool is_allowed(const std::string & origin, const std::string & host) const {
        const size_t      scheme    = origin.find("://");
        const std::string authority = scheme == std::string::npos ? "" : origin.substr(scheme + 3);
        return std::any_of(origins.begin(), origins.end(), [&](const auto & allowed) {
            return allowed == "*" || allowed == origin || (allowed == "localhost" && names_this_machine(without_port(authority)));
        }) || (!loopback && !authority.empty() && authority == host); // a page that this address serves
    }

    std::vector<std::string> hosts;
    std::vector<std::string> origins;
    bool                     has_key;
    bool                     loopback;
};

// An answer on its way to a client. Freed when the client has it or has gone, which cancels the request.
struct served_answer : server_http_res {
    std::shared_ptr<request> running;
};

struct llama_http_server : http_server {
    static constexpr int max_connections = 512;

    llama_http_server(const std::shared_ptr<request_host> & owner, common_params && given)
        : owner(owner), params(std::move(given)), guard(params),
          connections(params.n_threads_http > 0 ? params.n_threads_http : max_connections, params.timeout_read) {
        params.n_threads_http = 1; // of a pool that serves none of them
    }

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
        connections.shut_down();
        connections.join();
        http.join();
        for (const auto & host : params.hostnames) {
            if (is_socket_file(host)) {
                remove_abandoned(host);
            }
        }
    }

    void start() {
        for (const auto & host : params.hostnames) {
            if (is_socket_file(host)) {
                remove_abandoned(host);
            }
        }
        const http_connections::scope here(connections);
        const error_lines             errors;
        bool                          listening = http.init(params);
        if (listening) {
            for (const route & each : routes) {
                add(each);
            }
            connections.explain_errors();
            listening = http.start();
        }
        if (!listening) {
            throw error(KVFOLD_ERROR_ADDRESS, "cannot listen on " + address() + ": " + errors.cause("the reason is not known") +
                                                  (on_files() ? " (does another server listen there?)" : " (is the port in use?)"))
                .about_option(on_files() ? "host" : "port");
        }
        http.is_ready = true;
    }

    json info() const override { return json({ { "addresses", http.listening_addresses }, { "port", http.port } }); }

  private:
    // The file of a socket outlives a process that was killed, and nobody else can listen there then.
    static void remove_abandoned(const std::string & path) {
        if (http_connections::is_abandoned_socket(path)) {
            std::error_code code;
            std::filesystem::remove(std::filesystem::u8path(path), code);
        }
    }

    bool on_files() const { return std::all_of(params.hostnames.begin(), params.hostnames.end(), is_socket_file); }

    std::string address() const {
        std::string hosts;
        for (const auto & host : params.hostnames) {
            hosts += (hosts.empty() ? "" : ", ") + host;
        }
        return on_files() ? hosts : hosts + " port " + std::to_string(params.port);
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
        http_connections::request_is_complete();
        try {
            guard.check(origin, each.how == method::post, each.takes_files());
            answer->running = open_request(each, origin);
            if (answer->running->take_answer(*answer)) {
                answer->next = [running = answer->running.get()](std::string & out) { return next_piece(*running, out); };
            }
        } catch (const request_guard::refusal & e) {
            json object    = format_error_response(e.message, ERROR_TYPE_PERMISSION);
            object["code"] = e.status;
            refuse(*answer, object);
        } catch (...) {
            refuse(*answer, describe(current_error()));
        }
        return answer;
    }

    static void refuse(server_http_res & answer, const json & object) {
        answer.status = object.at("code").get<int>();
        answer.data   = json({ { "error", object } }).dump_safe();
    }

    static bool next_piece(request & running, std::string & out) {
        bool more = false;
        try {
            more = running.next_piece(out);
        } catch (...) {
            out = "data: " + json({ { "error", describe(current_error()) } }).dump_safe() + "\n\n";
        }
        http_connections::piece_begins();
        return more;
    }

    std::shared_ptr<request> open_request(const route & each, const server_http_req & origin) {
        refuse_if_closing();
        request_host::use inside(*owner); // its routes go with it
        if (each.how == method::post) {
            owner->require_tokenizer();
        }
        const std::string api_key = params.api_keys.empty() ? "" : api_key_of(origin);
        auto opened = request::open(owner, owner->handler_of(each.handler), each.path, each.how == method::post, each.needs_slot, origin, api_key);
        std::unique_lock<std::mutex> lock(mutex); // not before: a large body takes a while to read, and others wait for this
        running.remove_if([](const auto & weak) { return weak.expired(); });
        running.push_back(opened);
        lock.unlock();
        refuse_if_closing();
        return opened;
    }

    void refuse_if_closing() {
        std::lock_guard<std::mutex> lock(mutex);
        if (closing) {
            throw error(KVFOLD_ERROR_CLOSED, "the server was closed");
        }
    }

    const std::shared_ptr<request_host> owner;
    common_params                       params; // the HTTP layer keeps a reference
    const request_guard                 guard;
    http_connections                    connections; // outlives the HTTP layer
    server_http_context                 http;

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
