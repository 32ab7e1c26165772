/*
 * A libkvfold that loads no model: it hands back what it is given, so that a test sees what really crosses the boundary.
 * "cells_used" of kvfold_kv_stats() is the number of strings that were handed out and not freed.
 */
#include "kvfold.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef STUB_ABI_VERSION
#    define STUB_ABI_VERSION KVFOLD_ABI_VERSION
#endif

#ifdef STUB_CPU
__attribute__((section(".kvfold_cpu"), used)) const char cpu_required[] = STUB_CPU;
#endif

struct kvfold_engine {
    int n_vocab;
};

struct kvfold_request {
    char * route;
    char * body;
    int n_chunks;
    atomic_int cancelled;
};

static atomic_int n_strings;
static kvfold_log_callback log_callback;
static int32_t log_min_level;
static void * log_user;

static int32_t give(char ** out, const char * text, int32_t status) {
    if (out) {
        *out = strdup(text);
        n_strings++;
    }
    return status;
}

static void * write_log(void * unused) {
    (void) unused;
    for (int32_t level = log_min_level; level <= KVFOLD_LOG_ERROR; level++) {
        log_callback(level, "größer als \xf0\x9f\x98\x80", log_user);
    }
    return NULL;
}

int32_t kvfold_abi_version(void) {
    return STUB_ABI_VERSION;
}

void kvfold_free(char * text) {
    if (text) {
        n_strings--;
    }
    free(text);
}

int32_t kvfold_build_info(char ** out) {
    return give(out,
                "{\"version\": \"stub\", \"llama_cpp\": \"none\", \"patches\": [], \"compiler\": \"cc\", "
                "\"cpu_features\": {}, \"backends\": [], \"devices\": []}",
                KVFOLD_OK);
}

void kvfold_log_set(kvfold_log_callback callback, int32_t min_level, void * user) {
    log_callback = callback;
    log_min_level = min_level;
    log_user = user;
}

int32_t kvfold_options(char ** out) {
    return give(out,
                "[{\"names\": [\"ctx-size\", \"c\"], \"negated\": [], \"value\": \"N\", \"env\": null, "
                "\"help\": \"context\"}]",
                KVFOLD_OK);
}

int32_t kvfold_open(const char * options, kvfold_progress_callback progress, void * user, kvfold_engine ** engine,
                    char ** out) {
    *engine = NULL;
    if (strstr(options, "größte.gguf") == NULL) {
        return give(out, "{\"status\": -3, \"message\": \"kein Modell: für\", \"path\": \"x\"}",
                    KVFOLD_ERROR_MODEL_NOT_FOUND);
    }
    for (int i = 0; i <= 4; i++) {
        if (!progress(i / 4.0f, user)) {
            return give(out, "{\"status\": -9, \"message\": \"abandoned\"}", KVFOLD_ERROR_CANCELLED);
        }
    }
    if (log_callback) {
        pthread_t thread;
        pthread_create(&thread, NULL, write_log, NULL);
        pthread_join(thread, NULL);
    }
    *engine = malloc(sizeof(**engine));
    (*engine)->n_vocab = 32;
    return give(out, "{}", KVFOLD_OK);
}

int32_t kvfold_engine_info(kvfold_engine * engine, char ** out) {
    (void) engine;
    return give(out,
                "{\"model\": {\"path\": \"stub\", \"name\": null, \"architecture\": \"stub\", \"description\": \"\", "
                "\"file_type\": \"\", \"parameters\": 9000000000, \"bytes\": 1, \"layers\": 1, \"heads\": 1, "
                "\"heads_kv\": 1, \"embedding_length\": 1, \"context_length_train\": 1, \"vocabulary_size\": 32, "
                "\"vocabulary_type\": \"none\", \"chat_template\": false, \"tokens\": {\"bos\": null, \"eos\": 2}}, "
                "\"context\": {\"size\": 1, \"slots\": 1, \"size_per_slot\": 1, \"batch_size\": 1, \"ubatch_size\": 1, "
                "\"threads\": 1, \"flash_attention\": false, \"kv_type_k\": \"f16\", \"kv_type_v\": \"f16\", "
                "\"kv_unified\": false, \"kv_plan\": \"0\"}, "
                "\"offload\": {\"layers\": 1, \"layers_offloaded\": 0, \"buffers\": []}, "
                "\"kv\": {\"cells\": 0, \"cells_used\": 0, \"layers\": 1, \"layers_with_storage\": 1, "
                "\"bytes_per_token\": 0, \"bytes_allocated\": 0, \"bytes_committed\": 0, \"bytes_in_use\": 0, "
                "\"bytes_budget\": null, \"ledger\": {\"pages\": 0, \"checkpoints\": 0, \"swapped\": 0, \"states\": 0}, "
                "\"bytes_promised\": 0, \"slots\": 1, \"slots_busy\": 0, "
                "\"requests_waiting\": 0, \"requests_suspended\": 0, \"preemptions\": 0, \"tokens_recomputed\": 0, "
                "\"prefixes\": {\"prompts\": 0, \"hits\": 0, \"tokens_shared\": 0, \"kept\": 0, \"cells_shared\": 0, \"bytes_saved\": 0}, "
                "\"lazy_at_least\": 0, \"by_layer\": [], \"by_slot\": [], \"lazy_layers\": [], "
                "\"evictions\": {\"prompts\": 0, \"seconds\": 0, \"bytes\": 0, \"by_layer\": []}}}",
                KVFOLD_OK);
}

int32_t kvfold_kv_stats(kvfold_engine * engine, char ** out) {
    (void) engine;
    char text[800];
    snprintf(text, sizeof(text),
             "{\"cells\": 0, \"cells_used\": %d, \"layers\": 1, \"layers_with_storage\": 1, \"bytes_per_token\": 0, "
             "\"bytes_allocated\": 0, \"bytes_committed\": 0, \"bytes_in_use\": 0, \"bytes_budget\": null, "
             "\"ledger\": {\"pages\": 0, \"checkpoints\": 0, \"swapped\": 0, \"states\": 0}, "
             "\"bytes_promised\": 0, \"slots\": 1, \"slots_busy\": 0, \"requests_waiting\": 0, \"requests_suspended\": 0, "
             "\"preemptions\": 0, \"tokens_recomputed\": 0, "
             "\"prefixes\": {\"prompts\": 0, \"hits\": 0, \"tokens_shared\": 0, \"kept\": 0, \"cells_shared\": 0, \"bytes_saved\": 0}, "
             "\"lazy_at_least\": 0, \"by_layer\": [], "
             "\"by_slot\": [], \"lazy_layers\": [], "
             "\"evictions\": {\"prompts\": 0, \"seconds\": 0, \"bytes\": 0, \"by_layer\": []}}",
             (int) n_strings);
    return give(out, text, KVFOLD_OK);
}

int32_t kvfold_token_stats(kvfold_engine * engine, char ** out) {
    (void) engine;
    return give(out,
                "{\"prompt_tokens\": 5000000000, \"prompt_tokens_cached\": 1, \"prompt_seconds\": 0.5, "
                "\"generated_tokens\": 2, \"generation_seconds\": 0.25}",
                KVFOLD_OK);
}

void kvfold_close(kvfold_engine * engine) {
    free(engine);
}

int32_t kvfold_request_open(kvfold_engine * engine, const char * route, const char * body, kvfold_request ** request,
                            char ** out) {
    (void) engine;
    *request = NULL;
    if (strcmp(route, "/full") == 0) {
        return give(out, "{\"status\": -7, \"message\": \"full\", \"value\": 3, \"limit\": 3}",
                    KVFOLD_ERROR_QUEUE_FULL);
    }
    *request = calloc(1, sizeof(**request));
    (*request)->route = strdup(route);
    (*request)->body = strdup(body);
    *out = NULL;
    return KVFOLD_OK;
}

int32_t kvfold_request_open_state(kvfold_engine * engine, const char * route, const char * body, const char * state,
                                  kvfold_request ** request, char ** out) {
    (void) body;
    return kvfold_request_open(engine, route, state, request, out);
}

int32_t kvfold_request_next(kvfold_request * request, char ** out) {
    *out = NULL;
    if (request->n_chunks++ > 0) {
        return KVFOLD_DONE;
    }
    if (strcmp(request->route, "/wait") == 0) {
        while (!request->cancelled) {
            usleep(1000);
        }
        return give(out, "{\"status\": -9, \"message\": \"cancelled\"}", KVFOLD_ERROR_CANCELLED);
    }
    if (strcmp(request->route, "/silent") == 0) {
        return KVFOLD_ERROR_INTERNAL;
    }
    return give(out, request->body, KVFOLD_OK);
}

void kvfold_request_cancel(kvfold_request * request) {
    request->cancelled = 1;
}

void kvfold_request_close(kvfold_request * request) {
    free(request->route);
    free(request->body);
    free(request);
}

int32_t kvfold_serve(kvfold_engine * engine, const char * options, kvfold_server ** server, char ** out) {
    *server = (kvfold_server *) engine;
    return give(out, options, KVFOLD_OK);
}

void kvfold_server_close(kvfold_server * server) {
    (void) server;
}

int32_t kvfold_evaluate(kvfold_engine * engine, const int32_t * tokens, int32_t n_tokens, int32_t first,
                        kvfold_logits_callback on_logits, void * user, char ** out) {
    float logits[engine->n_vocab];
    for (int32_t position = first; position < n_tokens; position++) {
        for (int i = 0; i < engine->n_vocab; i++) {
            logits[i] = 1000.0f * tokens[position] + i;
        }
        if (!on_logits(position, 1, logits, user)) {
            return give(out, "{\"status\": -9, \"message\": \"abandoned\"}", KVFOLD_ERROR_CANCELLED);
        }
    }
    *out = NULL;
    return KVFOLD_OK;
}

int32_t kvfold_observe(kvfold_engine * engine, const char * what, const int32_t * tokens, int32_t n_tokens,
                       float * values, size_t n_values, char ** out) {
    (void) engine;
    if (strcmp(what, "{\"what\":\"hidden_states\"}") != 0) {
        return give(out, "{\"status\": -1, \"message\": \"not in the stub\"}", KVFOLD_ERROR_INVALID_ARGUMENT);
    }
    for (size_t i = 0; values && i < n_values; i++) {
        values[i] = 10.0f * tokens[i / 2] + i % 2;
    }
    return give(out, n_tokens == 3 ? "{\"shape\": [3, 2]}" : "{\"shape\": [1, 2]}", KVFOLD_OK);
}

int32_t kvfold_schema_to_grammar(const char * schema, char ** out) {
    if (strcmp(schema, "{\"type\":\"ä\"}") != 0) {
        return give(out, "{\"status\": -1, \"message\": \"no schema\"}", KVFOLD_ERROR_INVALID_ARGUMENT);
    }
    return give(out, "{\"grammar\": \"root ::= \\\"ä\\\"\"}", KVFOLD_OK);
}

int32_t kvfold_rpc_serve(const char * options, char ** out) {
    (void) options;
    return give(out, "{\"status\": -13, \"message\": \"cannot listen\"}", KVFOLD_ERROR_ADDRESS);
}

int32_t kvfold_quantize(const char * path_in, const char * path_out, const char * options, char ** out) {
    (void) options;
    if (strcmp(path_in, "in") != 0 || strcmp(path_out, "aus-ä") != 0) {
        return give(out, "{\"status\": -3, \"message\": \"no file\"}", KVFOLD_ERROR_MODEL_NOT_FOUND);
    }
    *out = NULL;
    return KVFOLD_OK;
}
