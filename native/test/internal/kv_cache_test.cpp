// Everything that works on a standard KV cache works on a folded one. The yardstick is the same model decoded one token
// at a time, one sequence alone, without flash attention, in f32: one pass per token, which is exact by construction and
// is itself held against reference vectors and an independent reference in the Java tests.

#include "filled_pages.h"
#include "kv_test_model.h"

#include "hooks/kv-plan-prefill.h"

#include "llama-context.h"
#include "llama-cpp.h"
#include "llama-memory.h"
#include "llama.h"

#ifdef KVFOLD_TEST_RPC
#    include "ggml-rpc.h"

#    include <arpa/inet.h>
#    include <sys/socket.h>
#    include <sys/wait.h>
#    ifdef __linux__
#        include <sys/prctl.h>
#    endif
#    include <unistd.h>

#    include <chrono>
#    include <csignal>
#    include <thread>
#endif

#include <cstdio>
#include <filesystem>

static int n_checks = 0;
static int n_failed = 0;

static void check(bool ok, const std::string & what) {
    n_checks++;
    if (!ok) {
        n_failed++;
        fprintf(stderr, "FAILED: %s\n", what.c_str());
    }
}

static std::string last_log;

// The second device of `kv_cache_test --split`, which gets the upper half of the layers; null without it.
static ggml_backend_dev_t second_device = nullptr;

using tokens_t = std::vector<llama_token>;
using logits_t = std::vector<std::vector<float>>; // [n_tokens][n_vocab]

static tokens_t random_tokens(uint32_t n, uint32_t n_vocab, uint32_t seed) {
    std::mt19937 rng(seed);
    tokens_t tokens(n);
    for (auto & t : tokens) {
        t = (llama_token) (rng() % n_vocab);
    }
    return tokens;
}

struct context_options {
    uint32_t  n_ubatch   = 1;
    uint32_t  n_seq      = 1;
    bool      unified    = false;
    bool      flash_attn = false;
    bool      swa_full   = false;
    ggml_type type       = GGML_TYPE_F32;
    int32_t   prefill    = KVFOLD_PREFILL_FIXED;
};

static llama_context_ptr make_context(llama_model * model, const context_options & o) {
    llama_context_params p = llama_context_default_params();
    p.n_ctx           = 256*(o.unified ? 1 : o.n_seq);
    p.n_batch         = 256;
    p.n_ubatch        = o.n_ubatch;
    p.n_seq_max       = o.n_seq;
    p.kv_unified      = o.unified;
    p.flash_attn_type = o.flash_attn ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    p.swa_full        = o.swa_full;
    p.type_k          = o.type;
    p.type_v          = o.type;
    p.n_threads       = 1;
    p.n_threads_batch = 1;
    p.kv_prefill      = o.prefill;
    return llama_context_ptr(llama_init_from_model(model, p));
}

struct batch_builder {
    explicit batch_builder(int32_t n) : batch(llama_batch_init(n, 0, 4)) {}
    ~batch_builder() { llama_batch_free(batch); }

    void add(llama_token token, llama_pos pos, std::vector<llama_seq_id> seqs) {
        const int i = batch.n_tokens++;
        batch.token[i]    = token;
        batch.pos[i]      = pos;
        batch.n_seq_id[i] = (int32_t) seqs.size();
        for (size_t s = 0; s < seqs.size(); ++s) {
            batch.seq_id[i][s] = seqs[s];
        }
        batch.logits[i] = 1;
    }

    llama_batch batch;
};

static std::vector<float> logits_of(llama_context * ctx, int32_t i, uint32_t n_vocab) {
    const float * l = llama_get_logits_ith(ctx, i);
    return std::vector<float>(l, l + n_vocab);
}

// Decodes tokens of one sequence as one batch, from position `pos` on.
static logits_t decode(llama_context * ctx, const tokens_t & tokens, llama_pos pos, llama_seq_id seq, uint32_t n_vocab) {
    batch_builder b((int32_t) tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
        b.add(tokens[i], pos + (llama_pos) i, { seq });
    }
    logits_t logits;
    if (llama_decode(ctx, b.batch) == 0) {
        for (size_t i = 0; i < tokens.size(); ++i) {
            logits.push_back(logits_of(ctx, (int32_t) i, n_vocab));
        }
    }
    return logits;
}

static double distance(const logits_t & a, const logits_t & b) {
    if (a.size() != b.size() || a.empty()) {
        return INFINITY;
    }
    double max = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        for (size_t v = 0; v < a[i].size(); ++v) {
            const double d = std::fabs((double) a[i][v] - b[i][v]);
            if (!(d <= max)) {
                max = std::isnan(d) ? INFINITY : d;
            }
        }
    }
    return max;
}

// root mean square of the difference, relative to b's own
static double noise(const logits_t & a, const logits_t & b) {
    if (a.size() != b.size() || a.empty()) {
        return INFINITY;
    }
    double diff = 0.0;
    double size = 0.0;
    for (size_t i = 0; i < a.size(); ++i) {
        for (size_t v = 0; v < a[i].size(); ++v) {
            diff += std::pow((double) a[i][v] - b[i][v], 2);
            size += std::pow((double) b[i][v], 2);
        }
    }
    return std::sqrt(diff/size);
}

static logits_t slice(const logits_t & l, size_t from, size_t to) {
    return logits_t(l.begin() + from, l.begin() + to);
}

static tokens_t slice(const tokens_t & t, size_t from, size_t to) {
    return tokens_t(t.begin() + from, t.begin() + to);
}

static std::string temp_path(const std::string & name) {
    static const std::string unique = std::to_string(std::random_device{}());
    return (std::filesystem::temp_directory_path() / ("kvfold-test-" + unique + "-" + name)).string();
}

static llama_model_ptr load(const kv_test_model & spec, const char * kv_plan = nullptr) {
    const std::string path = temp_path("model.gguf");
    spec.write(path);
    llama_model_params p = llama_model_default_params();
    p.kv_plan = kv_plan;
    ggml_backend_dev_t devices[] = { second_device, nullptr };
    if (second_device) {
        p.devices      = devices;
        p.n_gpu_layers = (int32_t) spec.n_layer/2 + 1; // the output counts as one
    }
    llama_model_ptr model(llama_model_load_from_file(path.c_str(), p));
    std::filesystem::remove(path);
    return model;
}

static void test_plan(const kv_test_model & spec) {
    const std::string name = spec.arch + " " + spec.kv_plan;
    const auto within = [&](const char * what, double d, double max) {
        check(d <= max, name + ": " + what + " differs by " + std::to_string(d) + ", allowed " + std::to_string(max));
    };

    llama_model_ptr model = load(spec);
    check(model != nullptr, name + ": loads");
    if (!model) {
        return;
    }
    const kvfold_plan plan = kvfold_plan_parse(spec.kv_plan, spec.n_layer);
    const uint32_t V = spec.n_vocab;

    const tokens_t a = random_tokens(37, V, 11);
    const tokens_t b = random_tokens(23, V, 12);
    const tokens_t c = random_tokens(30, V, 13);

    const auto exact = [&](const tokens_t & tokens) {
        return decode(make_context(model.get(), {}).get(), tokens, 0, 0, V);
    };
    const logits_t A = exact(a);
    const logits_t B = exact(b);
    const logits_t C = exact(c);

    const auto alone = [&](context_options o) {
        return distance(decode(make_context(model.get(), o).get(), a, 0, 0, V), A);
    };

    // ---- chunks: 9 passes are exact for 9 tokens; EXACT chooses chunks that are
    within("9 tokens per ubatch", alone({ 9 }), 1e-3);
    within("exact prefill", alone({ 64, 1, false, false, false, GGML_TYPE_F32, KVFOLD_PREFILL_EXACT }), 1e-3);
    within("flash attention", alone({ 9, 1, false, true }), 3e-2);
    within("full-size window cache", alone({ 9, 1, false, false, true }), 1e-3);
    within("f16", alone({ 9, 1, false, false, false, GGML_TYPE_F16 }), 5e-2);

    // ---- several sequences, of different lengths, in one batch
    for (const bool unified : { false, true }) {
        for (const bool flash_attn : { false, true }) {
            for (const int32_t prefill : { KVFOLD_PREFILL_AUTO, KVFOLD_PREFILL_EXACT }) {
                llama_context_ptr ctx = make_context(model.get(), { 16, 4, unified, flash_attn, false, GGML_TYPE_F32, prefill });
                batch_builder batch(256);
                for (size_t i = 0; i < a.size(); ++i) { batch.add(a[i], (llama_pos) i, { 0 }); }
                for (size_t i = 0; i < b.size(); ++i) { batch.add(b[i], (llama_pos) i, { 1 }); }
                for (size_t i = 0; i < c.size(); ++i) { batch.add(c[i], (llama_pos) i, { 2 }); }
                check(llama_decode(ctx.get(), batch.batch) == 0, name + ": decodes three sequences");

                if (prefill == KVFOLD_PREFILL_AUTO && second_device && plan.upward()) {
                    continue; // beside a device other than the CPU, AUTO prefers large chunks, which are not exact
                }
                // once the shortest has ended the others may go alone, where AUTO takes fewer passes than tokens
                const bool all = prefill == KVFOLD_PREFILL_EXACT || !plan.upward();
                const size_t n_a = all ? a.size() : b.size();
                const size_t n_c = all ? c.size() : b.size();
                logits_t la, lb, lc;
                for (size_t i = 0; i < n_a;      ++i) { la.push_back(logits_of(ctx.get(), (int32_t) i, V)); }
                for (size_t i = 0; i < b.size(); ++i) { lb.push_back(logits_of(ctx.get(), (int32_t) (a.size() + i), V)); }
                for (size_t i = 0; i < n_c;      ++i) { lc.push_back(logits_of(ctx.get(), (int32_t) (a.size() + b.size() + i), V)); }
                const double max = flash_attn ? 3e-2 : 1e-3;
                within("sequence 0 of 3", distance(la, slice(A, 0, n_a)), max);
                within("sequence 1 of 3", distance(lb, B), max);
                within("sequence 2 of 3", distance(lc, slice(C, 0, n_c)), max);
            }
        }
    }

    // ---- a decode step beside another sequence's prompt
    {
        llama_context_ptr ctx = make_context(model.get(), { 16, 2, true, false, false, GGML_TYPE_F32, KVFOLD_PREFILL_AUTO });
        decode(ctx.get(), slice(b, 0, 10), 0, 1, V); // at most 5 passes over a chunk: not exact, so only b's own past is at stake
        llama_memory_seq_rm(llama_get_memory(ctx.get()), 1, -1, -1);
        for (size_t i = 0; i < 10; ++i) {
            decode(ctx.get(), { b[i] }, (llama_pos) i, 1, V);
        }
        batch_builder batch(256);
        batch.add(b[10], 10, { 1 });
        for (size_t i = 0; i < a.size(); ++i) { batch.add(a[i], (llama_pos) i, { 0 }); }
        check(llama_decode(ctx.get(), batch.batch) == 0, name + ": decodes beside a prompt");
        within("a decode step beside a prompt", distance({ logits_of(ctx.get(), 0, V) }, slice(B, 10, 11)), 1e-3);
    }

    // ---- quantised keys and values: noise, but not more than rounding makes, and no other in chunks than token by token
    for (const ggml_type type : { GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 }) {
        const std::string what = ggml_type_name(type);
        const double max = type == GGML_TYPE_Q8_0 ? 0.08 : 0.8;
        const logits_t seq = decode(make_context(model.get(), { 1, 1, false, true, false, type }).get(), a, 0, 0, V);
        const logits_t chk = decode(make_context(model.get(), { 8, 1, false, true, false, type }).get(), a, 0, 0, V);
        within((what + " (relative)").c_str(), noise(seq, A), max);
        within((what + " in chunks (relative)").c_str(), noise(chk, A), max);
    }

    // ---- copy, remove, shift
    for (const bool unified : { true, false }) {
        const context_options o { 1, 2, unified, false, true };
        llama_context_ptr ctx = make_context(model.get(), o);
        llama_memory_t mem = llama_get_memory(ctx.get());

        decode(ctx.get(), slice(a, 0, 20), 0, 0, V);
        llama_memory_seq_cp(mem, 0, 1, -1, -1);
        const logits_t rest = decode(ctx.get(), slice(a, 20, 37), 20, 1, V);
        within("a copied sequence", distance(rest, slice(A, 20, 37)), 1e-3);
        const logits_t orig = decode(ctx.get(), slice(a, 20, 25), 20, 0, V);
        within("the copied sequence's source", distance(orig, slice(A, 20, 25)), 1e-3);

        check(llama_memory_seq_rm(mem, 1, 20, -1), name + ": removes a tail");
        const logits_t again = decode(ctx.get(), slice(a, 20, 37), 20, 1, V);
        within("a rewound sequence", distance(again, slice(A, 20, 37)), 1e-3);

        check(llama_memory_can_shift(mem) == (plan.n_sinks == 0), name + ": can shift, unless sinks are known by position");
        if (plan.n_sinks > 0) {
            continue;
        }
        llama_memory_seq_rm(mem, 0, 25, -1);
        llama_memory_seq_add(mem, 0, 0, -1, 50);
        const logits_t shifted = decode(ctx.get(), slice(a, 25, 30), 75, 0, V);
        within("a shifted sequence", distance(shifted, slice(A, 25, 30)), 1e-2);
    }

    // ---- state
    {
        llama_context_ptr ctx = make_context(model.get(), {});
        decode(ctx.get(), slice(a, 0, 20), 0, 0, V);
        std::vector<uint8_t> state(llama_state_seq_get_size(ctx.get(), 0));
        check(llama_state_seq_get_data(ctx.get(), state.data(), state.size(), 0) == state.size(), name + ": saves its state");

        llama_context_ptr other = make_context(model.get(), {});
        check(llama_state_seq_set_data(other.get(), state.data(), state.size(), 0) > 0, name + ": restores its state");
        within("a restored sequence", distance(decode(other.get(), slice(a, 20, 37), 20, 0, V), slice(A, 20, 37)), 1e-3);

        // a plan with as many KV layers, so that only the mark in the state tells them apart
        if (plan.n_layer_kv() == 3 && plan.n_swa == 0) {
            kv_test_model stranger = spec;
            stranger.kv_plan = spec.kv_plan == "pizza-bottom:3" ? "sandwich-bottom:3" : "pizza-bottom:3";
            llama_model_ptr model2 = load(stranger);
            llama_context_ptr ctx2 = make_context(model2.get(), {});
            check(llama_state_seq_set_data(ctx2.get(), state.data(), state.size(), 0) == 0, name + ": refuses a state of another plan");
            kv_test_model ordinary = spec;
            ordinary.kv_plan = "";
            llama_model_ptr model3 = load(ordinary);
            llama_context_ptr ctx3 = make_context(model3.get(), {});
            check(llama_state_seq_set_data(ctx3.get(), state.data(), state.size(), 0) == 0, name + ": its state is refused without a plan");
        }
    }

    // ---- memory: rows for producers only
    if (plan.n_swa == 0) {
        kv_test_model ordinary = spec;
        ordinary.kv_plan = "";
        llama_model_ptr standard = load(ordinary);
        const auto kv_bytes = [](llama_model * m) {
            size_t n = 0;
            llama_context_ptr ctx = make_context(m, { 8, 2, false, true, false, GGML_TYPE_F16 });
            for (const auto & [_, bytes] : llama_get_memory(ctx.get())->memory_breakdown()) {
                n += bytes;
            }
            return n;
        };
        const size_t folded = kv_bytes(model.get());
        const size_t full   = kv_bytes(standard.get());
        check(folded*spec.n_layer == full*plan.n_layer_kv(), name + ": the KV cache takes " + std::to_string(folded) + " bytes, the standard one " +
                std::to_string(full) + ", expected " + std::to_string(plan.n_layer_kv()) + "/" + std::to_string(spec.n_layer));
    }
}

static void test_standard_plan_changes_nothing() {
    kv_test_model spec;
    llama_model_ptr plain    = load(spec);
    llama_model_ptr standard = load(spec, "standard");
    const tokens_t a = random_tokens(40, spec.n_vocab, 5);
    const logits_t x = decode(make_context(plain.get(), { 16 }).get(), a, 0, 0, spec.n_vocab);
    const logits_t y = decode(make_context(standard.get(), { 16 }).get(), a, 0, 0, spec.n_vocab);
    check(distance(x, y) == 0.0, "the standard plan gives the same logits, bit for bit");
}

static void test_override() {
    kv_test_model with_all;    // key and value weights in every layer, no metadata
    kv_test_model trained = with_all;
    trained.kv_plan = "cla:2"; // the same seed does not give the same weights: fewer are drawn

    last_log.clear();
    llama_model_ptr overridden = load(with_all, "lckv:2");
    check(overridden != nullptr, "a plan can be put over a model that was not trained for it");
    check(last_log.find("is not the one this model was trained with") != std::string::npos, "which is warned of");
    check(decode(make_context(overridden.get(), { 9 }).get(), random_tokens(20, 128, 3), 0, 0, 128).size() == 20, "and runs");

    check(load(trained, "0_1_2_3_4_5_6_7") == nullptr, "a plan whose producers have no weights is refused");
    check(last_log.find("layer 1 must produce keys and values, but the file has no blk.1.attn_k.weight") != std::string::npos,
            "naming the layer and the tensor");
}

static void test_bad_plans() {
    const auto refused = [](const char * text, const char * because) {
        kv_test_model spec;
        last_log.clear();
        check(load(spec, text) == nullptr, std::string(text) + " is refused");
        check(last_log.find(because) != std::string::npos, std::string(text) + " is refused because: " + because + "; log: " + last_log);
    };
    refused("0_0_2_2", "the map has 4 layers, the model has 8");
    refused("0_0_2_2_4_4_6_6_8", "the map has more than 8 layers");
    refused("0_0_2_2_4_4_6_8", "layer 7 reads layer 8, but the layers are 0 to 7");
    refused("0_0_2_2_4_4_6_-1", "'-1' is no layer");
    refused("0_0_2_2_4_4_6_99999999999", "'99999999999' is no layer");
    refused("0x999999999", "repeat count");
    refused("0_0_2_2_4_4_6_6;window=8", "no layer reads through a sliding window");
    refused("0s_0_2_2_4_4_6_6", "no window is given");
    refused("0_0_2_2_4_4_6_6;sinks=4", "sinks=4 is given, but no layer reads through a sliding window");
    refused("streaming;sinks=4", "the sinks are given twice, 4 and 4");
    refused("0s_0_2_2_4_4_6_6;window=8;sinks=0", "number of sinks is 0, allowed are 1 to 999999999");
    refused("cla:0", "layers per group is 0, allowed are 1 to 8");
    refused("cla:9", "layers per group is 9, allowed are 1 to 8");
    refused("lckv:8", "number of warm-up layers is 8, allowed are 0 to 7");
    refused("burger-top:2", "unknown name 'burger-top'");
    refused("cla:2;passes=0", "number of prefill passes is 0");
    refused("cla:2;exact;passes=3", "exclude each other");
    refused("cla:2;lazy", "unknown attribute 'lazy'");
}

static void test_bad_metadata() {
    const auto refused = [](void (*edit)(gguf_context *), const char * because) {
        kv_test_model spec;
        spec.edit = edit;
        last_log.clear();
        check(load(spec) == nullptr, std::string("metadata is refused: ") + because);
        check(last_log.find(because) != std::string::npos, std::string("metadata is refused because: ") + because + "; log: " + last_log);
    };
    refused([](gguf_context * g) { gguf_set_val_str(g, "llama.attention.kv_layer_map", "0_0_2_2_4_4_6_6"); }, "kv_layer_map has type str, expected is arr");
    refused([](gguf_context * g) { const float map[8] = {}; gguf_set_arr_data(g, "llama.attention.kv_layer_map", GGUF_TYPE_FLOAT32, map, 8); }, "kv_layer_map is an array of f32, expected is i32");
    refused([](gguf_context * g) { const int32_t map[3] = {}; gguf_set_arr_data(g, "llama.attention.kv_layer_map", GGUF_TYPE_INT32, map, 3); }, "kv_layer_map has 3 elements, the model has 8 layers");
    refused([](gguf_context * g) { const int32_t map[8] = { 0, 1, INT32_MAX }; gguf_set_arr_data(g, "llama.attention.kv_layer_map", GGUF_TYPE_INT32, map, 8); }, "layer 2 reads layer 2147483647");
    refused([](gguf_context * g) { const int32_t map[8] = { 0, INT32_MIN }; gguf_set_arr_data(g, "llama.attention.kv_layer_map", GGUF_TYPE_INT32, map, 8); }, "layer 1 reads layer -2147483648");
    refused([](gguf_context * g) { gguf_set_val_bool(g, "llama.attention.kv_strict_diagonal", true); }, "kv_layer_map is missing");
    refused([](gguf_context * g) { gguf_set_val_u32(g, "llama.attention.kv_window_sinks", 4); }, "kv_layer_map is missing");
}

static void test_unsupported() {
    kv_test_model spec;
    spec.arch = "gemma"; // on the plain KV cache, without a layer loop of ours
    last_log.clear();
    check(load(spec, "lckv:2") == nullptr, "upward readers are refused for gemma");
    check(last_log.find("supported for llama, qwen2 and qwen3, not for gemma") != std::string::npos, "naming the architecture; log: " + last_log);
}

#ifdef KVFOLD_TEST_RPC
// A second device without a GPU: llama.cpp's RPC backend, served from the CPU by a child process on loopback.
static pid_t start_rpc_server(const std::string & endpoint) {
    const pid_t pid = fork();
    if (pid == 0) {
        // a test that dies must not leave its server behind, nor a pipe that its caller waits on
#    ifdef __linux__
        prctl(PR_SET_PDEATHSIG, SIGKILL);
#    endif
        alarm(600);
        if (!freopen("/dev/null", "w", stdout) || !freopen("/dev/null", "w", stderr)) {
            _exit(1);
        }
        ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        ggml_backend_rpc_start_server(endpoint.c_str(), nullptr, 1, 1, &cpu);
        _exit(1);
    }
    return pid;
}

static bool is_listening(int port) {
    sockaddr_in address = {};
    address.sin_family      = AF_INET;
    address.sin_port        = htons((uint16_t) port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int  probe = socket(AF_INET, SOCK_STREAM, 0);
    const bool ok    = connect(probe, (const sockaddr *) &address, sizeof(address)) == 0;
    close(probe);
    return ok;
}

// ggml_backend_rpc_add_server() ends the process when nobody listens yet
static ggml_backend_dev_t connect_to(const std::string & endpoint, int port) {
    for (int i = 0; i < 1200 && !is_listening(port); ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    ggml_backend_reg_t reg = ggml_backend_rpc_add_server(endpoint.c_str());
    return reg && ggml_backend_reg_dev_count(reg) > 0 ? ggml_backend_reg_dev_get(reg, 0) : nullptr;
}
#endif

int main(int argc, char ** argv) {
    const bool split = argc > 1 && std::string(argv[1]) == "--split";
#ifdef KVFOLD_TEST_RPC
    pid_t server = 0;
    if (split) {
        const int         port     = 20000 + (int) (std::random_device{}() % 20000);
        const std::string endpoint = "127.0.0.1:" + std::to_string(port);
        server = start_rpc_server(endpoint);
        second_device = connect_to(endpoint, port);
        check(second_device != nullptr, "the RPC server answers");
    }
#else
    if (split) {
        fprintf(stderr, "this build has no RPC backend to split layers with\n");
        return 1;
    }
#endif
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level >= GGML_LOG_LEVEL_WARN) {
            last_log += text;
        }
    }, nullptr);
    llama_backend_init();
    filled_pages pages;
    kvfold::set_page_driver(&pages);

    for (const char * plan : {
            "cla:2", "cla:3", "cla:keep-ends", "lckv:2", "lckv:2;strict", "lckv:4", "lckv:0", "mlkv:3",
            "pizza-bottom:3", "pizza-middle:3", "pizza-top:3", "sandwich-bottom:3", "sandwich-middle:3", "sandwich-top:3",
            "lasagna-bottom:3", "lasagna-middle:3", "lasagna-top:3",
            "0_2_1_3_5_4_6_6",            // mutual: a layer that reads another one's rows and is read itself
            "7_7_7_7_0_0_0_0",            // everything crosses
            "0_1_2_3_4_5_6_7;strict",
            "yoco:8",                     // window-sized and full cache
            "0s_1s_2s_3s_4s_5s_6s_7s;window=6",
            "0_0s_2_2s_4_4s_6_6s;window=7", // window readers on a full cache
            "0_6s_6_6s_6_6_6_7;window=5",   // window readers upward
            "0_6s_6s_6s_6s_6s_6s_7;window=5;strict",
            "streaming:6",                         // every layer retains sinks and recent tokens
            "0_1s_2_3s_4_5s_6_7s;window=6;sinks=3",
            "0_0s_2s_2s_4_6s_6s_7;window=5;sinks=2", // beside sharing: a producer keeps what its widest reader needs
        }) {
        kv_test_model spec;
        spec.n_embd    = 128; // heads of 64, so that quantised keys and values are rotated
        spec.n_head    = 2;
        spec.n_head_kv = 1;
        spec.kv_plan   = plan;
        test_plan(spec);
    }
    for (const char * arch : { "qwen2", "qwen3" }) {
        for (const char * plan : { "cla:2", "lckv:2", "sandwich-middle:3", "yoco:8" }) {
            kv_test_model spec;
            spec.arch      = arch;
            spec.n_embd    = 128;
            spec.n_head    = 2;
            spec.n_head_kv = 1;
            spec.kv_plan   = plan;
            test_plan(spec);
        }
    }
    // downward maps and lazy layers need nothing of the architecture but the plain KV cache
    for (const char * arch : { "gemma", "internlm2", "xverse", "nanbeige" }) {
        for (const char * plan : { "cla:2", "pizza-bottom:3", "0_1s_2_3s_4_5s_6_7s;window=6;sinks=3" }) {
            kv_test_model spec;
            spec.arch      = arch;
            spec.n_embd    = 128;
            spec.n_head    = 2;
            spec.n_head_kv = 1;
            spec.kv_plan   = plan;
            test_plan(spec);
        }
    }
    test_standard_plan_changes_nothing();
    test_override();
    test_bad_plans();
    test_bad_metadata();
    test_unsupported();

#ifdef KVFOLD_TEST_RPC
    if (server > 0) {
        kill(server, SIGTERM);
        waitpid(server, nullptr, 0);
    }
#endif
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed ? 1 : 0;
}
