/*
 * kvfold.h - the C interface of libkvfold: one llama.cpp engine per handle, driven by JSON.
 *
 * Conventions, valid for every function below unless its comment says otherwise:
 *
 * - Text is UTF-8 and NUL-terminated, in both directions. Numbers, options, requests and answers that are not on the
 *   token path travel as JSON, so that neither struct layouts nor enum values of llama.cpp cross this boundary.
 * - A function that can fail returns a kvfold_status: 0 is success, a negative value is a failure.
 * - `char ** out` receives one string that the caller frees with kvfold_free(): the result on success, and on failure
 *   a JSON object that describes the error:
 *
 *       {"status": -6, "message": "the prompt has 5000 tokens but a slot holds 4096", "value": 5000, "limit": 4096}
 *
 *   `status` and `message` are always there; `value` and `limit` where the error compares two numbers; `option` or
 *   `path` where one is at fault. `out` may be NULL when the caller wants neither. Errors are handed over with the
 *   failing call, not kept per thread or per handle, so two threads (or virtual threads that change carriers between
 *   two calls) never see each other's error.
 * - No C++ exception and no abort leaves the library because of something the caller passed in.
 * - Handles are opaque. Passing NULL yields KVFOLD_INVALID_ARGUMENT. Using a handle after its close function returned
 *   is undefined, as with fclose(); closing waits for calls that are still inside, see kvfold_close().
 * - Every function may be called from any thread. What may run concurrently is said per handle type.
 *
 * The engine behind a handle is llama.cpp's own server core (queue, slots, continuous batching, chat templates,
 * tool-call parsers, grammars), without HTTP: a request is the JSON body that llama-server takes on the same route.
 */
#ifndef KVFOLD_H
#define KVFOLD_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#    define KVFOLD_API __declspec(dllexport)
#else
#    define KVFOLD_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Changes whenever a signature, a status value or the meaning of a field below changes. */
#define KVFOLD_ABI_VERSION 2

typedef struct kvfold_engine  kvfold_engine;  /* a loaded model, its context, slots and worker thread; thread-safe */
typedef struct kvfold_request kvfold_request; /* one running request; see kvfold_request_next() for its threading */
typedef struct kvfold_server  kvfold_server;  /* an engine that listens on HTTP; closed once */

typedef enum kvfold_status {
    KVFOLD_OK                       =    0,
    KVFOLD_DONE                     =    1, /* kvfold_request_next(): no chunk left, *out is NULL */
    KVFOLD_ERROR_INVALID_ARGUMENT   =   -1, /* NULL handle, malformed JSON, a request the server core rejects */
    KVFOLD_ERROR_UNKNOWN_OPTION     =   -2, /* no such option; the message names near matches */
    KVFOLD_ERROR_MODEL_NOT_FOUND    =   -3, /* missing, unreadable or a directory */
    KVFOLD_ERROR_MODEL_INVALID      =   -4, /* not a GGUF file, truncated, inconsistent or of an unknown architecture */
    KVFOLD_ERROR_PLAN_INVALID       =   -5, /* a KV plan that is malformed or that this model cannot serve */
    KVFOLD_ERROR_CONTEXT_EXCEEDED   =   -6, /* the prompt does not fit a slot; `value` and `limit` are in tokens */
    KVFOLD_ERROR_QUEUE_FULL         =   -7, /* `value` requests wait, `limit` may; see option "max-queue" */
    KVFOLD_ERROR_OUT_OF_MEMORY      =   -8, /* weights, KV cache, more of it or compute buffers could not be had */
    KVFOLD_ERROR_CANCELLED          =   -9, /* kvfold_request_cancel() or a progress callback that returned 0 */
    KVFOLD_ERROR_CLOSED             =  -10, /* the engine was closed while the call was inside */
    KVFOLD_ERROR_UNSUPPORTED        =  -11, /* valid, but not possible with this model or these options */
    KVFOLD_ERROR_STATE              =  -12, /* a saved KV state that cannot be read, written or used by this engine */
    KVFOLD_ERROR_ADDRESS            =  -13, /* an address that cannot be listened on, e.g. because its port is in use */
    KVFOLD_ERROR_BUDGET_EXCEEDED    =  -14, /* a request needs more KV memory than "kv-budget" has; both in bytes */
    KVFOLD_ERROR_INTERNAL           = -100  /* everything else: a failed decode, a bug */
} kvfold_status;

typedef enum kvfold_log_level {
    KVFOLD_LOG_DEBUG = 1,
    KVFOLD_LOG_INFO  = 2,
    KVFOLD_LOG_WARN  = 3,
    KVFOLD_LOG_ERROR = 4
} kvfold_log_level;

/* One complete line without its newline. May be called from any thread of the library, also concurrently. Must not
 * call back into the library. */
typedef void (*kvfold_log_callback)(int32_t level, const char * line, void * user);

/* `fraction` grows from 0 to 1 while weights are read; called on the thread that is inside kvfold_open(). Returning 0
 * abandons the load with KVFOLD_ERROR_CANCELLED. */
typedef int32_t (*kvfold_progress_callback)(float fraction, void * user);

/* ---- library ---------------------------------------------------------------------------------------------------- */

/* KVFOLD_ABI_VERSION of the built library. A caller compares it with its own before anything else. */
KVFOLD_API int32_t kvfold_abi_version(void);

/* Frees a string that was received through an `out` parameter. NULL is allowed. */
KVFOLD_API void kvfold_free(char * text);

/*
 * What was built, and what it can run on. Does not load a model. *out:
 *
 *   {"version": "0.1.0", "llama_cpp": "v0.5.0", "patches": ["build-hook", ...],
 *    "compiler": "...", "cpu_features": {"AVX2": true, ...}, "cpu_required": "avx2 fma ...", "backends": ["CPU"],
 *    "devices": [{"name": "CPU", "description": "...", "type": "cpu|gpu|igpu|accel",
 *                 "memory_free": bytes, "memory_total": bytes, "kv_memory": "as_it_fills|whole"}]}
 *
 * cpu_required: instructions that the library takes for granted, in the names of /proc/cpuinfo. On Linux its section .kvfold_cpu holds the
 * same text, for whoever wants to know before calling anything.
 * kv_memory: whether keys and values on the device take memory as tokens come and give it back as they go (host memory on
 * Linux), or from the beginning for as many tokens as the context holds.
 */
KVFOLD_API int32_t kvfold_build_info(char ** out);

/* Routes the log of llama.cpp, ggml and the server core to `callback`; NULL silences it (the default). One callback
 * per process, set at any time. Lines below `min_level` are not formatted. */
KVFOLD_API void kvfold_log_set(kvfold_log_callback callback, int32_t min_level, void * user);

/*
 * Every option that kvfold_open() takes: llama-server's, and the ones of this project. *out:
 *
 *   [{"names": ["ctx-size", "c"], "negated": ["no-..."], "value": "N" or null for a flag, "env": "LLAMA_ARG_..." or null,
 *     "help": "..."}]
 */
KVFOLD_API int32_t kvfold_options(char ** out);

/* ---- engine ----------------------------------------------------------------------------------------------------- */

/*
 * Loads a model and starts its worker thread. `options` is a JSON object; a key is a long option name of llama-server
 * without its dashes, "ctx-size" or "ctx_size", with the same meaning and default unless listed here:
 *
 *   "model"         path of the GGUF file; required
 *   "ctx-size"      tokens that one request may use, prompt and answer together; 0 = what the model was trained with, or
 *                   what the default of "kv-budget" holds if that is less. More than the former is refused, unless "rope-scaling" "yarn"
 *                   with "rope-scale", or "override-kv" of its context_length, says that the model takes it. The pool of cells is as large as "kv-budget"
 *                   holds, from "ctx-size" up to "ctx-size" times "parallel", and exactly "ctx-size" where it is allocated
 *                   as a whole. With "kv-unified-per-slot", which is llama-server's name of the same, it is the pool
 *   "kv-unified"    defaults to true: the slots share the pool. With false each has cells of its own, "ctx-size" rounded up
 *                   to a multiple of 256; refused with "embeddings" or "reranking" in several slots and pooling by mean, first token
 *                   or rank (KVFOLD_ERROR_UNSUPPORTED), which needs a whole text in one ubatch
 *   "parallel"      slots, i.e. requests decoded side by side (default 4)
 *   "ubatch-size"   defaults to 512, or less where masks and scores over the pool would take more than a twentieth of
 *                   "kv-budget"; with "embeddings" or "reranking" and pooling by mean, first token or rank, where a text
 *                   must fit into one, to what a slot holds, as far as the model was trained. What computing that takes, with
 *                   masks over the pool, leaves less for "kv-budget": where "ctx-size" is open it becomes the longest text of which
 *                   both fit, and one that does not fit is KVFOLD_ERROR_OUT_OF_MEMORY with bytes needed and there
 *   "ctx-checkpoints"  defaults to 3: copies of what the windows of a slot hold, where the cache has any; they count against
 *                   "kv-budget", and are dropped before cells lack memory
 *   "batch-size"    defaults to "ubatch-size", so that a cancelled prefill stops after one ubatch, or what slots need: 2 or more, and
 *                   of each slot a token and those that are drafted. With "embeddings" a batch is a ubatch
 *   "fit"           defaults to off: nothing is resized behind the caller's back
 *   "warmup"        defaults to false
 *   "cache-ram"     defaults to 0: no second copy of the KV cache of idle prompts in host memory
 *   "poll"          defaults to 1: threads that have computed spin for some 30 ms before they sleep; with llama-server's 50,
 *                   for 1.5 s
 *
 * and of this project:
 *
 *   "describe-schema"  whether a chat shows the model the JSON schema of its answer, in one line at the end of the last message
 *                   of the user (default true). The answer is held to it by a grammar in any case. A request may show a
 *                   schema without being held to it: "answer_format", written as "response_format"
 *   "describe-tools"  whether a model takes tools although the chat template of its file does not show them (default true): they
 *                   are described at the start of the first message, and calls and results are written as text, between
 *                   <tool_call> tags. Such a request has one call per answer unless it says "parallel_tool_calls". With false
 *                   llama.cpp leaves tools out of such a prompt. Without effect beside "chat-template" and "chat-template-file"
 *   "max-queue"     requests that may wait for a slot before KVFOLD_ERROR_QUEUE_FULL (default 256). A request counts
 *                   from kvfold_request_open() until its last chunk was handed over or it was closed. The bound of those
 *                   that wait for memory of "kv-budget" as well
 *   "kv-budget"     bytes that keys and values may take, from the size of one token on: pages of cells, checkpoints and
 *                   copies of states, in all contexts of the engine, those of a draft model, kvfold_evaluate() and
 *                   kvfold_observe() included. Default: 60% of what is free when the engine opens, less weights and compute
 *                   buffers. A request begins when there is room for its prompt; when memory runs short, what idle
 *                   slots keep goes first, then the youngest request gives its cells up and computes them again later.
 *                   A request that cannot fit even alone is KVFOLD_ERROR_BUDGET_EXCEEDED at once: its prompt and the
 *                   longest answer it asks for ("max_tokens", "n_predict"), in whole pages, by the KV plan: a layer that
 *                   keeps a window costs the window; one that may turn out lazy costs both until the end of the prompt
 *                   and, after it, what it can cost at most. An answer without a limit may have as many tokens as the
 *                   budget holds. Where the cache is
 *                   allocated as a whole (see kvfold_build_info(), kv_memory), a budget smaller than that is
 *                   KVFOLD_ERROR_UNSUPPORTED; so is "cache-ram" beside a budget
 *   "admission"     "preempt", the default, as said under "kv-budget". "reserve": a request waits, in order of arrival, until
 *                   the memory of its prompt and of its longest answer is set aside for it. An answer without a limit has
 *                   room for as many tokens as fit in the budget divided by "parallel", and for more as long as nobody else
 *                   was promised it; then it ends with finish reason "length"
 *   "prefix-sharing"  whether a prompt begins with the cells of another request that begins alike (default true): of one that
 *                   runs, of an idle slot, or of one of up to 64 beginnings that are kept when their slots begin something else
 *                   and go, the least recently used first, when cells or memory run short. Prompts that come together wait
 *                   until the oldest of them has computed what they have in common. "cache_prompt": false in a request keeps
 *                   it out; so do another "cache_salt", a string, another API key of kvfold_serve() and other adapters. Whatever
 *                   this option says, a slot gives what it holds to none of another salt, key or adapter
 *                   Nothing is shared beside "context-shift", "cache-reuse", a draft model or a projector, with activated
 *                   adapters, recurrent layers, and with "kv-unified" false. Of an answer that lost older tokens to
 *                   "context-shift" a later prompt begins with the first "n_keep" ones at most, but with "n_cache_reuse", and
 *                   no state is saved. Where layers have a window a sequence that is longer is shared at its end only. So up to
 *                   8 beginnings are kept: what prompts that come together have in common, what a prompt has in common with an
 *                   earlier one, the end of each turn of a conversation. None is kept where the window is the model's own
 *   "memory-reserve"  bytes of the host's memory that keys and values leave free (default: 256 MiB, or 3% of what there is if
 *                   that is more). What is free is the least that MemAvailable and the control groups around the process
 *                   say; pages are refused beyond it
 *   "swap-dir"      a folder for the keys and values of answers that give their cells up: they are written there, and read when
 *                   there is room again, by the thread that computes. Default: none, and their tokens are computed again. A
 *                   file has no name, or goes when it is closed, and only its owner can read it. A folder in which none can be
 *                   made is refused, when the model has been loaded (KVFOLD_ERROR_INVALID_ARGUMENT). So an answer can give way
 *                   that could not be computed again as it was, without what "context-shift" took or under a LoRA that a token
 *                   activates. All others are computed again where nothing can be written, and so are always those with a draft
 *                   model, under a plan that evicts, and before it is decided which of their layers are lazy. Not with a projector
 *   "kv-plan"       which layer reads whose keys and values, and which retain only sinks and recent tokens; default: the
 *                   model's own metadata. "simlayerkv:0.9", "lighttransfer:8" and the attributes "lazy" and "full" leave
 *                   the latter to the engine, which decides for each sequence: SimLayerKV, LightTransfer (arXiv
 *                   2410.13846). Once a sequence has more tokens than sinks, window and scored queries, a layer is lazy
 *                   if the attention of the last 32 prompt queries ("queries=N") on sinks and window exceeds the
 *                   threshold. "decide=early", the default, looks when the prompt is twice as long as sinks and window,
 *                   whenever it has doubled since, and at its end, "end" only there, "decode" at the first generated
 *                   token. A lazy layer gives the pages of all other tokens back. A prompt that departs from the cached
 *                   one within the tokens that decided is computed again as a whole
 *   "kv-prefill"    "auto" (default), "fixed" or "exact": how prompts are cut under a plan whose layers read upward. auto
 *                   computes prompts that wait together side by side, exactly, and a lone one in at most 5 passes per
 *                   chunk; fixed takes whole ubatches and the plan's passes, as kvfold_evaluate() always does; exact
 *                   never takes more tokens of a sequence than passes, and neither does fixed beyond 16 passes
 *
 * Values are strings, numbers or booleans; true or false for a flag that has a negated form; an array repeats the
 * option. Options that concern HTTP, downloads, or that print and exit are refused by name. Environment variables and
 * configuration files are not read.
 *
 * A model file is checked before llama.cpp sees it: a truncated or damaged one is KVFOLD_ERROR_MODEL_INVALID. It is mapped unless
 * "load-mode" says otherwise, and must not be cut while it is in use: a page that is gone ends the process (SIGBUS). A request that begins
 * after that is an error, one that runs is not safe; replace a file by renaming another one to its name. A chat template of the file that
 * cannot be used makes chats KVFOLD_ERROR_UNSUPPORTED, nothing else.
 * Weights and a
 * context that need more memory than is free are KVFOLD_ERROR_OUT_OF_MEMORY before anything is allocated, with both numbers
 * of bytes; of the context counts what attention takes at its length, and keys and values only where they are allocated as a
 * whole. While it runs, requests for whose keys and values the system has no memory end with the same error: `limit` is what
 * the cache takes, `value` what it would have taken; where "kv-budget" is the limit, with KVFOLD_ERROR_BUDGET_EXCEEDED. The
 * engine goes on.
 *
 * "context-shift" is KVFOLD_ERROR_UNSUPPORTED where a plan keeps first tokens or a window: positions of cached keys stay. So it
 * is with keys of "cache-type-k" bf16, or of blocks that do not divide what RoPE rotates of a head; "n_cache_reuse" is
 * ignored there. One of several answers ("n") ends where its context does. A "cache-type-k" or "cache-type-v" whose blocks do
 * not divide a head is KVFOLD_ERROR_UNSUPPORTED.
 *
 * On success *engine is a handle for kvfold_close() and *out the JSON of kvfold_engine_info(). On failure *engine is
 * NULL and everything that had been allocated is released. `progress` may be NULL.
 */
KVFOLD_API int32_t kvfold_open(const char * options, kvfold_progress_callback progress, void * user,
                               kvfold_engine ** engine, char ** out);

/*
 * Facts that do not change while the engine is open. *out:
 *
 *   {"model":   {"path", "name", "architecture", "description", "file_type", "parameters", "bytes",
 *                "layers", "heads", "heads_kv", "embedding_length", "context_length_train", "vocabulary_size",
 *                "vocabulary_type": "none|spm|bpe|...", "chat_template": bool, "tokens": {"bos": id, "eos": id}},
 *    "context": {"size", "slots", "size_per_slot", "batch_size", "ubatch_size", "threads", "flash_attention": bool,
 *                "kv_type_k", "kv_type_v", "kv_unified": bool, "kv_plan": "0_1_2..."},
 *    "offload": {"layers": n, "layers_offloaded": n, "buffers": [{"device", "weights", "kv", "compute": bytes}]},
 *    "kv":      as kvfold_kv_stats()}
 */
KVFOLD_API int32_t kvfold_engine_info(kvfold_engine * engine, char ** out);

/*
 * The KV cache now. Never blocks on a running decode for longer than one ubatch. *out:
 *
 *   {"cells": tokens the cache can hold, "cells_used": those that hold a token, "layers": n, "layers_with_storage": n,
 *    "bytes_per_token": n, "bytes_allocated": n, "bytes_committed": n, "bytes_in_use": n,
 *    "bytes_budget": n or null, "ledger": {"pages": n, "checkpoints": n, "states": n, "swapped": n},
 *    "bytes_promised": n, "slots": n, "slots_busy": n,
 *    "requests_waiting": n, "requests_suspended": n, "preemptions": n, "tokens_recomputed": n,
 *    "prefixes": {"prompts": n, "hits": n, "tokens_shared": n, "kept": n, "cells_shared": n, "bytes_saved": n},
 *    "lazy_at_least": n,
 *    "by_layer": [{"layer": n, "bytes_per_token": n, "window": n or null, "may_be_lazy": bool,
 *                  "bytes_allocated": n, "bytes_committed": n, "bytes_in_use": n}],
 *    "by_slot": [{"slot": n, "busy": bool, "tokens": n, "bytes_in_use": n, "bytes_promised": n}],
 *    "lazy_layers": [[layers of slot 0], ...],
 *    "evictions": {"prompts": n, "seconds": s, "bytes": n, "by_layer": [{"layer": n, "kept": rows, "evicted": rows}]}}
 *
 * ledger: what counts against the budget, and in "swapped" what does not, as it lies in files of "swap-dir".
 *
 * requests_suspended have begun and gave their cells up for others, which preemptions counts since the engine was opened;
 * their tokens are read again or computed again when there is room, tokens_recomputed so far.
 *
 * prefixes: of the prompts that could begin with cells of another request, hits did, since the engine was opened, with
 * tokens_shared tokens that were not computed again; kept counts beginnings that no slot holds, cells_shared the cells that would
 * be there once more now if sequences shared none, and bytes_saved what those would take.
 *
 * evictions: prompts that lost tokens, since the engine was opened, the time that it took, the bytes of keys and values that are
 * gone, and the rows that each layer kept when they had ended and did not.
 *
 * by_layer tells of each layer with storage what one token takes and how many tokens of a sequence it keeps, null for all;
 * may_be_lazy: all or that many, by sequence, and of such layers lazy_at_least keep no more whatever the prompt.
 * lazy_layers is empty unless the plan leaves it to the engine which layers are lazy. bytes_per_token = sum over layers with
 * storage of the K row and the V row of one token, in bytes. bytes_allocated is the
 * sum of all K and V tensors, bytes_committed what of it takes memory now: pages that hold tokens, where memory is
 * committed as it fills (host memory on Linux, CUDA devices that can map memory), else all of it. bytes_in_use is what the rows of tokens take in cells, which
 * fill the last of their pages in part; by_layer has the layers with storage, by_slot every slot, where several answers to
 * one prompt count what they share once each. bytes_budget is "kv-budget" or its default, ledger what counts
 * against it, in bytes: pages of cells in all contexts, context checkpoints, sequences that gave their cells up, buffers of
 * states. bytes_promised is what a given "kv-budget" has set aside for requests, running or about
 * to. cells_used includes what is kept of finished requests for
 * the next prompt that begins alike; a request with "cache_prompt": false leaves nothing and gives its pages back.
 */
KVFOLD_API int32_t kvfold_kv_stats(kvfold_engine * engine, char ** out);

/*
 * The work done since the engine was opened. Waits as kvfold_kv_stats() does. *out:
 *
 *   {"prompt_tokens": computed, "prompt_tokens_cached": reused from the KV cache, "prompt_seconds": s,
 *    "generated_tokens": n, "generation_seconds": s}
 *
 * Seconds are wall time; those of requests that generate side by side add up. What a request generates is counted when it
 * ends.
 */
KVFOLD_API int32_t kvfold_token_stats(kvfold_engine * engine, char ** out);

/*
 * Closes the engine: running requests end with KVFOLD_ERROR_CLOSED, calls that are inside return, the worker stops,
 * memory is released. Requests stay valid handles and must still be closed by their owner, before or after this.
 * Blocks until the worker has finished its current ubatch. NULL is allowed.
 */
KVFOLD_API void kvfold_close(kvfold_engine * engine);

/* ---- requests --------------------------------------------------------------------------------------------------- */

/*
 * Posts a request and returns without waiting for its result. `route` names the llama-server route, `body` is its JSON
 * body:
 *
 *   "/v1/chat/completions"   chat; "stream": true gives one chunk per token or group of tokens
 *   "/completion"            raw prompt (text or token ids); "stream" as above
 *   "/infill"                text between "input_prefix" and "input_suffix"; needs a model with tokens for it
 *   "/v1/embeddings"         needs option "embeddings", and pooling
 *   "/embeddings"            an array of every text's vectors: one each, or one per token without pooling
 *   "/v1/rerank"             needs option "reranking", which a model without a classification head is refused with
 *   "/tokenize"  "/detokenize"  "/apply-template"  "/v1/chat/completions/input_tokens"  "/props"  "/slots"  "/metrics"
 *
 * Texts of messages, of tools, and to embed or to rank are texts: the name of a special token in them is letters, and only the chat
 * template writes special tokens. A raw prompt follows llama.cpp's rule, by which a name is the token, unless the body says
 * "parse_special": false. A last message of the assistant is the beginning of the answer, which goes on with it and holds what is
 * new only; special tokens in it are such. Half a surrogate pair becomes U+FFFD. Messages that a strict template refuses are given
 * to it again with system messages in front, those of one role merged, an empty one of the user before an assistant's that comes
 * first, and call ids of nine letters and digits.
 *
 * The model field of a body is not checked here. A body has at most 200 levels of brackets, 1000 "$ref", 4096 "messages", 256 "tools",
 * "chat_template_kwargs" and "stop", and 2048 prompts or inputs, of which as many are queued at a time as keep the slots busy; grammars,
 * patterns and schemas have bounds of their own (native/README.md), and what exceeds them is KVFOLD_ERROR_INVALID_ARGUMENT with rule or path
 * and place. A schema of an answer that no grammar can hold to the letter is KVFOLD_ERROR_UNSUPPORTED and names the keyword, unless its format
 * has "strict": false; then, and by default in parameters of tools, the keyword is left out and logged. Beside a response format no tool is
 * called unless "tool_choice" requires it, and a chat template with which llama.cpp would drop the format is KVFOLD_ERROR_UNSUPPORTED. An
 * object with named properties has no others, a string at most 2,000 characters. "tool_choice" may be an object as OpenAI and Anthropic have
 * it.
 *
 * Fails with KVFOLD_ERROR_QUEUE_FULL, KVFOLD_ERROR_CLOSED, KVFOLD_ERROR_MODEL_INVALID (a mapped file of the model was cut meanwhile) or
 * KVFOLD_ERROR_INVALID_ARGUMENT (unknown route, body is not a JSON object, a number in it is out of its range); every other failure is
 * reported by
 * kvfold_request_next(). On success *out is NULL.
 */
KVFOLD_API int32_t kvfold_request_open(kvfold_engine * engine, const char * route, const char * body,
                                       kvfold_request ** request, char ** out);

/*
 * As kvfold_request_open() on a completion route, for a conversation whose keys and values are kept in a file. `state` is
 * a JSON object:
 *
 *   "load"      path of a file to begin with, if its tokens agree with more of the prompt than what the slot holds; the
 *               rest of the prompt is computed. "cached_tokens" of the answer's usage says how much was found
 *   "save"      path to write once the answer is complete: all tokens of prompt and answer but the last one. Written by
 *               the kvfold_request_next() that returns KVFOLD_DONE, and complete whenever it appears under its name;
 *               of two writers the later one wins. Not written after a failure or when the request is closed earlier.
 *               Where others need the memory of the copy first, it waits in a file beside it, named PATH.*.partial
 *   "strict"    true: a file that cannot be used or cannot be written is KVFOLD_ERROR_STATE, an engine without a state
 *               to keep KVFOLD_ERROR_UNSUPPORTED. False, the default: that is logged, and the prompt is computed. A
 *               file that does not exist begins a conversation in both cases, and where "kv-budget" has no room for a
 *               state the prompt is computed. Requests that run give their cells up for the copy of a strict save; "value"
 *               and "limit" say what one that does not fit takes, and what there is
 *
 * A file is used only by an engine with the same model, KV plan, KV types and the like, and says what differs. It holds
 * the conversation as it is, so it is created for its owner's eyes only. A damaged or hostile file is an error like any
 * other. Where keys and values do not depend on the tokens alone (adapters, control vectors, a draft model, images) and
 * for models without a plain KV cache nothing is loaded or saved. With a sliding window the prompt is
 * computed again from the last checkpoint (llama-server's "ctx-checkpoints") before it departs from the saved tokens.
 *
 * The prompt is one, and so is the answer.
 */
KVFOLD_API int32_t kvfold_request_open_state(kvfold_engine * engine, const char * route, const char * body,
                                             const char * state, kvfold_request ** request, char ** out);

/*
 * Waits for the next chunk: KVFOLD_OK and one JSON value in *out, KVFOLD_DONE after the last one, or a failure, after
 * which every further call returns KVFOLD_DONE. A request that does not stream has exactly one chunk. One thread at a
 * time per request.
 */
KVFOLD_API int32_t kvfold_request_next(kvfold_request * request, char ** out);

/* Makes the request stop: a kvfold_request_next() that waits returns KVFOLD_ERROR_CANCELLED at once, the slot is free
 * after the ubatch that is being computed. May be called from any thread, any number of times, also after the end. */
KVFOLD_API void kvfold_request_cancel(kvfold_request * request);

/* Cancels the request if it still runs, then frees it. Must not run concurrently with any other call on the same
 * request. NULL is allowed. */
KVFOLD_API void kvfold_request_close(kvfold_request * request);

/* ---- HTTP ------------------------------------------------------------------------------------------------------- */

/*
 * Serves the engine over HTTP on the routes of llama-server, which are OpenAI's (chat completions, completions, responses,
 * embeddings, models), Anthropic's (messages) and its own. Requests share slots, queue and limits with those of
 * kvfold_request_open(). `options` is a JSON object with llama-server's names:
 *
 *   "host"          address to listen on, or several (default "127.0.0.1", this machine only)
 *   "port"          default 8080; 0 takes any that is free
 *   "api-key"       a key, or several, one of which requests must bring ("api-key-file": a file with one per line); an error
 *                   if there is none in it
 *   "cors-origins"  default "localhost": only pages of this machine, where llama-server's default is "*". A request with
 *                   another "Origin" than these, or than the server's own, is refused
 *   "threads-http"  connections at a time (default 512). For one more the one is dropped that has been incomplete for longest
 *   "timeout"       seconds that a client may take to send a request, and to take each piece of an answer, beyond one for
 *                   each 64 KiB (default 30). Then the connection ends, and what is computed for it
 *   "api-prefix", "reuse-port", "cors-methods", "cors-headers", "cors-credentials"
 *
 * On loopback, and without a key, a request must name loopback as its "Host". The content type of a body is application/json.
 * What this engine cannot do is 400 invalid_request_error, where llama-server answers 501, after which clients ask again. A body has 64 MiB
 * at most, all bodies together beyond 1 MiB of each 256 MiB.
 *
 * There is no user interface, no tools, no switching of models and no TLS. *out:
 *
 *   {"addresses": ["http://127.0.0.1:8080"], "port": 8080}
 *
 * The server keeps the engine's memory; after kvfold_close() it answers every request with 503.
 */
KVFOLD_API int32_t kvfold_serve(kvfold_engine * engine, const char * options, kvfold_server ** server, char ** out);

/* Ends the requests that came through this server and all its connections, and returns when it listens no more, at once
 * whatever the clients do. NULL is allowed. */
KVFOLD_API void kvfold_server_close(kvfold_server * server);

/* ---- raw evaluation --------------------------------------------------------------------------------------------- */

/* `logits` are those of positions [position, position + n): row-major float32 [n, vocabulary_size], valid until this
 * returns. Called on the thread that is inside kvfold_evaluate(), in the order of positions. Must not close the engine.
 * Returning 0 abandons the evaluation with KVFOLD_ERROR_CANCELLED. */
typedef int32_t (*kvfold_logits_callback)(int32_t position, int32_t n, const float * logits, void * user);

/*
 * Hands out the logits of positions [first, n_tokens) of one token sequence, computed from position 0 on a context of its
 * own that is made with the engine's options (KV types, flash attention, ubatch size, KV plan) and freed before the call
 * returns; slots and running requests are not touched.
 *
 * tokens    [n_tokens]  ids, each in [0, vocabulary_size)
 * first                 in [0, n_tokens)
 *
 * The sequence is computed in chunks of the engine's ubatch size, and `on_logits` is called for each that holds such
 * positions; no more logits than those of a chunk are in memory. Under a plan that chooses lazy layers for each prompt, a
 * chunk ends before `first`, so that what was chosen by then applies from there. kvfold_close() on another thread ends it
 * with KVFOLD_ERROR_CLOSED after at most one chunk. On success *out is NULL.
 */
KVFOLD_API int32_t kvfold_evaluate(kvfold_engine * engine, const int32_t * tokens, int32_t n_tokens, int32_t first,
                                   kvfold_logits_callback on_logits, void * user, char ** out);

/*
 * What the model computes inside for one token sequence: the material of which KV plans are searched. Computed as by
 * kvfold_evaluate(), with keys and values in f32. `what` is a JSON object:
 *
 *   {"what": "hidden_states"}   [n_tokens, embedding_length]  the last layer's output, normed
 *   {"what": "keys_values"}     [2, layers, n_tokens, width]  keys, as rotated, then values, as the KV cache holds them;
 *                               of a model each of whose layers stores its own, in rows of one width
 *   {"what": "attention_mass", "queries": 32, "sinks": 4, "recent": 1024}
 *                               [layers]  the share of the attention of the last `queries` tokens that falls on the first
 *                               `sinks` positions and the `recent` most recent ones, the query's own included: what a
 *                               layer sees if it retains only these. Mean over heads and queries. Without flash attention
 *   {"what": "kept_tokens"}     [layers, heads_kv, n_tokens]  1 where the head keeps the token when the prompt has ended, 0 where not.
 *                               Of a plan that evicts tokens, else KVFOLD_ERROR_UNSUPPORTED; keys and values are of the engine's types.
 *                               A layer that reads another one's is as that one, one with a window keeps this and its sinks; where a
 *                               layer has fewer heads than others the rest is -1
 *
 * values  row-major float32 of the shape above, n_values its length in floats; NULL to be told the shape only
 *
 * On success *out is {"shape": [n, ...]}.
 */
KVFOLD_API int32_t kvfold_observe(kvfold_engine * engine, const char * what, const int32_t * tokens, int32_t n_tokens,
                                  float * values, size_t n_values, char ** out);

/* ---- grammars --------------------------------------------------------------------------------------------------- */

/*
 * The GBNF grammar of what a JSON schema describes, as the "json_schema" of a request becomes one. Independent of any
 * engine; bounded as the body of a request is. KVFOLD_ERROR_INVALID_ARGUMENT for a schema that contradicts itself or is none,
 * KVFOLD_ERROR_UNSUPPORTED for what no grammar can hold; both name the place.
 * *out:
 *
 *   {"grammar": "root ::= ..."}
 */
KVFOLD_API int32_t kvfold_schema_to_grammar(const char * schema, char ** out);

/* ---- files ------------------------------------------------------------------------------------------------------ */

/*
 * Quantises a GGUF file with llama.cpp's quantiser. `options` is a JSON object: {"type": "q8_0", "threads": n,
 * "allow_requantize": bool}. Independent of any engine. The output appears under its name when it is complete. On success
 * *out is NULL.
 */
KVFOLD_API int32_t kvfold_quantize(const char * path_in, const char * path_out, const char * options, char ** out);

/* ---- other hosts ------------------------------------------------------------------------------------------------ */

/*
 * Lends this host's GPUs, or its CPU where there is none, to engines of other hosts: their option "rpc" names it as
 * "host:port", and they keep layers with their keys and values here. `options` is a JSON object: {"host": "127.0.0.1",
 * "port": 50052, "threads": n}, all optional; the threads are those of the CPU. Serves one engine after the other, since
 * that is what llama.cpp's RPC backend does, and both sides must be built from the same version of it.
 *
 * Blocks for good. Returns KVFOLD_ERROR_ADDRESS if it cannot listen. Nothing is encrypted and nobody is asked for a key:
 * whoever reaches the port can use the memory of this process. For private networks only.
 */
KVFOLD_API int32_t kvfold_rpc_serve(const char * options, char ** out);

#ifdef __cplusplus
}
#endif

#endif /* KVFOLD_H */
