// What the interface promises about arguments, options, facts and errors.

#include "gguf_edit.h"
#include "kvfold_test.h"

#include <cmath>
#include <map>
#include <mutex>
#include <set>

using namespace kvfold_test;

static json small() {
    return { { "model", tiny_model() }, { "ctx-size", 128 }, { "parallel", 2 }, { "threads", 1 } };
}

static json with(json options, const std::string & name, const json & value) {
    options[name] = value;
    return options;
}

static void names_the_version_of_the_interface() {
    CHECK_EQUAL(kvfold_abi_version(), KVFOLD_ABI_VERSION);
}

static void describes_what_was_built() {
    const json info = call([](char ** out) { return kvfold_build_info(out); }).object();
    CHECK_EQUAL(info.value("llama_cpp", "").substr(0, 1), std::string("v"));
    CHECK(!info.value("version", "").empty());
    CHECK(!info.value("compiler", "").empty());
    CHECK(!info.at("patches").empty());
    CHECK(!info.at("backends").empty());
    CHECK(info.at("cpu_features").is_object());
    CHECK(info.at("devices").at(0).at("memory_total").get<int64_t>() > 0);
}

static void lists_options_that_it_accepts() {
    const json            options = call([](char ** out) { return kvfold_options(out); }).object();
    std::set<std::string> names;
    const std::map<std::string, std::string> defaults = { { "ctx-size", "trained with" }, { "parallel", "default: 4" }, { "kv-unified", "default: enabled)" } };
    for (const auto & option : options) {
        const std::string help = option.at("help").get<std::string>();
        CHECK(!help.empty());
        for (const auto & name : option.at("names")) {
            const auto expected = defaults.find(name.get<std::string>());
            CHECK(expected == defaults.end() || help.find(expected->second) != std::string::npos);
        }
        for (const auto & name : option.at("names")) {
            names.insert(name.get<std::string>());
        }
    }
    for (const char * known : { "model", "ctx-size", "parallel", "ubatch-size", "cache-type-k", "flash-attn", "max-queue", "kv-plan",
                               "memory-reserve", "swap-dir", "admission", "cpu-attention" }) {
        CHECK(names.count(known) == 1);
    }
    for (const char * refused : { "help", "version", "port", "hf-repo", "log-file" }) {
        CHECK(names.count(refused) == 0);
    }
}

static void rejects_null_arguments() {
    kvfold_engine *  engine_handle  = nullptr;
    kvfold_request * request_handle = nullptr;
    CHECK_EQUAL(kvfold_open(nullptr, nullptr, nullptr, &engine_handle, nullptr), (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(kvfold_open("{}", nullptr, nullptr, nullptr, nullptr), (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(kvfold_engine_info(nullptr, nullptr), (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(kvfold_kv_stats(nullptr, nullptr), (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(kvfold_request_open(nullptr, "/completion", "{}", &request_handle, nullptr), (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(kvfold_request_next(nullptr, nullptr), (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(kvfold_evaluate(nullptr, nullptr, 0, 0, nullptr, nullptr, nullptr), (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(kvfold_token_stats(nullptr, nullptr), (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(kvfold_schema_to_grammar(nullptr, nullptr), (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(kvfold_quantize(nullptr, "", "{}", nullptr), (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    kvfold_request_cancel(nullptr);
    kvfold_request_close(nullptr);
    kvfold_close(nullptr);
    kvfold_free(nullptr);
}

static void rejects_what_is_no_options_object() {
    for (const char * text : { "", "nonsense", "[]", "3", "{\"model\": ", "{\"model\": \"a\"" }) {
        kvfold_engine * handle = nullptr;
        const answer    a      = call([&](char ** out) { return kvfold_open(text, nullptr, nullptr, &handle, out); });
        CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
        CHECK(handle == nullptr);
    }
    CHECK_EQUAL(engine(json::object()).opened.object().value("option", ""), std::string("model"));
}

static void rejects_unknown_options_with_a_hint() {
    const answer a = engine(with(small(), "ctx-sise", 128)).opened;
    CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_UNKNOWN_OPTION);
    CHECK(a.message().find("\"ctx-size\"") != std::string::npos);
    CHECK_EQUAL(a.object().value("option", ""), std::string("ctx-sise"));
    CHECK_EQUAL(engine(with(small(), "no such thing at all", 1)).opened.status, (int) KVFOLD_ERROR_UNKNOWN_OPTION);
}

static void refuses_options_that_print_exit_listen_or_download() {
    for (const char * name : { "help", "version", "list-devices", "cache-list", "port", "host", "api-key", "hf-repo", "model-url", "log-file",
                               "log-disable", "verbose", "sleep-idle-seconds" }) {
        const answer a = engine(with(small(), name, "1")).opened;
        CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_UNSUPPORTED);
        CHECK_EQUAL(a.object().value("option", ""), std::string(name));
    }
}

static void rejects_values_out_of_range() {
    const std::pair<const char *, json> bad[] = {
        { "ctx-size", -1 },        { "ctx-size", "many" },       { "ctx-size", 1.5 },  { "ctx-size", 5000000000 }, { "ctx-size", true },
        { "ubatch-size", 0 },      { "memory-reserve", 0 },      { "batch-size", -5 },         { "parallel", 0 },    { "parallel", 100000 },     { "max-queue", -1 },
        { "threads", 100000 },     { "cache-type-k", "q9" },  { "flash-attn", "perhaps" },  { "warmup", "maybe" },
        { "cpu-attention", "fast" },
    };
    for (const auto & [name, value] : bad) {
        const answer a = engine(with(small(), name, value)).opened;
        CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
        CHECK_EQUAL(a.object().value("option", ""), std::string(name));
        CHECK(a.object().value("message", "\n").find('\n') == std::string::npos);
    }
    CHECK(engine(with(small(), "cpu-attention", "fast")).opened.mentions("it takes fused or upstream"));
    const answer slots = engine(with(small(), "parallel", 100000)).opened;
    CHECK_EQUAL(slots.object().value("value", 0), 100000);
    CHECK(slots.object().value("limit", 0) >= 1);
}

// Whatever they are together, an engine opens and answers, or says which of them is too small, and for what.
static void ubatches_batches_and_slots_go_together_or_are_refused() {
    const json plain = json::object(), drafts = { { "spec-type", "ngram-simple" } };
    const auto embeds = [](const char * pooling) { return json{ { "embeddings", true }, { "pooling", pooling } }; };
    int        n_opened = 0, n_refused = 0;
    for (const json & more : { plain, drafts, embeds("mean"), embeds("cls"), embeds("last"), embeds("none") }) {
        for (const bool unified : { true, false }) {
            for (const int slots : { 1, 4, 17 }) {
                for (const int ubatch : { 0, 1, 2, 17 }) {
                    for (const int batch : { 0, 2, 17 }) {
                        json options = with(with(small(), "parallel", slots), "kv-unified", unified);
                        options.update(more);
                        if (const std::string pooling = more.value("pooling", ""); !unified && slots > 1 && (pooling == "mean" || pooling == "cls")) {
                            continue; // see texts_that_are_pooled_as_a_whole_share_a_pool_of_cells()
                        }
                        if (ubatch > 0) {
                            options["ubatch-size"] = ubatch;
                        }
                        if (batch > 0) {
                            options["batch-size"] = batch;
                        }
                        const engine e(options);
                        (e.ok() ? n_opened : n_refused)++;
                        if (e.ok()) {
                            const bool           to_embed = options.contains("embeddings");
                            std::vector<request> together;
                            for (int i = 0; i < slots; i++) {
                                together.push_back(to_embed ? request(e, "/embeddings", { { "input", { 5 + i } } })
                                                            : request(e, "/completion", { { "prompt", { 5 + i, 6, 7 } }, { "n_predict", 3 } }));
                            }
                            for (const request & each : together) {
                                answer last;
                                CHECK_EQUAL(each.drain(&last).size(), (size_t) 1);
                                CHECK_EQUAL(last.status, (int) KVFOLD_DONE);
                            }
                            continue;
                        }
                        const json        why    = e.opened.object();
                        const std::string option = why.value("option", "");
                        CHECK_EQUAL(e.opened.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
                        CHECK(option == "ubatch-size" || option == "batch-size");
                        CHECK_EQUAL(why.value("value", 0), options.value(option, 0));
                        CHECK(why.value("limit", 0) > why.value("value", 0) || e.opened.mentions("multiple"));
                        CHECK(e.opened.mentions(std::to_string(slots) + " slot"));
                    }
                }
            }
        }
    }
    printf("ubatches, batches and slots: %d engines opened and answered, %d were refused\n", n_opened, n_refused);
    CHECK(n_opened > 0 && n_refused > 0);
}

// Of the embedding of each input.
static std::vector<json> vectors(const engine & e, const json & inputs) {
    std::vector<json> all;
    for (const json & each : request(e, "/v1/embeddings", { { "input", inputs } }).drain()) {
        for (const json & one : each.at("data")) {
            all.push_back(one.at("embedding"));
        }
    }
    return all;
}

static double distance(const json & a, const json & b) {
    double most = a.size() == b.size() ? 0 : 1;
    for (size_t i = 0; i < a.size() && i < b.size(); i++) {
        most = std::max(most, std::abs(a.at(i).get<double>() - b.at(i).get<double>()));
    }
    return most;
}

static void too_long_a_text_names_the_option_that_is_too_small() {
    const json long_one = json::array({ std::vector<int>(40, 5) });
    for (const char * option : { "ctx-size", "ubatch-size", "batch-size" }) {
        const engine e(with(with(with(small(), "embeddings", true), "pooling", "mean"), option, 16));
        CHECK(e.ok());
        answer refused;
        request(e, "/v1/embeddings", { { "input", long_one } }).drain(&refused);
        CHECK_EQUAL(refused.status, (int) KVFOLD_ERROR_CONTEXT_EXCEEDED);
        CHECK_EQUAL(refused.object().value("option", ""), std::string(option));
        CHECK_EQUAL(refused.object().value("limit", 0), 16);
    }
}

// llama.cpp would cut texts of unequal length where each slot has cells of its own, and pool the last piece.
static void texts_that_are_pooled_as_a_whole_share_a_pool_of_cells() {
    const json unequal = { { 5, 6, 7, 8, 9, 10, 11, 12 }, { 40, 41 } };
    for (const char * pooling : { "mean", "cls", "last" }) {
        json options = with(with(small(), "embeddings", true), "pooling", pooling);
        for (const bool given : { false, true }) {
            for (const int slots : { 1, 2 }) {
                options["parallel"] = slots;
                if (given) {
                    options["kv-unified"] = false;
                }
                const engine e(options);
                if (given && slots > 1 && pooling != std::string("last")) {
                    CHECK_EQUAL(e.opened.status, (int) KVFOLD_ERROR_UNSUPPORTED);
                    CHECK_EQUAL(e.opened.object().value("option", ""), std::string("kv-unified"));
                    continue;
                }
                CHECK(e.ok());
                const auto together = vectors(e, unequal);
                CHECK_EQUAL(together.size(), unequal.size());
                for (size_t i = 0; i < together.size(); i++) {
                    CHECK(distance(together[i], vectors(e, json::array({ unequal[i] })).at(0)) < 1e-3);
                }
            }
            options.erase("kv-unified");
        }
    }
}

static void put_tensor(gguf_edit & file, const std::string & name, const std::vector<uint64_t> & dims) {
    file.data.resize((file.data.size() + 31)/32*32);
    file.tensors += gguf_edit::string(name) + gguf_edit::number((uint32_t) dims.size());
    uint64_t n = 1;
    for (const uint64_t dim : dims) {
        file.tensors += gguf_edit::number(dim);
        n *= dim;
    }
    file.tensors += gguf_edit::number((uint32_t) 0) + gguf_edit::number((uint64_t) file.data.size()); // F32
    file.n_tensors++;
    for (uint64_t i = 0; i < n; i++) {
        file.data += gguf_edit::number(1.0f + (float) (i % 7)/8);
    }
}

// The tiny model as a Qwen3, the architecture of rerankers that are converted most; with a head for "yes" and "no" or without.
static std::string qwen3(bool has_head) {
    std::ifstream     in(tiny_model(), std::ios::binary);
    gguf_edit         file({ std::istreambuf_iterator<char>(in), {} });
    const std::string from = "llama.", to = "qwen3.";
    for (auto & key : file.keys) {
        key.name = key.name.rfind(from, 0) == 0 ? to + key.name.substr(from.size()) : key.name;
    }
    file.set_string("general.architecture", "qwen3");
    for (const char * layer : { "blk.0.", "blk.1." }) {
        put_tensor(file, layer + std::string("attn_q_norm.weight"), { 8 });
        put_tensor(file, layer + std::string("attn_k_norm.weight"), { 8 });
    }
    if (has_head) {
        put_tensor(file, "cls.output.weight", { 32, 2 });
        file.set("qwen3.classifier.output_labels", gguf_edit::array_type,
                 gguf_edit::array(gguf_edit::string_type, { gguf_edit::string("yes"), gguf_edit::string("no") }));
    }
    const std::string path = has_head ? "boundary_ranker.gguf" : "boundary_qwen3.gguf";
    std::ofstream(path, std::ios::binary) << file.put();
    return path;
}

static void ranks_with_rerankers_only() {
    for (const std::string & model : { tiny_model(), qwen3(false) }) {
        const answer a = engine(with(with(small(), "model", model), "reranking", true)).opened;
        CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_UNSUPPORTED);
        CHECK(a.mentions("no reranker"));
        CHECK_EQUAL(a.object().value("option", ""), std::string("reranking"));
        CHECK_EQUAL(a.object().value("path", ""), model);
    }
    const engine e(with(with(small(), "model", qwen3(true)), "reranking", true));
    CHECK(e.ok());
    if (!e.ok()) {
        fprintf(stderr, "%s\n", e.opened.text.c_str());
        return;
    }
    const auto scores = [&](const json & documents) {
        std::map<int, double> found;
        for (const json & each : request(e, "/v1/rerank", { { "query", "bada" }, { "documents", documents } }).drain()) {
            for (const json & one : each.at("results")) {
                found[one.at("index").get<int>()] = one.at("relevance_score").get<double>();
            }
        }
        return found;
    };
    const auto together = scores({ "bada bida", "kada" }), alone = scores({ "kada" });
    CHECK_EQUAL(together.size(), (size_t) 2);
    CHECK_EQUAL(alone.size(), (size_t) 1);
    CHECK(together.size() == 2 && alone.size() == 1 && std::abs(together.at(1) - alone.at(0)) < 1e-4);
}

static void reports_a_server_that_cannot_be_reached() {
    const answer a = engine(with(small(), "rpc", "127.0.0.1:1")).opened;
    CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(a.object().value("option", ""), std::string("rpc"));
}

static void takes_an_option_in_every_form() {
    json options               = small();
    options["ctx_size"]        = "256";
    options["warmup"]          = false;
    options["no-warmup"]       = true;
    options["flash-attn"]      = false;
    options["temp"]            = 0.5;
    options["samplers"]        = nullptr;
    options["lora"]            = json::array();
    options.erase("ctx-size");
    const engine e(options);
    CHECK(e.ok());
    const json context = e.opened.object().value("context", json());
    CHECK_EQUAL(context.value("size", 0), 512); // llama.cpp rounds the cells of a slot up to a multiple of 256
    CHECK_EQUAL(context.value("flash_attention", true), false);
}

static void refuses_a_cache_that_cannot_fit() {
    const json   trained = with(small(), "override-kv", "llama.context_length=int:2147483647");
    const answer a       = engine(with(trained, "ctx-size", 2147483647)).opened;
    CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_OUT_OF_MEMORY);
    CHECK(a.object().value("value", (int64_t) 0) > a.object().value("limit", (int64_t) 0));
}

static void says_why_an_option_does_not_go_with_the_model() {
    json options            = with(small(), "cache-type-v", "q8_0");
    options["flash-attn"]   = "off"; // a quantised V cache needs flash attention
    const answer a          = engine(options).opened;
    CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_UNSUPPORTED);
    CHECK(a.mentions("lash"));
}

static void names_the_missing_file_that_goes_with_a_model() {
    for (const char * name : { "mmproj", "model-draft", "lora", "control-vector" }) {
        const answer a = engine(with(small(), name, "no such file.gguf")).opened;
        CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_MODEL_NOT_FOUND);
        CHECK_EQUAL(a.object().value("path", ""), std::string("no such file.gguf"));
    }
}

static void reports_facts_of_the_model() {
    const engine e(small());
    CHECK(e.ok());
    const json info = call([&](char ** out) { return kvfold_engine_info(e.handle, out); }).object();
    CHECK(info == e.opened.object());
    const json model = info.at("model");
    CHECK_EQUAL(model.at("path").get<std::string>(), tiny_model());
    CHECK_EQUAL(model.at("architecture").get<std::string>(), std::string("llama"));
    CHECK_EQUAL(model.at("layers").get<int>(), 2);
    CHECK_EQUAL(model.at("heads").get<int>(), 4);
    CHECK_EQUAL(model.at("heads_kv").get<int>(), 2);
    CHECK_EQUAL(model.at("embedding_length").get<int>(), 32);
    CHECK_EQUAL(model.at("vocabulary_size").get<int>(), 320);
    CHECK_EQUAL(model.at("vocabulary_type").get<std::string>(), std::string("spm"));
    CHECK_EQUAL(model.at("context_length_train").get<int>(), 512);
    CHECK_EQUAL(model.at("chat_template").get<bool>(), true);
    CHECK_EQUAL(model.at("tokens").at("eos").get<int>(), 2);
    const json context = info.at("context");
    CHECK_EQUAL(context.at("size").get<int>(), 256);
    CHECK_EQUAL(context.at("slots").get<int>(), 2);
    CHECK_EQUAL(context.at("batch_size").get<int>(), context.at("ubatch_size").get<int>());
    CHECK_EQUAL(info.at("offload").at("layers").get<int>(), 2);
}

static void counts_the_bytes_of_the_cache() {
    for (const auto & [type, bytes] : { std::pair<const char *, double>{ "f16", 2.0 }, { "f32", 4.0 }, { "q8_0", 34.0 / 32 } }) {
        json options              = small();
        options["cache-type-k"]   = type;
        options["cache-type-v"]   = type;
        options["flash-attn"]     = "on";
        // rows of 2 KV heads x 8; q8_0 needs multiples of 32
        const engine e(options);
        if (!e.ok()) {
            CHECK(std::string(type) == "q8_0");
            continue;
        }
        const json    kv        = e.stats();
        const int64_t per_token = (int64_t) (2 * 2 * 16 * bytes);
        CHECK_EQUAL(kv.at("layers").get<int>(), 2);
        CHECK_EQUAL(kv.at("layers_with_storage").get<int>(), 2);
        CHECK_EQUAL(kv.at("bytes_per_token").get<int64_t>(), per_token);
        CHECK_EQUAL(kv.at("bytes_allocated").get<int64_t>(), per_token * kv.at("cells").get<int64_t>());
        CHECK_EQUAL(kv.at("cells").get<int>(), e.opened.object().at("context").at("size").get<int>());
        CHECK_EQUAL(kv.at("cells_used").get<int>(), 0);
        CHECK_EQUAL(kv.at("slots").get<int>(), 2);
        CHECK_EQUAL(kv.at("slots_busy").get<int>(), 0);
        CHECK_EQUAL(kv.at("requests_waiting").get<int>(), 0);
        answer last;
        const json done = run(e, "/completion", { { "prompt", "a b c" }, { "n_predict", 4 }, { "seed", 1 }, { "ignore_eos", true } }, &last);
        CHECK_EQUAL(last.status, (int) KVFOLD_DONE);
        CHECK_EQUAL(e.stats().at("cells_used").get<int>(), done.at("tokens_evaluated").get<int>() + 3);
    }
}

static void opens_the_trained_context_once_per_slot() {
    json options = small();
    options.erase("ctx-size");
    const engine e(options);
    CHECK(e.ok());
    CHECK_EQUAL(e.opened.object().at("context").at("size").get<int>(), 1024);
    CHECK_EQUAL(e.opened.object().at("context").at("size_per_slot").get<int>(), 512);
}

static void an_overridden_context_is_what_the_model_was_trained_for() {
    json options = with(small(), "override-kv", "llama.context_length=int:1024");
    for (const int given : { 0, -1 }) {
        options.erase("ctx-size");
        if (given == 0) {
            options["ctx-size"] = 0;
        }
        const engine e(options);
        CHECK(e.ok());
        CHECK_EQUAL(e.opened.object().at("context").at("size_per_slot").get<int>(), 1024);
    }
}

static void reports_load_progress_and_can_be_abandoned() {
    static std::vector<float> seen;
    const std::string         options = small().dump();
    auto                      collect = [](float fraction, void *) -> int32_t {
        seen.push_back(fraction);
        return 1;
    };
    auto refuse = [](float, void *) -> int32_t { return 0; };

    kvfold_engine * handle = nullptr;
    CHECK_EQUAL(kvfold_open(options.c_str(), collect, nullptr, &handle, nullptr), (int) KVFOLD_OK);
    kvfold_close(handle);
    CHECK(!seen.empty() && seen.back() == 1.0f);
    for (size_t i = 1; i < seen.size(); i++) {
        CHECK(seen[i] >= seen[i - 1]);
    }
    const answer a = call([&](char ** out) { return kvfold_open(options.c_str(), refuse, nullptr, &handle, out); });
    CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_CANCELLED);
    CHECK(handle == nullptr);
    seen.clear();
    const std::string too_long = with(small(), "ctx-size", 99999999).dump();
    const answer      refused  = call([&](char ** out) { return kvfold_open(too_long.c_str(), collect, nullptr, &handle, out); });
    CHECK_EQUAL(refused.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(refused.object().value("option", ""), std::string("ctx-size"));
    CHECK(seen.empty()); // before anything is loaded
}

static void hands_log_lines_to_the_callback() {
    static std::mutex                                   mutex;
    static std::vector<std::pair<int32_t, std::string>> lines;
    auto                                                collect = [](int32_t level, const char * line, void *) {
        const std::lock_guard<std::mutex> lock(mutex);
        lines.emplace_back(level, line);
    };
    kvfold_log_set(collect, KVFOLD_LOG_DEBUG, nullptr);
    {
        const engine e(small());
        run(e, "/completion", { { "prompt", "a" }, { "n_predict", 1 } });
    }
    // what upstream prints on stderr: 192.0.2.1 is nobody's address
    CHECK_EQUAL(call([](char ** out) { return kvfold_rpc_serve(R"({"host": "192.0.2.1", "port": 50123})", out); }).status, (int) KVFOLD_ERROR_ADDRESS);
    kvfold_log_set(nullptr, 0, nullptr);
    bool from_ggml = false, from_server = false, from_stderr = false;
    for (const auto & [level, line] : lines) {
        CHECK(level >= KVFOLD_LOG_DEBUG && level <= KVFOLD_LOG_ERROR);
        CHECK(!line.empty() && line.find('\n') == std::string::npos);
        from_ggml    = from_ggml || line.find("llama_kv_cache") != std::string::npos;
        from_server  = from_server || line.find("load_model") != std::string::npos;
        from_stderr  = from_stderr || line.find("Failed to create server socket") != std::string::npos;
    }
    CHECK(from_ggml);
    CHECK(from_server);
    CHECK(from_stderr);

    const size_t before = lines.size();
    engine(small()).close();
    CHECK_EQUAL(lines.size(), before);

    lines.clear();
    kvfold_log_set(collect, KVFOLD_LOG_ERROR, nullptr);
    engine(small()).close();
    kvfold_log_set(nullptr, 0, nullptr);
    CHECK(lines.empty());
}

static void makes_a_grammar_of_a_schema() {
    auto convert = [](const std::string & schema) {
        return call([&](char ** out) { return kvfold_schema_to_grammar(schema.c_str(), out); });
    };
    const std::string grammar = convert("{\"enum\": [\"yes\", \"no\"]}").object().at("grammar");
    CHECK(grammar.find("root ::= ") != std::string::npos && grammar.find("yes") != std::string::npos);
    CHECK_EQUAL(convert("{\"type\": \"nonsense\"}").status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(convert("[").status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    std::string deep = "{}";
    for (int i = 0; i < 300; i++) {
        deep = "{\"items\": " + deep + "}";
    }
    const answer too_deep = convert(deep);
    CHECK_EQUAL(too_deep.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(too_deep.object().value("limit", 0), 200);
}

int main() {
    makes_a_grammar_of_a_schema();
    names_the_version_of_the_interface();
    describes_what_was_built();
    lists_options_that_it_accepts();
    rejects_null_arguments();
    rejects_what_is_no_options_object();
    rejects_unknown_options_with_a_hint();
    refuses_options_that_print_exit_listen_or_download();
    rejects_values_out_of_range();
    ubatches_batches_and_slots_go_together_or_are_refused();
    too_long_a_text_names_the_option_that_is_too_small();
    texts_that_are_pooled_as_a_whole_share_a_pool_of_cells();
    ranks_with_rerankers_only();
    reports_a_server_that_cannot_be_reached();
    takes_an_option_in_every_form();
    refuses_a_cache_that_cannot_fit();
    says_why_an_option_does_not_go_with_the_model();
    names_the_missing_file_that_goes_with_a_model();
    reports_facts_of_the_model();
    counts_the_bytes_of_the_cache();
    opens_the_trained_context_once_per_slot();
    an_overridden_context_is_what_the_model_was_trained_for();
    reports_load_progress_and_can_be_abandoned();
    hands_log_lines_to_the_callback();
    return report();
}
