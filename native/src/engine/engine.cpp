#include "engine/engine.h"

#include "kv/graph/passes.h"
#include "kv/memory/caches.h"
#include "kv/plan/model_plan.h"
#include "process/at_exit.h"
#include "process/json_text.h"
#include "process/kvfold_log.h"
#include "engine/fit.h"
#include "engine/progress_relay.h"
#include "serving/request.h"
#include "serving/tool_calls.h"
#include "text/grammar.h"
#include "text/limits.h"

#include "chat.h"
#include "ggml-backend.h"
#include "llama-context.h"
#include "llama-kv-cache.h"
#include "llama-model.h"
#include "llama.h"

#include <algorithm>
#include <cstring>

namespace kvfold {

void engine::enter() {
    std::lock_guard<std::mutex> lock(mutex);
    if (closing) {
        throw error(KVFOLD_ERROR_CLOSED, "the engine was closed");
    }
    calls_inside++;
}

void engine::leave() {
    std::lock_guard<std::mutex> lock(mutex);
    calls_inside--;
    changed.notify_all();
}

static void check_companions(const common_params & params) {
    check_companion(params.mmproj.path);
    check_draft_model(params.speculative.draft.mparams.path);
    for (const auto & adapter : params.lora_adapters) {
        check_companion(adapter.path);
    }
    for (const auto & vector : params.control_vectors) {
        check_companion(vector.fname);
    }
}

// Without flash attention llama.cpp would read a head's keys from other places than it wrote them to.
static void check_head(const char * what, uint64_t n_head, ggml_type type, const std::string & option, const std::string & path) {
    const int64_t n_block = ggml_blck_size(type);
    if (n_head%(uint64_t) n_block != 0) {
        throw error(KVFOLD_ERROR_UNSUPPORTED, "\"" + option + "\" is " + ggml_type_name(type) + ", but a " + what + " head of '" + path + "' has " +
                                                  std::to_string(n_head) + " elements, which blocks of " + std::to_string(n_block) + " do not divide")
            .compares((int64_t) n_head, n_block)
            .about_option(option);
    }
}

static void check_heads(const common_params & params, const model_facts & facts) {
    if (facts.is_encoder) {
        return;
    }
    check_head("key", facts.key_length, params.cache_type_k, "cache-type-k", params.model.path);
    if (params.flash_attn_type != LLAMA_FLASH_ATTN_TYPE_DISABLED) { // without it values cannot be quantised at all
        check_head("value", facts.value_length, params.cache_type_v, "cache-type-v", params.model.path);
    }
}

std::shared_ptr<engine> engine::open(const std::string & text, kvfold_progress_callback progress, void * user) {
    std::shared_ptr<engine> opened(new engine());
    progress_relay          relay(progress, user);
    relay.run([&] {
        const busy_scope     busy([] {}); // loading looks at process_is_exiting()
        const template_scope templates;
        opened->options = parse_options(text);
        opened->facts   = check_model(opened->options.params.model.path, opened->options.params.kv_overrides);
        check_companions(opened->options.params);
        check_heads(opened->options.params, opened->facts);
        opened->choose_template();
        complete_options(opened->options, opened->facts,
                         [&] { opened->plan_memory(std::make_unique<gauge>(opened->options.memory_reserve)); });
        opened->load(progress ? progress_relay::report : nullptr, &relay);
        opened->start();
    });
    static std::once_flag once;
    std::call_once(once, register_exit_handler);
    return opened;
}

// Why the server core could not load a model with this template; empty if it can.
static std::string template_failure(const std::string & source) {
    const abort_guard    guard;
    const template_scope budget; // the server core does the same once more
    try {
        check_template(source);
        const auto parsed = common_chat_templates_init(nullptr, source);
        common_chat_format_example(parsed.get(), /*use_jinja =*/true, {});
        common_chat_templates_support_enable_thinking(parsed.get());
        return "";
    } catch (const std::exception & e) {
        return e.what();
    }
}

// Some only write down calls and results that a conversation has.
static bool shows_tools(const std::string & source) {
    const template_scope budget;
    const auto           parsed = common_chat_templates_init(nullptr, source);
    return common_chat_templates_get_caps(parsed.get()).at("supports_tools");
}

// A template of the file that cannot be used does not keep the model from what needs none.
void engine::choose_template() {
    if (!options.params.chat_template.empty()) {
        return;
    }
    for (const auto & source : facts.chat_templates) {
        no_template = template_failure(source);
        if (!no_template.empty()) {
            options.params.chat_template = "chatml"; // the server core wants one
            log_emit(KVFOLD_LOG_WARN, "the chat template of '" + options.params.model.path + "' cannot be used: " + no_template);
            return;
        }
    }
    if (options.describe_tools && options.params.use_jinja && facts.chat_templates.size() == 1 && !shows_tools(facts.chat_templates.front())) {
        const std::string described = describe_tools(facts.chat_templates.front());
        if (template_failure(described).empty()) {
            options.params.chat_template = described;
            has_described_tools          = true;
        }
    }
}

// What a handler of llama.cpp for one family of templates makes of a schema: a grammar, or nothing.
static bool holds_formats(const llama_model * model, const common_params & params) {
    const template_scope         budget;
    const auto                   parsed = common_chat_templates_init(model, params.chat_template);
    common_chat_templates_inputs inputs;
    common_chat_msg              question;
    question.role      = "user";
    question.content   = "?";
    inputs.messages    = { question };
    inputs.json_schema = R"({"type": "object"})";
    inputs.use_jinja   = params.use_jinja;
    return !common_chat_templates_apply(parsed.get(), inputs).grammar.empty();
}

void engine::require_formats() {
    std::call_once(formats_asked, [&] { has_formats = holds_formats(llama_get_model(server->get_llama_context()), options.params); });
    if (!has_formats) {
        throw error(KVFOLD_ERROR_UNSUPPORTED, "\"response_format\" cannot be kept with the chat template of '" + options.params.model.path +
                                                  "': llama.cpp's handler of its family has none; option \"chat-template\" takes another")
            .about_option("chat-template")
            .about_path(options.params.model.path);
    }
}

void engine::require_template() const {
    if (!no_template.empty()) {
        const std::string & path = options.params.model.path;
        throw error(KVFOLD_ERROR_UNSUPPORTED, "the chat template of '" + path + "' cannot be used, option \"chat-template\" takes another: " + no_template)
            .about_option("chat-template")
            .about_path(path);
    }
}

engine::~engine() {
    close();
}

// ---- loading ----------------------------------------------------------------------------------------------------------

static kvfold_plan requested_plan(const model_facts & facts, const common_params & params) {
    if (params.kv_plan.empty()) {
        return facts.kv_plan;
    }
    try {
        return kvfold_plan_parse(params.kv_plan, (uint32_t) facts.layers);
    } catch (const std::invalid_argument & e) {
        throw error(KVFOLD_ERROR_PLAN_INVALID, e.what()).about_option("kv-plan");
    }
}

// llama.cpp would give each slot what the model was trained with, and log that.
static void check_context(int32_t asked, uint64_t trained, const common_params & params, const model_facts & facts) {
    if (asked > 0 && (uint64_t) asked > trained) {
        const std::string key = facts.architecture + ".context_length";
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "a context of " + std::to_string(asked) + " tokens is more than the " + std::to_string(trained) +
                                                       " that '" + params.model.path + "' was trained for; YaRN (\"rope-scaling\"," +
                                                       " \"rope-scale\") stretches it, or \"override-kv\" with \"" + key +
                                                       "=int:" + std::to_string(asked) + "\"")
            .compares(asked, (int64_t) trained)
            .about_option("ctx-size");
    }
}

// Linux hands out more memory than there is and kills the process later, so sizes that cannot fit are refused here.
void engine::plan_memory(std::unique_ptr<gauge> system) {
    const kvfold_plan   plan   = requested_plan(facts, options.params);
    const memory_places places = memory_places_for(facts, options.params, *system);
    const common_params & params = options.params;
    const int32_t         asked  = params.kv_unified_per_slot > 0 ? params.kv_unified_per_slot : params.n_ctx;
    const bool            as_is  = params.rope_scaling_type == LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED && params.rope_freq_scale == 0;
    if (as_is && facts.context_length > 0) { // else it is known when llama.cpp has stretched it
        check_context(asked, facts.context_length, params, facts);
    }
    fit_to_memory(options, facts, plan, places);
    log_emit(KVFOLD_LOG_INFO, describe_fit_to_memory(options, facts, plan));
    ledger = std::make_shared<page_ledger>(options.kv_budget > 0 ? options.kv_budget : page_ledger::no_cap, std::move(system));
    ledger->keep(weights_on_host(facts, places));
}

static error load_error(const error_lines & errors, const std::string & path) {
    const std::string cause = errors.cause("llama.cpp could not load it");
    if (errors.contain("llocate") || errors.contain("out of memory")) {
        return error(KVFOLD_ERROR_OUT_OF_MEMORY, "'" + path + "': " + cause).about_path(path);
    }
    if (errors.contain("failed to load model") || errors.contain("error loading model")) {
        return error(KVFOLD_ERROR_MODEL_INVALID, "'" + path + "': " + cause).about_path(path);
    }
    return error(KVFOLD_ERROR_UNSUPPORTED, "'" + path + "' with these options: " + cause).about_path(path);
}

static void check_shift(llama_memory_t memory, ggml_type keys) {
    if (llama_memory_can_shift(memory)) {
        return;
    }
    const auto caches = kv_caches_of(memory);
    const bool can    = std::all_of(caches.begin(), caches.end(), [](const llama_kv_cache * cache) { return cache->get_can_shift(); });
    throw error(KVFOLD_ERROR_UNSUPPORTED,
                can ? "\"context-shift\" cannot be kept with this model and plan: positions of cached keys stay as they are where a layer keeps"
                      " first tokens or a window only"
                    : std::string("\"context-shift\" cannot be kept with keys of type ") + ggml_type_name(keys) +
                          " (\"cache-type-k\") of this model: they cannot be rotated for other positions, as those of f16 and f32 are, and"
                          " those of a quantised type if its blocks divide what is rotated")
        .about_option("context-shift");
}

// What llama.cpp takes and answers with wrong numbers: without a head it reads a score somewhere in the vectors of all texts of a
// batch, and of a text in pieces it pools the last one. A prompt under a plan whose layers read upward is cut into short pieces, and
// so are texts of unequal length in cells of their own.
static void check_pooling(const llama_context & context, const std::string & path) {
    const auto &        cparams = context.get_cparams();
    const llama_model & model   = context.get_model();
    const kvfold_plan & plan    = model.hparams.kv_plan;
    const bool          ranks   = cparams.pooling_type == LLAMA_POOLING_TYPE_RANK;
    const bool          whole   = cparams.pooling_type == LLAMA_POOLING_TYPE_MEAN || cparams.pooling_type == LLAMA_POOLING_TYPE_CLS || ranks;
    if (cparams.embeddings && ranks && !model.cls && !model.cls_out) {
        throw error(KVFOLD_ERROR_UNSUPPORTED, "'" + path + "' is no reranker: it has no classification head (tensors 'cls.*') for \"reranking\"")
            .about_option("reranking")
            .about_path(path);
    }
    if (cparams.embeddings && whole && !cparams.kv_unified && cparams.n_seq_max > 1 && context.get_memory()) {
        throw error(KVFOLD_ERROR_UNSUPPORTED, "pooling by mean, first token or rank needs a whole text at once, which texts that are computed"
                                              " together have in a pool of cells only: leave \"kv-unified\" true, or set \"parallel\" to 1")
            .about_option("kv-unified");
    }
    if (cparams.embeddings && whole && plan.upward() && (cparams.kv_prefill != KVFOLD_PREFILL_FIXED || is_exact(plan, cparams.kv_prefill))) {
        throw error(KVFOLD_ERROR_UNSUPPORTED, "pooling by mean, first token or rank needs a whole text at once, which a plan whose layers read"
                                              " higher ones has with \"kv-prefill\" \"fixed\" and at most 16 passes only")
            .about_option("kv-prefill");
    }
}

// Others normalise a text first, or have one token for a long word that they do not know.
static size_t bytes_of_longest_token(const llama_vocab * vocab) {
    const auto type = llama_vocab_type(vocab);
    if (type != LLAMA_VOCAB_TYPE_SPM && type != LLAMA_VOCAB_TYPE_BPE) {
        return 0;
    }
    size_t longest = 4; // a character
    for (llama_token id = 0; id < llama_vocab_n_tokens(vocab); id++) {
        longest = std::max(longest, strlen(llama_vocab_get_text(vocab, id)));
    }
    return longest;
}

void engine::load(kvfold_progress_callback progress, void * user) {
    const ledger_scope charged(ledger);

    static std::once_flag numa;
    if (options.params.numa != GGML_NUMA_STRATEGY_DISABLED) {
        std::call_once(numa, [&] { llama_numa_init(options.params.numa); });
    }

    const c_locale_scope c_locale;
    const error_lines    errors;
    const std::string    path      = options.params.model.path;
    bool                 abandoned = false;
    bool                 loaded    = false;
    const bool           shifts    = options.params.ctx_shift; // which loading unsets where it cannot be

    server = std::make_unique<server_context>();
    routes = std::make_unique<server_routes>(options.params, *server);
    server->set_state_callback([&](server_state state, json payload) {
        if (process_is_exiting()) {
            throw error(KVFOLD_ERROR_CANCELLED, "the process exits");
        }
        if (progress && state == SERVER_STATE_LOADING && payload.contains("value") && !abandoned) {
            if (progress(payload.at("value").get<float>(), user) == 0) {
                abandoned = true;
                throw error(KVFOLD_ERROR_CANCELLED, "loading was abandoned"); // unwinds llama.cpp's loader
            }
        }
    });
    const std::string grammar = common_grammar_value(options.params.sampling.grammar); // of requests that bring none
    if (grammar.find('<') == std::string::npos) { // else it may name tokens, which are not loaded yet
        check_grammar(grammar, nullptr);
    }
    try {
        const abort_guard guard;
        loaded = server->load_model(options.params);
    } catch (const error &) {
        throw;
    } catch (const std::bad_alloc &) {
        throw error(KVFOLD_ERROR_OUT_OF_MEMORY, "out of memory while loading '" + path + "'").about_path(path);
    } catch (const std::exception & e) {
        if (!abandoned) {
            throw error(KVFOLD_ERROR_MODEL_INVALID, "'" + path + "' cannot be used: " + e.what()).about_path(path);
        }
    }
    if (abandoned) {
        throw error(KVFOLD_ERROR_CANCELLED, "loading was abandoned");
    }
    if (const std::string plan_error = kvfold_take_plan_error(); !plan_error.empty()) {
        throw error(KVFOLD_ERROR_PLAN_INVALID, "'" + path + "': " + plan_error).about_path(path);
    }
    if (!loaded) {
        throw load_error(errors, path);
    }
    if (shifts) { // llama.cpp would go on without it, and end answers where the context is full
        check_shift(llama_get_memory(server->get_llama_context()), options.params.cache_type_k);
    }
    const int32_t trained = llama_model_n_ctx_train(llama_get_model(server->get_llama_context()));
    check_context(options.params.kv_unified_per_slot, (uint64_t) trained, options.params, facts);
    check_pooling(*server->get_llama_context(), path);
    server->set_state_callback([](server_state, json) {});
    routes->update_meta(*server);
    check_grammar(grammar, vocabulary());
    special_texts = std::make_unique<plain_text>(vocabulary());
    longest_token = bytes_of_longest_token(vocabulary());
    layout = read_kv_layout(server->get_llama_context());
    set_up_serving();
    if (!ledger->take_on_device(layout.bytes_whole)) { // the budget was an estimate, and this is there
        ledger->set_cap(layout.bytes_whole);
        ledger->take_on_device(layout.bytes_whole);
    }
    routes->get_metrics = [this, of_server = routes->get_metrics](const server_http_req & req) {
        auto answer = of_server(req);
        if (answer->status == 200) {
            answer->data += kv_metrics();
        }
        return answer;
    };
    handlers = {
        { "/v1/chat/completions",              &routes->post_chat_completions     },
        { "/completion",                       &routes->post_completions          },
        { "/infill",                           &routes->post_infill               },
        { "/embeddings",                       &routes->post_embeddings           },
        { "/v1/embeddings",                    &routes->post_embeddings_oai       },
        { "/v1/rerank",                        &routes->post_rerank               },
        { "/tokenize",                         &routes->post_tokenize             },
        { "/detokenize",                       &routes->post_detokenize           },
        { "/apply-template",                   &routes->post_apply_template       },
        { "/v1/chat/completions/input_tokens", &routes->post_chat_completions_tok },
        { "/props",                            &routes->get_props                 },
        { "/slots",                            &routes->get_slots                 },
        { "/metrics",                          &routes->get_metrics               },
    };
}

// Whether all of the cache's memory follows its use, so that a budget nobody gave says what a request can have.
static bool committed_as_it_fills(const kv_layout & layout) {
    return !layout.caches.empty() && layout.bytes_paged > 0 && layout.bytes_whole == 0;
}

void engine::set_up_serving() {
    const auto & types  = options.params.speculative.types;
    const bool   drafts = std::any_of(types.begin(), types.end(), [](auto type) { return type != COMMON_SPECULATIVE_TYPE_NONE; });
    if (drafts) {
        layout.tokens_at_once = 1 + std::max(options.params.speculative.draft.n_max, 64); // drafts of n-grams have at most 64
    }
    llama_context * const context = server->get_llama_context();

    slot_schedule::limits seats;
    seats.slots          = options.params.n_parallel;
    seats.n_slot         = server->get_meta().slot_n_ctx;
    seats.n_batch        = llama_n_batch(context);
    seats.tokens_at_once = (uint32_t) layout.tokens_at_once;
    seats.swap_dir       = options.swap_dir;
    const bool shares = options.prefix_sharing && !options.params.ctx_shift; // which moves cells under all sequences that hold them
    prefixes = std::make_unique<prefix_cache>(context, prefix_cache::limits{ options.params.n_parallel, shares });
    schedule = std::make_unique<slot_schedule>(seats, layout, *prefixes);

    admission::limits limits;
    limits.bytes     = options.kv_budget_given ? options.kv_budget : committed_as_it_fills(layout) ? ledger->cap() : 0;
    limits.reserve   = options.reserve;
    limits.slots     = options.params.n_parallel;
    limits.max_queue = options.max_queue;
    limits.n_slot    = server->get_meta().slot_n_ctx;
    limits.n_predict = options.params.n_predict;
    admits = std::make_unique<admission>(limits, layout, admission::actions{
        [this](std::vector<server_task> && tasks) {
            std::reverse(tasks.begin(), tasks.end()); // each is put before the ones posted earlier
            server->get_response_reader().queue_tasks.post(std::move(tasks), true);
        },
        [this](int id_task, const error & why) { refuse_task(id_task, why); },
        [this](int id_task) -> const void * { return exchanges.find(id_task).get(); },
        [this, context](uint64_t n_prompt, const auto & granted) { return schedule->has_room(context, n_prompt, granted); },
        // a slot that drafts with a model shares nothing
        [this, drafts](const server_task & task) { return drafts ? std::string() : prefixes->likeness_of_task(task); },
        [this](int id_task, size_t n_tokens) { return prefixes->lends(id_task, n_tokens); },
        [this](const server_task & task, bool alone) { return state_of(task, alone || schedule->all_pause()); },
    });
}

void engine::refuse_task(int id_task, const error & why) {
    if (const auto exchange = exchanges.find(id_task)) {
        std::lock_guard<std::mutex> lock(exchange->mutex);
        exchange->refusal = why;
    }
    auto result      = std::make_unique<server_task_result_error>();
    result->id       = id_task;
    result->err_type = why.status == KVFOLD_ERROR_QUEUE_FULL ? ERROR_TYPE_UNAVAILABLE : ERROR_TYPE_INVALID_REQUEST;
    result->err_msg  = why.message;
    server->get_response_reader().queue_results.send(std::move(result));
}

void engine::start() {
    worker.start([this] {
        const busy_scope     busy([this] { server->terminate(); });
        const worker_scope   hooks(exchanges);
        const schedule_scope scheduling(*admits, *schedule);
        const request_log_scope lines;
        const ledger_scope   charged(ledger);
        const c_locale_scope c_locale;
        const abort_guard    guard;
        try {
            server->start_loop();
        } catch (const aborted & e) {
            // a graph may have been left half-way, its other threads waiting for this one
            log_emit(KVFOLD_LOG_ERROR, "the worker thread gave up, and what the engine holds stays: " + e.message);
            abandoned = true;
            end_all(KVFOLD_ERROR_INTERNAL);
        } catch (...) {
            log_emit(KVFOLD_LOG_ERROR, "the worker thread failed: " + current_error().message);
            end_all(KVFOLD_ERROR_INTERNAL);
        }
    });
    // terminate() is lost while the loop has not begun; an answer from the loop proves that it has
    kv_stats();
    fixed_info = describe();
}

// ---- requests ---------------------------------------------------------------------------------------------------------

const server_http_context::handler_t * engine::find_handler(const std::string & route) const {
    const auto found = handlers.find(route);
    return found == handlers.end() ? nullptr : found->second;
}

const llama_vocab * engine::vocabulary() const {
    return llama_model_get_vocab(llama_get_model(server->get_llama_context()));
}

void engine::require_tokenizer() const {
    if (llama_vocab_type(vocabulary()) == LLAMA_VOCAB_TYPE_NONE) {
        const std::string & path = options.params.model.path;
        throw error(KVFOLD_ERROR_UNSUPPORTED, "'" + path + "' has no tokenizer, so it takes no text; kvfold_evaluate() takes token ids").about_path(path);
    }
}

// As server_slot::can_split() has it: what is not summed up in the last token needs all tokens in one ubatch.
input_limit engine::longest_input() const {
    input_limit longest{ (size_t) server->get_meta().slot_n_ctx, "ctx-size" };
    const auto  lower = [&](int32_t n_tokens, const char * option) {
        if ((size_t) n_tokens < longest.n_tokens) {
            longest = { (size_t) n_tokens, option };
        }
    };
    if (llama_pooling_type(server->get_llama_context()) != LLAMA_POOLING_TYPE_LAST) {
        lower(options.params.n_ubatch, "ubatch-size");
        lower(options.params.n_batch, "batch-size");
    }
    return longest;
}

// Of shorter ones the tokens are counted, which takes about a second for this.
static constexpr size_t long_text = 1u << 20;

void engine::check_text(size_t bytes) const {
    const size_t slot  = server->get_meta().slot_n_ctx;
    const size_t least = longest_token > 0 ? bytes/longest_token/4 : 0; // marks within it may be three times as long
    if (bytes > long_text && least > slot) {
        throw error(KVFOLD_ERROR_CONTEXT_EXCEEDED, "the prompt has " + std::to_string(bytes) + " bytes, which are at least " + std::to_string(least) +
                                                       " tokens, but a slot holds " + std::to_string(slot))
            .compares((int64_t) least, (int64_t) slot);
    }
}

common_params engine::server_params(const std::string & text) {
    use inside(*this);
    return parse_server_options(options.params, text);
}

const server_http_context::handler_t & engine::handler_of(server_http_context::handler_t server_routes::* member) const {
    return (*routes).*member;
}

void engine::admit(const std::shared_ptr<request> & added, bool needs_slot) {
    const llama_load_mode mode = options.params.load_mode;
    if (needs_slot && (mode == LLAMA_LOAD_MODE_AUTO || mode == LLAMA_LOAD_MODE_MMAP || mode == LLAMA_LOAD_MODE_MMAP_MLOCK)) {
        check_unchanged(facts);
    }
    std::lock_guard<std::mutex> lock(mutex);
    if (failed) {
        throw error(KVFOLD_ERROR_INTERNAL, "the worker thread has failed; its last words are in the log");
    }
    // whoever comes while others wait for memory waits behind them, also when a slot is free
    const bool   would_wait = admits->n_waiting() > 0 || needing_slot >= (size_t) options.params.n_parallel;
    const size_t waiting    = count_waiting();
    if (needs_slot && would_wait && waiting >= options.max_queue) {
        throw error(KVFOLD_ERROR_QUEUE_FULL, std::to_string(waiting) + " requests wait for a slot" +
                                                 " or for room in the KV cache" + ", \"max-queue\" is " +
                                                 std::to_string(options.max_queue))
            .compares((int64_t) waiting, (int64_t) options.max_queue)
            .about_option("max-queue");
    }
    live[added.get()] = added;
    needing_slot += needs_slot;
}

void engine::retire(request * gone, bool needs_slot) {
    std::lock_guard<std::mutex> lock(mutex);
    if (live.erase(gone)) {
        needing_slot -= needs_slot;
        changed.notify_all();
    }
}

// As many as run, and as many again, so that no slot waits for the thread that posts the next one.
size_t engine::tasks_at_once() const {
    return 2 * (size_t) options.params.n_parallel;
}

void engine::queue_task(server_task && task) {
    server->get_response_reader().queue_tasks.post(std::move(task));
}

void engine::cancel_tasks(const std::unordered_set<int> & ids) {
    if (ids.empty()) {
        return;
    }
    auto                     reader = server->get_response_reader();
    std::vector<server_task> tasks;
    for (const int id : ids) {
        server_task task(SERVER_TASK_TYPE_CANCEL);
        task.id_target = id;
        tasks.push_back(std::move(task));

        auto result      = std::make_unique<server_task_result_error>();
        result->id       = id;
        result->err_type = ERROR_TYPE_UNAVAILABLE;
        result->err_msg  = "cancelled";
        reader.queue_results.send(std::move(result));
    }
    reader.queue_tasks.post(std::move(tasks), true);
}

void engine::wake_worker() {
    auto        reader = server->get_response_reader();
    server_task task(SERVER_TASK_TYPE_NEXT_RESPONSE);
    task.id = reader.get_new_id();
    reader.queue_tasks.post(std::move(task));
}

std::vector<std::shared_ptr<request>> engine::live_requests() {
    std::lock_guard<std::mutex>           lock(mutex);
    std::vector<std::shared_ptr<request>> found;
    for (const auto & [_, weak] : live) {
        if (auto strong = weak.lock()) {
            found.push_back(std::move(strong));
        }
    }
    return found;
}

void engine::end_all(kvfold_status why) {
    {
        std::lock_guard<std::mutex> lock(mutex);
        failed = failed || why == KVFOLD_ERROR_INTERNAL;
    }
    for (const auto & request : live_requests()) {
        request->end(why);
        request->stop_tasks();
    }
}

// ---- KV states of conversations --------------------------------------------------------------------------------------

void engine::require_states() {
    const common_params & params = options.params;
    const char *          why    = no_state_because(server->get_llama_context());
    if (!params.lora_adapters.empty() || !params.control_vectors.empty()) {
        why = "keys and values depend on adapters";
    } else if (!params.speculative.draft.mparams.path.empty()) {
        why = "the draft model has a state of its own";
    }
    if (why) {
        throw error(KVFOLD_ERROR_UNSUPPORTED, std::string("no KV state can be kept of this engine: ") + why);
    }
}

const state_fit & engine::own_fit() {
    std::lock_guard<std::mutex> lock(fit_mutex);
    if (!fit) {
        fit = describe_fit(server->get_llama_context(), facts.files);
    }
    return *fit;
}

std::optional<kv_state> engine::load_state(const std::string & path) {
    const ledger_scope charged(ledger);
    const uint32_t     slot_tokens = server->get_meta().slot_n_ctx;
    return read_state(path, own_fit(), server->get_llama_context(), slot_tokens, [this] { return drop_prefix(); });
}

bool engine::drop_prefix() {
    if (schedule_of_worker()) {
        return prefixes->drop_oldest();
    }
    return prefixes->ask_to_drop([this] {
        server_task task(SERVER_TASK_TYPE_CANCEL); // of no task, and the worker looks who has asked
        task.id = server->get_response_reader().get_new_id();
        queue_task(std::move(task));
    });
}

written_state engine::write_state(const std::string & path, const kv_state & state) {
    return kvfold::write_state(path, own_fit(), state);
}

// ---- closing ----------------------------------------------------------------------------------------------------------

void engine::close() {
    {
        std::lock_guard<std::mutex> lock(mutex);
        if (closing) {
            return;
        }
        closing = true;
    }
    end_all(KVFOLD_ERROR_CLOSED);
    {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [&] { return calls_inside == 0; });
    }
    for (const auto & request : live_requests()) {
        request->release();
    }
    {
        // a request that its owner is closing right now releases itself
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [&] { return live.empty(); });
    }
    if (worker.joinable()) {
        server->terminate();
        worker.join();
    }
    handlers.clear();
    routes.reset();
    if (abandoned) {
        (void) server.release(); // its destructor would wait for threads that wait for the one that is gone
    }
    server.reset();
}

bool engine::has_failed() {
    std::lock_guard<std::mutex> lock(mutex);
    return failed;
}

size_t engine::requests_waiting() {
    std::lock_guard<std::mutex> lock(mutex);
    return count_waiting();
}

// Those that wait for memory hold no slot.
size_t engine::count_waiting() const {
    const size_t slots      = options.params.n_parallel;
    const size_t for_memory = std::min(admits->n_waiting(), needing_slot);
    const size_t for_slot   = needing_slot - for_memory;
    return for_memory + (for_slot > slots ? for_slot - slots : 0);
}

bool engine::is_closing() {
    std::lock_guard<std::mutex> lock(mutex);
    return closing;
}

} // namespace kvfold
