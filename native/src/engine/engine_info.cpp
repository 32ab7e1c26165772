// What an engine says about itself: kvfold_engine_info() and kvfold_kv_stats().

#include "engine/engine.h"
#include "kv/memory/folded_memory.h"
#include "kv/memory/layout.h"
#include "kv/memory/memory.h"
#include "kv/eviction/evictor.h"
#include "kv/retention/retention.h"

#include "ggml-backend.h"
#include "llama-context.h"
#include "llama-ext.h"
#include "llama-kv-cache.h"
#include "llama-model.h"
#include "llama.h"

#include <map>

namespace kvfold {

static const char * vocabulary_type(const llama_vocab * vocab) {
    switch (llama_vocab_type(vocab)) {
        case LLAMA_VOCAB_TYPE_NONE: return "none";
        case LLAMA_VOCAB_TYPE_SPM:  return "spm";
        case LLAMA_VOCAB_TYPE_BPE:  return "bpe";
        case LLAMA_VOCAB_TYPE_WPM:  return "wpm";
        case LLAMA_VOCAB_TYPE_UGM:  return "ugm";
        case LLAMA_VOCAB_TYPE_RWKV: return "rwkv";
        default:                    return "other";
    }
}

static std::string metadata(const llama_model * model, const char * key) {
    const int32_t length = llama_model_meta_val_str(model, key, nullptr, 0);
    if (length < 0) {
        return "";
    }
    std::string text(length + 1, '\0');
    llama_model_meta_val_str(model, key, text.data(), text.size());
    text.pop_back();
    return text;
}

static json describe_model(const llama_model * model, const common_params & params, const model_facts & facts) {
    const llama_vocab * vocab = llama_model_get_vocab(model);
    char                description[256];
    llama_model_desc(model, description, sizeof(description));
    auto token = [](llama_token id) { return id == LLAMA_TOKEN_NULL ? json(nullptr) : json(id); };
    return json({
        { "path",                 params.model.path                                      },
        { "name",                 metadata(model, "general.name")                        },
        { "architecture",         facts.architecture                                     },
        { "description",          description                                            },
        { "file_type",            llama_ftype_name(llama_model_ftype(model))             },
        { "parameters",           llama_model_n_params(model)                            },
        { "bytes",                llama_model_size(model)                                },
        { "layers",               llama_model_n_layer(model)                             },
        { "heads",                llama_model_n_head(model)                              },
        { "heads_kv",             llama_model_n_head_kv(model)                           },
        { "embedding_length",     llama_model_n_embd(model)                              },
        { "context_length_train", llama_model_n_ctx_train(model)                         },
        { "vocabulary_size",      llama_vocab_n_tokens(vocab)                            },
        { "vocabulary_type",      vocabulary_type(vocab)                                 },
        { "chat_template",        llama_model_chat_template(model, nullptr) != nullptr   },
        { "tokens",               { { "bos", token(llama_vocab_bos(vocab)) }, { "eos", token(llama_vocab_eos(vocab)) } } },
    });
}

static json describe_offload(const llama_context * context, const llama_model * model) {
    int32_t on_device = 0;
    for (int32_t il = 0; il < llama_model_n_layer(model); il++) {
        on_device += ggml_backend_dev_type(model->dev_layer(il)) != GGML_BACKEND_DEVICE_TYPE_CPU;
    }
    // by name: keys and values in host memory have a buffer type of their own
    std::map<std::string, llama_memory_breakdown_data> by_device;
    for (const auto & [type, bytes] : llama_get_memory_breakdown(context)) {
        auto & sum = by_device[ggml_backend_buft_name(type)];
        sum.model   += bytes.model;
        sum.context += bytes.context;
        sum.compute += bytes.compute;
    }
    json buffers = json::array();
    for (const auto & [device, bytes] : by_device) {
        if (bytes.total() > 0) {
            buffers.push_back(json({ { "device", device },
                                     { "weights", bytes.model },
                                     { "kv", bytes.context },
                                     { "compute", bytes.compute } }));
        }
    }
    return json({ { "layers", llama_model_n_layer(model) }, { "layers_offloaded", on_device }, { "buffers", buffers } });
}

json engine::describe() {
    const llama_context * context = server->get_llama_context();
    const llama_model *   model   = llama_get_model(context);
    const common_params & params  = options.params;
    const auto &          cparams = context->get_cparams();
    const kvfold_plan &   own     = model->hparams.kv_plan;
    const kvfold_plan     plan    = own.active() ? own : kvfold_plan_parse("standard", model->hparams.n_layer());
    return json({
        { "model",   describe_model(model, params, facts) },
        { "context", { { "size", llama_n_ctx(context) },
                       { "slots", params.n_parallel },
                       { "size_per_slot", server->get_meta().slot_n_ctx },
                       { "batch_size", llama_n_batch(context) },
                       { "ubatch_size", llama_n_ubatch(context) },
                       { "threads", llama_n_threads(const_cast<llama_context *>(context)) },
                       { "flash_attention", cparams.flash_attn },
                       { "kv_type_k", ggml_type_name(params.cache_type_k) },
                       { "kv_type_v", ggml_type_name(params.cache_type_v) },
                       { "kv_unified", params.kv_unified },
                       { "kv_plan", plan.str() } } },
        { "offload", describe_offload(context, model) },
    });
}

json engine::info() {
    use  inside(*this);
    json answer  = fixed_info;
    answer["kv"] = kv_stats();
    return answer;
}

// The worker answers between two tasks and also while a batch is being computed.
server_task_result_ptr engine::ask_worker(server_task_type question) {
    auto reader = server->get_response_reader();
    {
        server_task task(question);
        task.id = reader.get_new_id();
        reader.post_task(std::move(task), true);
    }
    auto result = reader.next([this] { return has_failed(); });
    if (!result || result->is_error()) {
        throw error(KVFOLD_ERROR_INTERNAL, "the worker thread does not answer; its last words are in the log");
    }
    return result;
}

// By slot; a slot is a sequence.
static json lazy_layers(const llama_context * context, int32_t n_slots) {
    const kvfold_retention * const retention = retention_of(llama_get_memory(context));
    json                           slots     = json::array();
    if (!retention) {
        return slots;
    }
    for (const auto & layers : retention->lazy_layers((uint32_t) n_slots)) {
        json slot = json::array();
        for (const int il : layers) {
            slot.push_back(il);
        }
        slots.push_back(slot);
    }
    return slots;
}

static json evictions(const kv_layout & layout) {
    const auto done     = layout.evicts ? layout.evicts->so_far() : evictor::account();
    json       by_layer = json::array();
    for (size_t il = 0; il < done.n_kept.size(); ++il) {
        if (done.n_kept[il] > 0) {
            by_layer.push_back(json({ { "layer", il }, { "kept", done.n_kept[il] }, { "evicted", done.n_evicted[il] } }));
        }
    }
    return json({ { "prompts", done.n_prompts }, { "seconds", (double) done.n_microseconds/1e6 }, { "bytes", done.n_bytes }, { "by_layer", by_layer } });
}

static json describe_layers(const std::vector<kv_usage::layer> & layers) {
    json list = json::array();
    for (const kv_usage::layer & layer : layers) {
        list.push_back(json({ { "layer", layer.il },
                              { "bytes_per_token", layer.bytes_row },
                              { "window", layer.window > 0 ? json(layer.window) : json(nullptr) },
                              { "may_be_lazy", layer.may_be_lazy },
                              { "bytes_allocated", layer.allocated },
                              { "bytes_committed", layer.committed },
                              { "bytes_in_use", layer.in_use } }));
    }
    return list;
}

// What the cache takes and what the account says, at a moment at which the worker changes neither if one can be had.
engine::memory_now engine::look_at_memory() const {
    constexpr int n_tries = 32;
    for (int i = 1;; ++i) {
        const uint64_t before = ledger->n_changes();
        memory_now     now    = { { ledger->held(charge::pages), ledger->held(charge::checkpoints), ledger->held(charge::states) },
                                  usage_now(layout, (uint32_t) options.params.n_parallel) };
        if (ledger->n_changes() == before || i == n_tries) {
            return now;
        }
    }
}

json engine::kv_stats() {
    use        inside(*this);
    uint64_t   tokens = 0, busy = 0;
    const json slots   = ask_worker(SERVER_TASK_TYPE_SLOT_GET)->to_json();
    json       by_slot = json::array();
    const auto now     = look_at_memory();
    for (const auto & slot : slots) {
        // tokens of the running request, or kept from the last one for the next prompt that begins alike
        const int id         = slot.at("id").get<int>();
        const int n_tokens   = slot.value("n_prompt_tokens", 0);
        const bool is_busy   = slot.value("is_processing", false);
        tokens += n_tokens;
        busy   += is_busy;
        by_slot.push_back(json({ { "slot", id },
                                 { "busy", is_busy },
                                 { "tokens", n_tokens },
                                 { "bytes_in_use", now.usage.in_use_by_seq.at((size_t) id) },
                                 { "bytes_promised", admits->bytes_promised(id) } }));
    }
    return json({
        { "cells",               layout.cells                                                        },
        { "cells_used",          layout.caches.empty() ? tokens : cells_in_use(*layout.caches.front().cells) },
        { "layers",              facts.layers                                                        },
        { "layers_with_storage", layout.layers_with_storage                                          },
        { "bytes_per_token",     layout.bytes_per_token                                              },
        { "bytes_allocated",     now.usage.allocated                                                 },
        { "bytes_committed",     now.usage.committed                                                 },
        { "bytes_in_use",        now.usage.in_use                                                    },
        { "bytes_budget",        ledger->cap() < page_ledger::no_cap ? json(ledger->cap()) : json(nullptr) },
        { "ledger",              { { "pages", now.held[0] },
                                   { "checkpoints", now.held[1] },
                                   { "states", now.held[2] },
                                   { "swapped", schedule->bytes_swapped.load() } }                     },
        { "bytes_promised",      admits->bytes_promised()                                            },
        { "slots",               options.params.n_parallel                                           },
        { "slots_busy",          busy                                                                },
        { "requests_waiting",    requests_waiting()                                                  },
        { "requests_suspended",  schedule->n_suspended.load()                                        },
        { "preemptions",         schedule->n_preemptions.load()                                      },
        { "tokens_recomputed",   schedule->n_recomputed.load()                                       },
        { "prefixes",            { { "prompts", prefixes->n_prompts.load() },
                                   { "hits", prefixes->n_hits.load() },
                                   { "tokens_shared", prefixes->n_adopted.load() },
                                   { "kept", prefixes->n_kept.load() },
                                   { "cells_shared", schedule->n_shared.load() },
                                   { "bytes_saved", schedule->n_shared.load()*layout.bytes_per_token } } },
        { "lazy_at_least",       layout.lazy_at_least()                                              },
        { "by_layer",            describe_layers(now.usage.layers)                                   },
        { "by_slot",             by_slot                                                             },
        { "lazy_layers",         lazy_layers(server->get_llama_context(), options.params.n_parallel) },
        { "evictions",           evictions(layout)                                                   },
    });
}

// In the text format of Prometheus, as the lines of llama-server that they follow. They ask nobody, so that they are there
// while a batch is computed.
std::string engine::kv_metrics() {
    std::string text;
    const auto  now      = look_at_memory();
    const auto  describe = [&](const char * name, const char * type, const char * help) {
        text += std::string("# HELP kvfold:") + name + " " + help + "\n# TYPE kvfold:" + name + " " + type + "\n";
    };
    const auto value = [&](const std::string & name, uint64_t number) { text += "kvfold:" + name + " " + std::to_string(number) + "\n"; };
    const auto one   = [&](const char * name, const char * type, const char * help, uint64_t number) {
        describe(name, type, help);
        value(name, number);
    };
    one("kv_cells", "gauge", "Tokens the KV cache can hold.", layout.cells);
    one("kv_allocated_bytes", "gauge", "Size of the KV cache.", layout.bytes_allocated);
    one("kv_committed_bytes", "gauge", "KV cache that takes memory.", now.usage.committed);
    if (ledger->cap() < page_ledger::no_cap) {
        one("kv_budget_bytes", "gauge", "Most that keys and values may take.", ledger->cap());
    }
    describe("kv_held_bytes", "gauge", "What counts against the budget, by kind.");
    size_t kind = 0;
    for (const char * type : { "pages", "checkpoints", "states" }) {
        value(std::string("kv_held_bytes{type=\"") + type + "\"}", now.held[kind++]);
    }
    one("kv_swapped_bytes", "gauge", "Keys and values of suspended requests in files of swap-dir.", schedule->bytes_swapped.load());
    one("kv_promised_bytes", "gauge", "KV memory set aside for requests.", admits->bytes_promised());
    one("requests_waiting", "gauge", "Requests that wait for a slot or for room in the KV cache.", requests_waiting());
    one("requests_suspended", "gauge", "Requests that gave their cells up and wait to go on.", schedule->n_suspended.load());
    one("prefix_prompts_total", "counter", "Prompts that could begin with what another request had computed.", prefixes->n_prompts.load());
    one("prefix_hits_total", "counter", "Prompts that did.", prefixes->n_hits.load());
    one("prefix_tokens_total", "counter", "Tokens that were not computed again because of it.", prefixes->n_adopted.load());
    one("prefixes_kept", "gauge", "Beginnings of prompts that are kept and no slot holds.", prefixes->n_kept.load());
    one("kv_cells_shared", "gauge", "Cells that sequences would take more if they shared none.", schedule->n_shared.load());
    if (layout.evicts) {
        const auto done = layout.evicts->so_far();
        one("evictions_total", "counter", "Prompts that lost tokens.", done.n_prompts);
        one("evicted_bytes_total", "counter", "Keys and values of these tokens.", done.n_bytes);
    }
    one("preemptions_total", "counter", "How often a request gave its cells up.", schedule->n_preemptions.load());
    one("tokens_recomputed_total", "counter", "Tokens of answers computed again because of it.", schedule->n_recomputed.load());
    return text;
}

json engine::token_stats() {
    use          inside(*this);
    const auto   result  = ask_worker(SERVER_TASK_TYPE_METRICS);
    const auto & metrics = dynamic_cast<const server_task_result_metrics &>(*result).metrics;
    return json({
        { "prompt_tokens",        metrics.prompt.count        },
        { "prompt_tokens_cached", metrics.n_prompt_cached     },
        { "prompt_seconds",       metrics.prompt.time / 1e6   },
        { "generated_tokens",     metrics.predict.count       },
        { "generation_seconds",   metrics.predict.time / 1e6  },
    });
}

} // namespace kvfold
