// The exported functions: they check their arguments, call the engine and turn every exception into a status.

#include "kvfold.h"

#include "abi/build_info.h"
#include "engine/engine.h"
#include "process/error.h"
#include "serving/http_server.h"
#include "process/kvfold_log.h"
#include "engine/options.h"
#include "engine/quantize.h"
#include "process/rpc.h"
#include "serving/request.h"
#include "abi/schema.h"

#include <cstdlib>

struct kvfold_engine {
    std::shared_ptr<kvfold::engine> engine;
};

struct kvfold_server {
    std::unique_ptr<kvfold::http_server> server;
};

struct kvfold_request {
    std::shared_ptr<kvfold::request> request;
};

using namespace kvfold;

static void require(bool given, const char * name) {
    if (!given) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, std::string(name) + " is NULL");
    }
}

static int32_t succeed(char ** out, const json & answer) {
    if (out) {
        *out = to_c_string(answer.dump_safe());
    }
    return KVFOLD_OK;
}

int32_t kvfold_abi_version(void) {
    return KVFOLD_ABI_VERSION;
}

void kvfold_free(char * text) {
    free(text);
}

int32_t kvfold_build_info(char ** out) {
    return at_boundary(out, [&] { return succeed(out, describe_build()); });
}

void kvfold_log_set(kvfold_log_callback callback, int32_t min_level, void * user) {
    at_boundary(nullptr, [&] {
        log_set(callback, min_level, user);
        return KVFOLD_OK;
    });
}

int32_t kvfold_options(char ** out) {
    return at_boundary(out, [&] { return succeed(out, describe_options()); });
}

int32_t kvfold_open(const char * options, kvfold_progress_callback progress, void * user, kvfold_engine ** handle, char ** out) {
    if (handle) {
        *handle = nullptr;
    }
    return at_boundary(out, [&] {
        require(options, "options");
        require(handle, "engine");
        auto       opened = std::make_unique<kvfold_engine>(kvfold_engine{ engine::open(options, progress, user) });
        const auto status = succeed(out, opened->engine->info());
        *handle           = opened.release();
        return status;
    });
}

int32_t kvfold_engine_info(kvfold_engine * handle, char ** out) {
    return at_boundary(out, [&] {
        require(handle, "engine");
        return succeed(out, handle->engine->info());
    });
}

int32_t kvfold_kv_stats(kvfold_engine * handle, char ** out) {
    return at_boundary(out, [&] {
        require(handle, "engine");
        return succeed(out, handle->engine->kv_stats());
    });
}

int32_t kvfold_token_stats(kvfold_engine * handle, char ** out) {
    return at_boundary(out, [&] {
        require(handle, "engine");
        return succeed(out, handle->engine->token_stats());
    });
}

void kvfold_close(kvfold_engine * handle) {
    at_boundary(nullptr, [&] {
        if (handle) {
            handle->engine->close();
            delete handle;
        }
        return KVFOLD_OK;
    });
}

int32_t kvfold_request_open(kvfold_engine * handle, const char * route, const char * body, kvfold_request ** request_handle, char ** out) {
    if (request_handle) {
        *request_handle = nullptr;
    }
    return at_boundary(out, [&] {
        require(handle, "engine");
        require(route, "route");
        require(body, "body");
        require(request_handle, "request");
        auto opened     = std::make_unique<kvfold_request>();
        opened->request = request::open(handle->engine, route, body);
        *request_handle = opened.release();
        return KVFOLD_OK;
    });
}

int32_t kvfold_request_open_state(kvfold_engine * handle, const char * route, const char * body, const char * state,
                                  kvfold_request ** request_handle, char ** out) {
    if (request_handle) {
        *request_handle = nullptr;
    }
    return at_boundary(out, [&] {
        require(handle, "engine");
        require(route, "route");
        require(body, "body");
        require(state, "state");
        require(request_handle, "request");
        auto opened     = std::make_unique<kvfold_request>();
        opened->request = request::open(handle->engine, route, body, state_files::parse(state));
        *request_handle = opened.release();
        return KVFOLD_OK;
    });
}

int32_t kvfold_request_next(kvfold_request * handle, char ** out) {
    return at_boundary(out, [&] {
        require(handle, "request");
        const auto chunk = handle->request->next();
        if (!chunk) {
            return KVFOLD_DONE;
        }
        if (out) {
            *out = to_c_string(*chunk);
        }
        return KVFOLD_OK;
    });
}

void kvfold_request_cancel(kvfold_request * handle) {
    at_boundary(nullptr, [&] {
        if (handle) {
            handle->request->cancel();
        }
        return KVFOLD_OK;
    });
}

void kvfold_request_close(kvfold_request * handle) {
    at_boundary(nullptr, [&] {
        delete handle;
        return KVFOLD_OK;
    });
}

int32_t kvfold_serve(kvfold_engine * handle, const char * options, kvfold_server ** server_handle, char ** out) {
    if (server_handle) {
        *server_handle = nullptr;
    }
    return at_boundary(out, [&] {
        require(handle, "engine");
        require(options, "options");
        require(server_handle, "server");
        auto opened      = std::make_unique<kvfold_server>(kvfold_server{ http_server::open(handle->engine, options) });
        const auto status = succeed(out, opened->server->info());
        *server_handle   = opened.release();
        return status;
    });
}

void kvfold_server_close(kvfold_server * handle) {
    at_boundary(nullptr, [&] {
        delete handle;
        return KVFOLD_OK;
    });
}

int32_t kvfold_evaluate(kvfold_engine * handle, const int32_t * tokens, int32_t n_tokens, int32_t first, kvfold_logits_callback on_logits,
                        void * user, char ** out) {
    return at_boundary(out, [&] {
        require(handle, "engine");
        require(on_logits, "on_logits");
        handle->engine->evaluate(tokens, n_tokens, first, on_logits, user);
        return KVFOLD_OK;
    });
}

int32_t kvfold_observe(kvfold_engine * handle, const char * what, const int32_t * tokens, int32_t n_tokens, float * values,
                       size_t n_values, char ** out) {
    return at_boundary(out, [&] {
        require(handle, "engine");
        require(what, "what");
        return succeed(out, handle->engine->observe(what, tokens, n_tokens, values, n_values));
    });
}

int32_t kvfold_schema_to_grammar(const char * schema, char ** out) {
    return at_boundary(out, [&] {
        require(schema, "schema");
        return succeed(out, schema_to_grammar(schema));
    });
}

int32_t kvfold_quantize(const char * path_in, const char * path_out, const char * options, char ** out) {
    return at_boundary(out, [&] {
        require(path_in, "path_in");
        require(path_out, "path_out");
        require(options, "options");
        quantize(path_in, path_out, options);
        return KVFOLD_OK;
    });
}

int32_t kvfold_rpc_serve(const char * options, char ** out) {
    return at_boundary(out, [&]() -> int32_t {
        require(options, "options");
        serve_rpc(options);
    });
}
