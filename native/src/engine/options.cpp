#include "engine/options.h"

#include "process/json_text.h"
#include "process/rpc.h"

#include "arg.h"
#include "chat.h"
#include "log.h"
#include "speculative.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <limits>
#include <map>
#include <set>

namespace kvfold {

// The server core decodes 2 tokens to find out what a new context can do.
static constexpr int32_t min_batch_size = 2;

// Options of llama-server that make no sense inside a library, by the reason that the caller is told.
struct refusal {
    const char *          why;
    std::set<std::string> names;
};

static const std::vector<refusal> & refusals() {
    static const std::vector<refusal> table = {
        { "it prints and exits",
          { "help", "usage", "version", "cache-list", "completion-bash", "list-devices", "fit-print" } },
        { "an engine does not listen on HTTP, see kvfold_serve()",
          { "host", "port", "reuse-port", "path", "cors-origins", "cors-methods", "cors-headers", "cors-credentials", "api-prefix",
            "api-key", "api-key-file", "ssl-key-file", "ssl-cert-file", "timeout", "threads-http", "sse-ping-interval", "ui", "webui",
            "ui-config", "webui-config", "ui-config-file", "webui-config-file", "ui-mcp-proxy", "webui-mcp-proxy", "tools",
            "tools-runtime", "mcp-servers-config", "mcp-servers-json", "agent", "models-dir", "models-preset", "models-max",
            "models-autoload", "server-base" } },
        { "this library does not download; give \"model\" a path",
          { "model-url", "docker-repo", "hf-repo", "hf-file", "hf-token", "mmproj-url", "spec-draft-hf", "hf-repo-draft", "offline",
            "embd-gemma-default", "fim-qwen-1.5b-default", "fim-qwen-3b-default", "fim-qwen-7b-default", "fim-qwen-7b-spec",
            "fim-qwen-14b-spec", "fim-qwen-30b-default", "gpt-oss-20b-default", "gpt-oss-120b-default", "vision-gemma-4b-default",
            "vision-gemma-12b-default" } },
        { "the log goes to kvfold_log_set()",
          { "log-disable", "log-file", "log-jsonl", "log-prompts-dir", "log-colors", "log-verbose", "verbose", "verbosity",
            "log-verbosity", "log-prefix", "log-timestamps" } },
        { "close the engine instead", { "sleep-idle-seconds" } },
    };
    return table;
}

static const char * refused_because(const std::string & name) {
    for (const auto & refusal : refusals()) {
        if (refusal.names.count(name)) {
            return refusal.why;
        }
    }
    return nullptr;
}

static const char * const max_queue_name = "max-queue";
static const char * const kv_budget_name = "kv-budget";
static const char * const admission_name = "admission";
static const char * const kv_plan_name = "kv-plan";
static const char * const kv_prefill_name = "kv-prefill";
static const char * const cpu_attention_name = "cpu-attention";
static const char * const memory_reserve_name = "memory-reserve";
static const char * const swap_dir_name = "swap-dir";
static const char * const describe_schema_name = "describe-schema";
static const char * const describe_tools_name = "describe-tools";
static const char * const prefix_sharing_name  = "prefix-sharing";

struct option_name {
    const common_arg * option;
    bool               positive;
};

// Only long names are keys: "-c" would be ambiguous with a negative number in other bindings' option lists.
static std::map<std::string, option_name> long_names(const std::vector<common_arg> & options) {
    std::map<std::string, option_name> names;
    auto add = [&](const common_arg & option, const char * name, bool positive) {
        if (std::string(name).rfind("--", 0) == 0) {
            names[name + 2] = { &option, positive };
        }
    };
    for (const auto & option : options) {
        for (const char * name : option.args) {
            add(option, name, true);
        }
        for (const char * name : option.args_neg) {
            add(option, name, false);
        }
    }
    return names;
}

static size_t edit_distance(const std::string & a, const std::string & b) {
    std::vector<size_t> row(b.size() + 1);
    for (size_t j = 0; j <= b.size(); j++) {
        row[j] = j;
    }
    for (size_t i = 1; i <= a.size(); i++) {
        size_t diagonal = row[0];
        row[0]          = i;
        for (size_t j = 1; j <= b.size(); j++) {
            const size_t above = row[j];
            row[j]             = std::min({ above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]) });
            diagonal           = above;
        }
    }
    return row[b.size()];
}

static error unknown_option(const std::string & given, const std::map<std::string, option_name> & names) {
    std::vector<std::pair<size_t, std::string>> near;
    auto consider = [&](const std::string & name) {
        const size_t distance = edit_distance(given, name);
        const bool   contains = given.size() >= 3 && name.find(given) != std::string::npos;
        if (distance <= 3 && distance < given.size()) {
            near.emplace_back(distance, name);
        } else if (contains) {
            near.emplace_back(4, name);
        }
    };
    for (const auto & [name, _] : names) {
        if (!refused_because(name)) {
            consider(name);
        }
    }
    consider(max_queue_name);
    consider(kv_budget_name);
    consider(admission_name);
    consider(kv_plan_name);
    consider(kv_prefill_name);
    consider(cpu_attention_name);
    consider(memory_reserve_name);
    consider(swap_dir_name);
    consider(describe_schema_name);
    consider(describe_tools_name);
    consider(prefix_sharing_name);
    std::sort(near.begin(), near.end());
    std::string message = "unknown option \"" + given + "\"";
    for (size_t i = 0; i < near.size() && i < 3; i++) {
        message += (i == 0 ? "; did you mean \"" : "\", \"") + near[i].second;
    }
    message += near.empty() ? "" : "\"?";
    return error(KVFOLD_ERROR_UNKNOWN_OPTION, message).about_option(given);
}

static error bad_value(const std::string & name, const json & value, const std::string & why) {
    return error(KVFOLD_ERROR_INVALID_ARGUMENT, "option \"" + name + "\" cannot be " + value.dump_safe() + ": " + why).about_option(name);
}

// llama.cpp ends some of its messages with lines of their own.
static std::string in_one_line(const std::string & text) {
    std::string line;
    for (const std::string & each : string_split<std::string>(text, '\n')) {
        const std::string part = string_strip(each);
        line += line.empty() || part.empty() ? part : " " + part;
    }
    return line;
}

static int64_t to_int64(const std::string & name, const json & value) {
    int64_t number = 0;
    if (value.is_number_integer()) {
        number = value.get<int64_t>();
    } else if (value.is_string()) {
        const std::string text = value.get<std::string>();
        const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
        if (code != std::errc() || end != text.data() + text.size()) {
            throw bad_value(name, value, "it takes a whole number");
        }
    } else {
        throw bad_value(name, value, "it takes a whole number");
    }
    return number;
}

static int to_int(const std::string & name, const json & value) {
    const int64_t number = to_int64(name, value);
    if (number < std::numeric_limits<int>::min() || number > std::numeric_limits<int>::max()) {
        throw bad_value(name, value, "the number is too large").compares(number, std::numeric_limits<int>::max());
    }
    return (int) number;
}

static bool to_bool(const std::string & name, const json & value) {
    if (value.is_boolean()) {
        return value.get<bool>();
    }
    if (value.is_string()) {
        const std::string text = value.get<std::string>();
        if (common_arg_utils::is_truthy(text)) {
            return true;
        }
        if (common_arg_utils::is_falsey(text)) {
            return false;
        }
    }
    throw bad_value(name, value, "it takes true or false");
}

static std::string to_text(const std::string & name, const json & value) {
    if (value.is_string()) {
        return value.get<std::string>();
    }
    if (value.is_boolean()) {
        return value.get<bool>() ? "on" : "off";
    }
    if (value.is_number()) {
        return value.dump();
    }
    throw bad_value(name, value, "it takes a string or a number");
}

static int32_t to_choice(const std::string & name, const json & value, const std::vector<std::pair<const char *, int32_t>> & choices) {
    const std::string text = to_text(name, value);
    std::string       known;
    for (const auto & [choice, meaning] : choices) {
        if (text == choice) {
            return meaning;
        }
        known += (known.empty() ? "" : " or ") + std::string(choice);
    }
    throw bad_value(name, value, "it takes " + known);
}

static void apply(const std::string & name, const option_name & target, const json & value, common_params & params) {
    const common_arg & option = *target.option;
    if (value.is_array() && !option.handler_str_str) {
        for (const auto & element : value) {
            apply(name, target, element, params);
        }
        return;
    }
    try {
        if (option.handler_void) {
            if (to_bool(name, value)) {
                option.handler_void(params);
            }
        } else if (option.handler_bool) {
            option.handler_bool(params, to_bool(name, value) == target.positive);
        } else if (option.handler_int) {
            option.handler_int(params, to_int(name, value));
        } else if (option.handler_string) {
            option.handler_string(params, to_text(name, value));
        } else if (option.handler_str_str) {
            if (!value.is_array() || value.size() != 2) {
                throw bad_value(name, value, "it takes an array of two values");
            }
            option.handler_str_str(params, to_text(name, value.at(0)), to_text(name, value.at(1)));
        }
    } catch (const error &) {
        throw;
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception & e) {
        const std::string what = e.what();
        throw bad_value(name, value, what.rfind("sto", 0) == 0 ? "it is no number, or one too large" : in_one_line(what)); // of std::stof and the like
    }
}

static void check_range(const char * name, int64_t value, int64_t least, int64_t most) {
    if (value < least || value > most) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "option \"" + std::string(name) + "\" is " + std::to_string(value) +
                                                       " but must be in [" + std::to_string(least) + ", " + std::to_string(most) + "]")
            .compares(value, value < least ? least : most)
            .about_option(name);
    }
}

// Where this library's defaults are not llama-server's.
static void set_defaults(common_params & params) {
    params.fit_params        = false;
    params.warmup            = false;
    params.cache_ram_mib     = 0;
    params.n_ctx_checkpoints = 3; // kvfold_checkpoint_offsets()
    params.checkpoint_min_step = 16; // fewer than are between these, so that the newest stay
    params.endpoint_metrics  = true;
    params.endpoint_slots    = true;
    params.sse_ping_interval = -1;
    // threads that have computed wait for more without sleeping: at 50 for 1.5 s after each request, at 1 for 30 ms
    params.cpuparams.poll       = 1;
    params.cpuparams_batch.poll = 1;
}

engine_options parse_options(const std::string & text) {
    const c_locale_scope c_locale;
    const abort_guard    guard; // e.g. an RPC server that cannot be reached
    const json           object = parse_object(text, "the options");

    engine_options   options;
    common_params &  params  = options.params;
    std::vector<std::string> rpc_servers;
    auto             context = common_params_parser_init(params, LLAMA_EXAMPLE_SERVER);
    const auto       names   = long_names(context.options);

    set_defaults(params);
    for (const auto & [key, value] : object.items()) {
        std::string name = key;
        std::replace(name.begin(), name.end(), '_', '-');
        if (value.is_null()) {
            continue;
        }
        if (name == max_queue_name) {
            const int number = to_int(name, value);
            check_range(max_queue_name, number, 0, std::numeric_limits<int>::max());
            options.max_queue = number;
            continue;
        }
        if (name == kv_budget_name) {
            const int64_t bytes = to_int64(name, value);
            check_range(kv_budget_name, bytes, 1, std::numeric_limits<int64_t>::max());
            options.kv_budget       = (uint64_t) bytes;
            options.kv_budget_given = true;
            continue;
        }
        if (name == admission_name) {
            options.reserve = to_choice(name, value, { { "preempt", 0 }, { "reserve", 1 } }) == 1;
            continue;
        }
        if (name == kv_plan_name) {
            params.kv_plan = to_text(name, value);
            continue;
        }
        if (name == kv_prefill_name) {
            params.kv_prefill = to_choice(name, value, { { "auto", KVFOLD_PREFILL_AUTO }, { "fixed", KVFOLD_PREFILL_FIXED }, { "exact", KVFOLD_PREFILL_EXACT } });
            continue;
        }
        if (name == cpu_attention_name) {
            params.cpu_attention = to_choice(name, value, { { "fused", KVFOLD_CPU_ATTENTION_FUSED }, { "upstream", KVFOLD_CPU_ATTENTION_UPSTREAM } });
            continue;
        }
        if (name == memory_reserve_name) {
            const int64_t bytes = to_int64(name, value);
            check_range(memory_reserve_name, bytes, 1, std::numeric_limits<int64_t>::max());
            options.memory_reserve = (uint64_t) bytes;
            continue;
        }
        if (name == swap_dir_name) {
            const std::string folder = value.is_string() ? value.get<std::string>() : "";
            if (folder.empty() || folder.find('\0') != std::string::npos) {
                throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "option \"swap-dir\" cannot be " + value.dump_safe() + ", it is a folder").about_option(name);
            }
            options.swap_dir = folder;
            continue;
        }
        if (name == describe_schema_name) {
            options.describe_schemas = to_bool(name, value);
            continue;
        }
        if (name == describe_tools_name) {
            options.describe_tools = to_bool(name, value);
            continue;
        }
        if (name == prefix_sharing_name) {
            options.prefix_sharing = to_bool(name, value);
            continue;
        }
        const auto found = names.find(name);
        if (found == names.end()) {
            throw unknown_option(name, names);
        }
        for (const char * alias : found->second.option->args) {
            const char * why = refused_because(std::string(alias).rfind("--", 0) == 0 ? alias + 2 : alias);
            if (why) {
                throw error(KVFOLD_ERROR_UNSUPPORTED, "option \"" + name + "\" is not available: " + why).about_option(name);
            }
        }
        apply(name, found->second, value, params);
        if (name == "rpc") {
            for (const auto & list : value.is_array() ? value : json::array({ value })) {
                for (const auto & server : string_split<std::string>(list.get<std::string>(), ',')) {
                    rpc_servers.push_back(server);
                }
            }
        }
        const auto given = [&](const char * option) { return found->second.option == names.at(option).option; };
        options.batch_size_given  = options.batch_size_given || given("batch-size");
        options.ubatch_size_given = options.ubatch_size_given || given("ubatch-size");
        options.kv_unified_given  = options.kv_unified_given || given("kv-unified");
    }

    choose_devices(params, rpc_servers);
    if (params.model.path.empty()) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "option \"model\" is required").about_option("model");
    }
    check_range("ctx-size", params.n_ctx, 0, std::numeric_limits<int>::max());
    check_range("ubatch-size", params.n_ubatch, 1, std::numeric_limits<int>::max());
    check_range("batch-size", params.n_batch, min_batch_size, std::numeric_limits<int>::max());
    check_range("threads", params.cpuparams.n_threads, -1, GGML_MAX_N_THREADS);
    check_range("threads-batch", params.cpuparams_batch.n_threads, -1, GGML_MAX_N_THREADS);
    if (options.kv_budget > 0 && params.cache_ram_mib != 0) {
        throw error(KVFOLD_ERROR_UNSUPPORTED, "option \"cache-ram\" brings prompts back that no request of \"kv-budget\" has room for")
            .about_option("cache-ram");
    }
    if (params.n_parallel >= 0) {
        check_range("parallel", params.n_parallel, 1, (int64_t) llama_max_parallel_sequences());
    }
    return options;
}

common_params parse_server_options(const common_params & engine, const std::string & text) {
    static const std::set<std::string> served = { "host",         "port",         "api-key",      "api-key-file",     "api-prefix",
                                                  "threads-http", "timeout",      "reuse-port",   "cors-origins",     "cors-methods",
                                                  "cors-headers", "cors-credentials" };
    const json     object  = parse_object(text, "the options");
    common_params  parsed;
    auto           context = common_params_parser_init(parsed, LLAMA_EXAMPLE_SERVER);
    const auto     names   = long_names(context.options);
    common_params  params  = engine;
    params.cors_origins    = "localhost"; // llama-server lets the page of any origin talk to it
    params.ui              = false;
    params.timeout_read    = 30; // llama-server lets a client hold a connection for an hour
    bool key_wanted        = false;
    for (const auto & [key, value] : object.items()) {
        std::string name = key;
        std::replace(name.begin(), name.end(), '_', '-');
        if (value.is_null()) {
            continue;
        }
        const auto found = names.find(name);
        if (!served.count(name) || found == names.end()) {
            std::string known;
            for (const auto & each : served) {
                known += (known.empty() ? "\"" : ", \"") + each + "\"";
            }
            throw error(KVFOLD_ERROR_UNKNOWN_OPTION, "a server has no option \"" + name + "\": " + known).about_option(name);
        }
        apply(name, found->second, value, params);
        key_wanted = key_wanted || name == "api-key" || name == "api-key-file";
    }
    for (auto & key : params.api_keys) {
        key = string_strip(key); // a file may end its lines with CR LF
    }
    params.api_keys.erase(std::remove(params.api_keys.begin(), params.api_keys.end(), ""), params.api_keys.end());
    if (key_wanted && params.api_keys.empty()) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "\"api-key\" and \"api-key-file\" hold no key: everybody would be let in").about_option("api-key");
    }
    check_range("port", params.port, 0, 65535);
    check_range("timeout", params.timeout_read, 1, std::numeric_limits<int>::max());
    return params;
}

// One decode call has to take each slot's last token and its draft, and as many outputs; or llama.cpp aborts.
static void make_room_for_slots(engine_options & options) {
    common_params & params = options.params;
    const int64_t   drafts = common_speculative_n_max(&params.speculative);
    const int64_t   needed = std::max<int64_t>(min_batch_size, params.n_parallel * (1 + drafts));
    if (needed <= params.n_batch) {
        return;
    }
    const bool by_ubatch = params.embedding && params.n_batch == params.n_ubatch; // there a batch is a ubatch
    if (by_ubatch || options.batch_size_given || needed > std::numeric_limits<int32_t>::max()) {
        const std::string option = by_ubatch ? "ubatch-size" : "batch-size";
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "option \"" + option + "\" is " + std::to_string(params.n_batch) + ", but " +
                                                       (by_ubatch ? "embeddings in " : "") + std::to_string(params.n_parallel) +
                                                       (params.n_parallel > 1 ? " slots" : " slot") +
                                                       (drafts > 0 ? " with drafts of up to " + std::to_string(drafts) + " tokens" : "") +
                                                       " need " + std::to_string(needed))
            .compares(params.n_batch, needed)
            .about_option(option);
    }
    params.n_batch = (int32_t) needed;
}

int pooling_of(const common_params & params, const model_facts & facts) {
    return params.pooling_type != LLAMA_POOLING_TYPE_UNSPECIFIED ? (int) params.pooling_type : (int) facts.pooling_type.value_or(0);
}

bool computes_whole_texts(const engine_options & options, const model_facts & facts) {
    const int pooling = pooling_of(options.params, facts);
    return options.params.embedding && !options.ubatch_size_given &&
           (pooling == LLAMA_POOLING_TYPE_MEAN || pooling == LLAMA_POOLING_TYPE_CLS || pooling == LLAMA_POOLING_TYPE_RANK);
}

int32_t ubatch_of_slot(const engine_options & options, const model_facts & facts, int64_t slot) {
    if (!computes_whole_texts(options, facts)) {
        return options.params.n_ubatch;
    }
    const auto    trained = (int64_t) std::min<uint64_t>(facts.context_length, std::numeric_limits<int32_t>::max());
    const int64_t longest = trained > 0 ? std::min(slot, trained) : slot;
    return (int32_t) std::max<int64_t>(options.params.n_ubatch, longest);
}

// Where embeddings are means, llama.cpp aborts as it reserves memory for a ubatch that has not as many tokens of each slot.
static void divide_ubatch(engine_options & options, const model_facts & facts) {
    common_params & params   = options.params;
    const int       pooling  = pooling_of(params, facts);
    const bool      means    = pooling == LLAMA_POOLING_TYPE_MEAN || (pooling == LLAMA_POOLING_TYPE_RANK && facts.architecture == "modern-bert");
    const int32_t   cells    = params.n_ctx > 0 ? params.n_ctx : std::numeric_limits<int32_t>::max();
    const bool      by_batch = options.batch_size_given && params.n_batch < params.n_ubatch;
    const int32_t   asked    = by_batch ? params.n_batch : params.n_ubatch;
    const int32_t   n        = std::min(asked, cells);
    const int32_t   over     = n % params.n_parallel;
    if (!params.embedding || !means || over == 0) {
        return;
    }
    const int32_t less = n - over, even = cells - less >= params.n_parallel ? less + params.n_parallel : less;
    if (by_batch || options.ubatch_size_given) {
        const std::string option = by_batch ? "batch-size" : "ubatch-size";
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "option \"" + option + "\" is " + std::to_string(asked) +
                                                       ", but for means of texts in " + std::to_string(params.n_parallel) +
                                                       " slots it must be a multiple of their number, as " + std::to_string(even))
            .compares(asked, even)
            .about_option(option);
    }
    params.n_ubatch = even;
}

static int32_t tokens_of_slot(const common_params & params) {
    const int32_t cells = params.kv_unified ? params.n_ctx : params.n_ctx / params.n_parallel;
    return params.kv_unified_per_slot > 0 ? std::min(cells, params.kv_unified_per_slot) : cells;
}

// Follows common_params_parse_ex() and llama_server() of the pinned version, in their order.
void complete_options(engine_options & options, const model_facts & facts, const std::function<void()> & fit) {
    common_params & params = options.params;

    postprocess_cpu_params(params.cpuparams, nullptr);
    postprocess_cpu_params(params.cpuparams_batch, &params.cpuparams);
    postprocess_cpu_params(params.speculative.draft.cpuparams, &params.cpuparams);
    postprocess_cpu_params(params.speculative.draft.cpuparams_batch, &params.cpuparams_batch);

    if (params.mmproj_use_gpu && params.mmproj_device == nullptr && !params.devices.empty()) {
        params.mmproj_device  = params.devices.front();
        params.mmproj_use_gpu = params.mmproj_device != nullptr;
    }
    if (params.escape) {
        for (auto & breaker : params.sampling.dry_sequence_breakers) {
            string_process_escapes(breaker);
        }
    }
    if (!params.kv_overrides.empty()) {
        params.kv_overrides.emplace_back();
        params.kv_overrides.back().key[0] = 0;
    }
    while (params.tensor_buft_overrides.size() < llama_max_tensor_buft_overrides()) {
        params.tensor_buft_overrides.push_back({ nullptr, nullptr });
    }
    if (!params.speculative.draft.tensor_buft_overrides.empty()) {
        params.speculative.draft.tensor_buft_overrides.push_back({ nullptr, nullptr });
    }
    check_template(params.chat_template);
    if (!params.chat_template.empty() && !common_chat_verify_template(params.chat_template, params.use_jinja)) {
        throw error(KVFOLD_ERROR_INVALID_ARGUMENT, "option \"chat-template\" is not a template that llama.cpp can use")
            .about_option("chat-template");
    }
    if (!params.default_template_kwargs.count("preserve_reasoning")) {
        params.default_template_kwargs["preserve_reasoning"] = "true";
    }
    params.lr.init();
    params.cache_idle_slots = params.cache_idle_slots && params.cache_ram_mib != 0;

    if (params.n_parallel < 0) {
        params.n_parallel = 4;
    }
    if (!options.kv_unified_given) {
        params.kv_unified = true;
    }
    fit();
    params.n_ubatch = ubatch_of_slot(options, facts, tokens_of_slot(params));
    divide_ubatch(options, facts);
    if (!options.batch_size_given) {
        params.n_batch = std::max(params.n_ubatch, min_batch_size);
    }
    if (params.embedding && params.n_batch > params.n_ubatch) {
        params.n_batch = params.n_ubatch;
    }
    make_room_for_slots(options);
    if (params.model_alias.empty()) {
        params.model_alias.insert(std::filesystem::u8path(params.model.path).stem().u8string());
    }
}

// Of options whose default is not llama-server's, where its own words do not tell.
static std::string help_of(const common_arg & option) {
    static const std::map<std::string, const char *> own = {
        { "--threads", "CPU threads that compute answers (default: one per physical core)" },
        { "--ctx-size", "tokens that one request may use, prompt and answer (default: what the model was trained with, or what kv-budget holds)" },
        { "--kv-unified-per-slot", "the same; ctx-size beside it is the pool of cells that the slots share" },
        { "--kv-unified", "whether the slots share one pool of cells (default: enabled)" },
        { "--parallel", "slots, requests that are computed side by side (default: 4)" },
    };
    for (const char * name : option.args) {
        if (const auto found = own.find(name); found != own.end()) {
            return found->second;
        }
    }
    return option.help;
}

json describe_options() {
    common_params params;
    set_defaults(params);
    params.n_batch     = params.n_ubatch; // as complete_options() does
    const auto context = common_params_parser_init(params, LLAMA_EXAMPLE_SERVER);
    json       list    = json::array();
    auto          strip   = [](const std::vector<const char *> & names) {
        json stripped = json::array();
        for (const std::string name : names) {
            stripped.push_back(name.substr(name.find_first_not_of('-')));
        }
        return stripped;
    };
    for (const auto & option : context.options) {
        const bool refused = std::any_of(option.args.begin(), option.args.end(), [](const char * name) {
            return std::string(name).rfind("--", 0) == 0 && refused_because(name + 2);
        });
        if (refused) {
            continue;
        }
        std::string value = option.value_hint ? option.value_hint : "";
        value += option.value_hint_2 ? std::string(" ") + option.value_hint_2 : "";
        list.push_back(json({ { "names", strip(option.args) },
                              { "negated", strip(option.args_neg) },
                              { "value", value.empty() ? json(nullptr) : json(value) },
                              { "env", option.env ? json(option.env) : json(nullptr) },
                              { "help", help_of(option) } }));
    }
    auto add_own = [&](const char * name, const char * value, const char * help) {
        list.push_back(json({ { "names", json::array({ name }) },
                              { "negated", json::array() },
                              { "value", *value ? json(value) : json(nullptr) },
                              { "env", nullptr },
                              { "help", help } }));
    };
    add_own(max_queue_name, "N", "requests that may wait for a slot or for memory (default: 256)");
    add_own(kv_plan_name, "PLAN",
            "which layer reads whose keys and values: cla:2, lckv:2, sandwich-middle:3, yoco:1024 or a map such as 0_0_2_2;\n"
            "and which keep the first and the recent tokens only: streaming:1024 for all, simlayerkv:0.9 for those whose score\n"
            "on the prompt exceeds 0.9, lighttransfer:8 for all but the 8 with the lowest; and with evict=METHOD:BUDGET, as in\n"
            "standard;evict=knorm:1024, which tokens stay when a prompt has ended (default: as the model's metadata says)");
    add_own(kv_prefill_name, "{auto,fixed,exact}",
            "how prompts are cut under a plan with upward readers: auto = exact where a lone prompt takes at most twice as long, else by a cost model\n"
            "with bounded error, fixed = whole ubatches with the plan's number of passes, exact (default: auto)");
    add_own(cpu_attention_name, "{fused,upstream}",
            "whose kernel computes flash attention on a CPU: fused = the one that reads each key and value once for all query\n"
            "heads that share it, upstream = llama.cpp's (default: fused)");
    add_own(admission_name, "{preempt,reserve}",
            "preempt: a request begins when its prompt has room, and the youngest gives way when there is too little for all;\n"
            "reserve: it waits until the memory of its longest answer is set aside from kv-budget (default: preempt)");
    add_own(describe_schema_name, "", "whether a request's JSON schema is shown to the model, in its last message (default: true)");
    add_own(describe_tools_name, "", "whether tools are described to a model whose chat template does not show them (default: true)");
    add_own(prefix_sharing_name, "", "whether requests that begin alike share what is computed of that (default: true)");
    add_own(kv_budget_name, "BYTES", "memory that keys and values may take (default: 60% of what is free beside weights)");
    add_own(memory_reserve_name, "BYTES", "memory of the host that keys and values leave free (default: 256 MiB, or 3% of what there is)");
    add_own(swap_dir_name, "FOLDER", "where keys and values of answers that give way are kept until they go on (default: nowhere, they are computed again)");
    return list;
}

} // namespace kvfold
