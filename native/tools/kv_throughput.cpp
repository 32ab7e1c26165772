// Throughput under a budget of KV cache, as Table 1 of the LCKV paper defines it: the largest batch whose keys and values
// fit, and its generated tokens divided by the time from the first prompt token to the last answer token. Beside it the
// roofline of the decode steps: the bytes of weights, keys and values that they read over the bandwidth of a copy.
//
//   kv_throughput --model MODEL.gguf [--plans standard,cla:2,lckv:10,lckv:2] [--kv-types f16,q8_0,q4_0]
//                 [--kv-budgets 8GiB,card] [--workloads 512+512,2048+2048] [--weights device|host] [--ubatch 512]
//                 [--threads N] [--steps 8] [--full] [--json FILE]
//
// The model is read anew under every plan; the first plan is what the others are compared with. A budget of "card" is what
// the device has left beside weights and compute buffers. --weights host keeps the weights in host memory and keys and
// values on the device. Batches are capped at llama.cpp's LLAMA_MAX_SEQ.
//
// Unless --full is given no row is run from end to end: a row is the integral (Simpson's rule) of prefill and decode
// rates measured at the beginning, in the middle and at the end, with a cache that holds as many tokens as it would there.
// Tokens are chosen in the graph by a greedy sampler and fed back.

#include "fill_cache.h"
#include "hooks/kv-plan-prefill.h"
#include "json.h"
#include "kv/memory/layout.h"

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "llama-cparams.h"
#include "llama-cpp.h"
#include "llama-model.h"
#include "llama.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

struct workload {
    int n_prompt;
    int n_generate;

    int         n_tokens() const { return n_prompt + n_generate; }
    std::string name() const { return std::to_string(n_prompt) + "+" + std::to_string(n_generate); }
};

struct settings {
    std::string              model;
    std::vector<std::string> plans    = { "standard", "cla:2", "lckv:10", "lckv:2" };
    std::vector<std::string> kv_types = { "f16" };
    std::vector<std::string> budgets  = { "8GiB" };
    std::vector<workload>    workloads = { { 512, 512 } };
    std::string              json_path;

    bool host_weights = false;
    bool full         = false;
    int  n_ubatch     = 512;
    int  n_threads    = (int) std::thread::hardware_concurrency();
    int  n_steps      = 8;
};

struct row {
    std::string plan, kv_type, budget;
    workload    work;

    int    n_seq   = 0;
    double kv_gib  = 0;
    double prefill = 0; // seconds
    double decode  = 0; // seconds
    double least   = 0; // seconds that the decode steps take at the bandwidth of a copy

    double throughput() const { return n_seq*work.n_generate/(prefill + decode); }
};

// ---- arguments

std::vector<std::string> words(const std::string & text) {
    std::vector<std::string> list;
    for (size_t from = 0; from <= text.size();) {
        const size_t to = std::min(text.find(',', from), text.size());
        list.push_back(text.substr(from, to - from));
        from = to + 1;
    }
    return list;
}

ggml_type kv_type_of(const std::string & name) {
    for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 }) {
        if (name == ggml_type_name(type)) {
            return type;
        }
    }
    throw std::invalid_argument("--kv-types are f16, q8_0 and q4_0, not " + name);
}

double bytes_of(const std::string & budget) {
    size_t       end  = 0;
    const double size = std::stod(budget, &end);
    const auto   unit = budget.substr(end);
    if (size <= 0 || (unit != "GiB" && unit != "MiB")) {
        throw std::invalid_argument("--kv-budgets are sizes such as 8GiB or 512MiB, or card, not " + budget);
    }
    return size*(unit == "GiB" ? 1024.0*1024*1024 : 1024.0*1024);
}

settings parse(int argc, char ** argv) {
    settings s;
    for (int i = 1; i < argc; i++) {
        const std::string name = argv[i];
        if (name == "--full") {
            s.full = true;
            continue;
        }
        if (++i >= argc) {
            throw std::invalid_argument(name + " needs a value");
        }
        const std::string value = argv[i];
        if (name == "--model") {
            s.model = value;
        } else if (name == "--plans") {
            s.plans = words(value);
        } else if (name == "--kv-types") {
            s.kv_types = words(value);
        } else if (name == "--kv-budgets") {
            s.budgets = words(value);
        } else if (name == "--workloads") {
            s.workloads.clear();
            for (const std::string & word : words(value)) {
                workload work = {};
                if (sscanf(word.c_str(), "%d+%d", &work.n_prompt, &work.n_generate) != 2 || work.n_prompt < 1 || work.n_generate < 2) {
                    throw std::invalid_argument("--workloads are PROMPT+ANSWER such as 512+512, not " + word);
                }
                s.workloads.push_back(work);
            }
        } else if (name == "--weights" && (value == "device" || value == "host")) {
            s.host_weights = value == "host";
        } else if (name == "--ubatch") {
            s.n_ubatch = std::max(std::stoi(value), LLAMA_MAX_SEQ);
        } else if (name == "--threads") {
            s.n_threads = std::stoi(value);
        } else if (name == "--steps") {
            s.n_steps = std::max(std::stoi(value), 1);
        } else if (name == "--json") {
            s.json_path = value;
        } else {
            throw std::invalid_argument("unknown argument " + name + " " + value);
        }
    }
    if (s.model.empty()) {
        throw std::invalid_argument("no --model");
    }
    for (const auto & type : s.kv_types) {
        kv_type_of(type);
    }
    for (const auto & budget : s.budgets) {
        if (budget != "card") {
            bytes_of(budget);
        }
    }
    return s;
}

// ---- the machine

ggml_backend_dev_t gpu() {
    return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU);
}

double seconds(const std::function<void()> & work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v.size() % 2 ? v[v.size()/2] : (v[v.size()/2 - 1] + v[v.size()/2])/2;
}

// Bytes read and written per second by a copy in the memory of `device`, far larger than any cache; best of five.
double copy_bandwidth(ggml_backend_dev_t device, int n_threads) {
    const int64_t    n_rows = gpu() ? 32*1024 : 8*1024; // of 64 KiB
    ggml_backend_ptr backend(ggml_backend_dev_init(device, nullptr));
    if (ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU) {
        auto * reg = ggml_backend_dev_backend_reg(device);
        auto   set = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads");
        set(backend.get(), n_threads);
    }
    ggml_context_ptr context(ggml_init({ 8*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, /*.no_alloc =*/true }));
    ggml_tensor *    from = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, 16*1024, n_rows);
    ggml_tensor *    to   = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, 16*1024, n_rows);
    ggml_cgraph *    copy = ggml_new_graph(context.get());
    ggml_build_forward_expand(copy, ggml_cpy(context.get(), from, to));
    ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors(context.get(), backend.get()));
    if (!buffer) {
        throw std::runtime_error("no memory to measure the copy bandwidth");
    }
    ggml_backend_tensor_memset(from, 0x11, 0, ggml_nbytes(from));
    double best = 0;
    for (int i = 0; i < 6; i++) {
        const double took = seconds([&] {
            ggml_backend_graph_compute(backend.get(), copy);
            ggml_backend_synchronize(backend.get());
        });
        best = i == 0 ? 0 : std::max(best, 2.0*ggml_nbytes(from)/took); // the first one only warms up
    }
    return best;
}

// Bytes per second from pinned host memory to the device.
double upload_bandwidth(ggml_backend_dev_t device) {
    const size_t            size = 1024u*1024*1024;
    ggml_backend_ptr        backend(ggml_backend_dev_init(device, nullptr));
    ggml_backend_buffer_ptr host(ggml_backend_buft_alloc_buffer(ggml_backend_dev_host_buffer_type(device), size));
    ggml_context_ptr        context(ggml_init({ 2*ggml_tensor_overhead(), nullptr, /*.no_alloc =*/true }));
    ggml_tensor *           to = ggml_new_tensor_1d(context.get(), GGML_TYPE_I8, (int64_t) size);
    ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors(context.get(), backend.get()));
    if (!host || !buffer) {
        throw std::runtime_error("no memory to measure the bandwidth from the host");
    }
    double best = 0;
    for (int i = 0; i < 4; i++) {
        best = std::max(best, size/seconds([&] {
            ggml_backend_tensor_set(to, ggml_backend_buffer_get_base(host.get()), 0, size);
        }));
    }
    return best;
}

// ---- a model under a plan

struct subject {
    llama_model_ptr                model;
    std::vector<llama_sampler_ptr> samplers; // of one context each
    llama_context_ptr              context;
    std::vector<llama_token>       last; // of each sequence

    int n_seq() const { return (int) last.size(); }
};

void load(subject & s, const settings & set, const std::string & plan) {
    s.context.reset();
    s.model.reset();
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers       = 999;
    params.kv_plan            = plan.c_str();

    ggml_backend_buffer_type_t host = gpu() ? ggml_backend_dev_host_buffer_type(gpu()) : ggml_backend_cpu_buffer_type();
    const llama_model_tensor_buft_override everything[] = { { ".*", host }, { nullptr, nullptr } };
    if (set.host_weights) {
        params.tensor_buft_overrides = everything;
    }
    s.model.reset(llama_model_load_from_file(set.model.c_str(), params));
    if (!s.model) {
        throw std::runtime_error("cannot load " + set.model + " with plan " + plan);
    }
}

// Weights that a decode step reads: of the token embeddings it takes a row per token.
double weight_bytes(const subject & s) {
    const bool tied  = s.model->output == nullptr || s.model->output == s.model->tok_embd;
    double     bytes = 0;
    for (const auto & [name, tensor] : s.model->tensors_by_name) {
        bytes += tensor == s.model->tok_embd && !tied ? 0 : ggml_nbytes(tensor);
    }
    return bytes;
}

bool open_context(subject & s, const settings & set, const std::string & kv_type, int n_seq, int n_tokens) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx           = n_seq*n_tokens;
    params.n_batch         = params.n_ctx;
    params.n_ubatch        = set.n_ubatch;
    params.n_seq_max       = n_seq;
    params.n_outputs_max   = n_seq;
    params.n_threads       = set.n_threads;
    params.n_threads_batch = set.n_threads;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.type_k          = kv_type_of(kv_type);
    params.type_v          = kv_type_of(kv_type);
    params.kv_prefill      = KVFOLD_PREFILL_AUTO;
    params.swa_full        = false; // lazy layers keep their window only, as in the engine
    s.context.reset();
    s.samplers.clear();
    std::vector<llama_sampler_seq_config> samplers;
    for (int seq = 0; seq < n_seq; seq++) {
        s.samplers.emplace_back(llama_sampler_chain_init(llama_sampler_chain_default_params()));
        llama_sampler_chain_add(s.samplers.back().get(), llama_sampler_init_greedy());
        samplers.push_back({ seq, s.samplers.back().get() });
    }
    params.samplers   = samplers.data();
    params.n_samplers = samplers.size();
    s.context.reset(llama_init_from_model(s.model.get(), params));
    s.last.assign(n_seq, 0);
    return s.context != nullptr;
}

struct batch_ptr {
    llama_batch batch;

    // tokens [from, to) of every sequence, with the logits of the last one if asked for
    batch_ptr(const subject & s, int from, int to, bool output) : batch(llama_batch_init(s.n_seq()*(to - from), 0, 1)) {
        const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(s.model.get()));
        for (int seq = 0; seq < s.n_seq(); seq++) {
            for (int pos = from; pos < to; pos++) {
                const int t        = batch.n_tokens++;
                batch.token[t]     = (llama_token) ((seq*7919LL + pos*104729LL) % n_vocab);
                batch.pos[t]       = pos;
                batch.n_seq_id[t]  = 1;
                batch.seq_id[t][0] = seq;
                batch.logits[t]    = output && pos == to - 1;
            }
        }
    }

    batch_ptr(const batch_ptr &) = delete;
    ~batch_ptr() { llama_batch_free(batch); }
};

void compute(subject & s, const llama_batch & batch) {
    if (llama_decode(s.context.get(), batch) != 0) {
        throw std::runtime_error("llama_decode failed");
    }
    for (int t = 0; t < batch.n_tokens; t++) {
        if (batch.logits[t]) {
            s.last[batch.seq_id[t][0]] = llama_get_sampled_token_ith(s.context.get(), t);
        }
    }
    llama_synchronize(s.context.get());
}

double prefill(subject & s, int from, int to) {
    const batch_ptr tokens(s, from, to, true);
    return seconds([&] { compute(s, tokens.batch); });
}

double step(subject & s, int pos) {
    batch_ptr tokens(s, pos, pos + 1, true);
    for (int seq = 0; seq < s.n_seq(); seq++) {
        tokens.batch.token[seq] = s.last[seq];
    }
    return seconds([&] { compute(s, tokens.batch); });
}

// The integral from 0 to `width` of what was measured at 0, width/2 and width: Simpson's rule.
double integral(double width, const std::array<double, 3> & at) {
    return width*(at[0] + 4*at[1] + at[2])/6;
}

// ---- a row

struct bandwidths {
    double weights, kv;
};

void measure_whole(subject & s, row & r) {
    r.prefill = prefill(s, 0, r.work.n_prompt);
    for (int pos = r.work.n_prompt; pos < r.work.n_tokens() - 1; pos++) {
        r.decode += step(s, pos);
    }
}

void measure_samples(subject & s, const settings & set, row & r) {
    // as many tokens of each prompt as fill a few ubatches
    const int n_chunk = std::min(r.work.n_prompt, std::max(1, 4*set.n_ubatch/r.n_seq));
    prefill(s, 0, n_chunk); // not counted: the first computation of a context
    if (3*n_chunk >= r.work.n_prompt) {
        llama_memory_clear(llama_get_memory(s.context.get()), false);
        r.prefill = prefill(s, 0, r.work.n_prompt);
    } else {
        std::array<double, 3> per_token = {};
        for (int i = 0; i < 3; i++) {
            const int from = i*(r.work.n_prompt - n_chunk)/2;
            fill_cache(s.context.get(), s.n_seq(), from);
            per_token[i] = prefill(s, from, from + n_chunk)/n_chunk;
        }
        r.prefill = integral(r.work.n_prompt, per_token);
    }
    // the last token of an answer is not computed on
    const int             n_warm = 2, n_steps = std::min(set.n_steps, std::max(1, r.work.n_generate - 1 - n_warm));
    std::array<double, 3> per_step = {};
    for (int i = 0; i < 3; i++) {
        const int from = r.work.n_prompt + i*std::max(0, r.work.n_generate - 1 - n_warm - n_steps)/2;
        fill_cache(s.context.get(), s.n_seq(), from);
        std::vector<double> took;
        for (int k = 0; k < n_warm + n_steps; k++) {
            took.push_back(step(s, from + k));
        }
        per_step[i] = median({ took.begin() + n_warm, took.end() });
    }
    r.decode = integral(r.work.n_generate - 1, per_step);
}

double kv_bytes_per_token(subject & s, const settings & set, const std::string & kv_type) {
    if (!open_context(s, set, kv_type, 1, 256)) {
        throw std::runtime_error("no context");
    }
    return (double) kvfold::read_kv_layout(s.context.get()).bytes_per_token;
}

// Opens a context for the largest batch whose keys and values fit; its size, 0 if not even one sequence does.
int open_largest(subject & s, const settings & set, const row & r, double per_token) {
    const int    n_tokens = GGML_PAD(r.work.n_tokens(), 256); // the cells that llama.cpp gives a sequence
    const bool   card     = r.budget == "card";
    double       budget   = 0;
    s.context.reset();
    if (card) {
        size_t free_bytes = 0, total = 0;
        ggml_backend_dev_memory(gpu(), &free_bytes, &total);
        budget = 0.99*(double) free_bytes;
    } else {
        budget = bytes_of(r.budget);
    }
    int n_seq = (int) std::min<double>(LLAMA_MAX_SEQ, budget/(per_token*n_tokens));
    while (n_seq > 0 && !open_context(s, set, r.kv_type, n_seq, n_tokens)) {
        if (!card) {
            throw std::runtime_error("no memory for a batch of " + std::to_string(n_seq) + " in " + r.budget);
        }
        n_seq = n_seq*31/32; // compute buffers need room as well
    }
    return n_seq;
}

bool measure(subject & s, const settings & set, const bandwidths & bandwidth, row & r) {
    const double per_token = kv_bytes_per_token(s, set, r.kv_type);
    r.n_seq = open_largest(s, set, r, per_token);
    if (r.n_seq == 0) {
        return false;
    }
    const auto layout = kvfold::read_kv_layout(s.context.get());
    r.kv_gib = layout.bytes_allocated/1024.0/1024/1024;

    // every layer reads, also one that keeps nothing itself
    const double read_per_token = per_token/layout.layers_with_storage*llama_model_n_layer(s.model.get());
    const double n_mean         = r.work.n_prompt + (r.work.n_generate - 1)/2.0;
    r.least = (r.work.n_generate - 1)*(weight_bytes(s)/bandwidth.weights + r.n_seq*n_mean*read_per_token/bandwidth.kv);
    if (set.full) {
        measure_whole(s, r);
    } else {
        measure_samples(s, set, r);
    }
    return true;
}

void print(const row & r, const row * first) {
    printf("| %s | %s | %s | %s | %d%s | %.2f | %.2f | %.2f | %.1f |", r.budget.c_str(), r.work.name().c_str(), r.kv_type.c_str(),
           r.plan.c_str(), r.n_seq, r.n_seq == LLAMA_MAX_SEQ ? " (cap)" : "", r.kv_gib, r.prefill, r.decode, r.throughput());
    if (first) {
        printf(" %.2fx | %.2fx |", (double) r.n_seq/first->n_seq, r.throughput()/first->throughput());
    } else {
        printf(" | |");
    }
    printf(" %.1f | %.1f | %.2f |\n", r.n_seq*(r.work.n_generate - 1)/r.decode, r.n_seq*(r.work.n_generate - 1)/r.least, r.decode/r.least);
    fflush(stdout);
}

void write_json(const settings & set, const bandwidths & bandwidth, const std::vector<row> & rows) {
    common_json root;
    root["how"] = set.full ? "full" : "sampled";
    root["weights"] = set.host_weights ? "host" : "device";
    root["weights_bytes_per_second"] = bandwidth.weights;
    root["kv_bytes_per_second"] = bandwidth.kv;
    root["rows"] = common_json::array();
    for (const row & r : rows) {
        root["rows"].push_back({
            { "budget", r.budget }, { "prompt", r.work.n_prompt }, { "generate", r.work.n_generate }, { "kv_type", r.kv_type },
            { "plan", r.plan }, { "batch", r.n_seq }, { "kv_gib", r.kv_gib }, { "prefill_seconds", r.prefill },
            { "decode_seconds", r.decode }, { "decode_roofline_seconds", r.least }, { "tokens_per_second", r.throughput() },
        });
    }
    std::ofstream(set.json_path) << root.dump(2) << "\n";
}

} // namespace

int main(int argc, char ** argv) {
    try {
        const settings set = parse(argc, argv);
        llama_log_set([](ggml_log_level level, const char * text, void *) {
            if (level == GGML_LOG_LEVEL_ERROR) {
                fputs(text, stderr);
            }
        }, nullptr);
        llama_backend_init();

        ggml_backend_dev_t device = gpu() ? gpu() : ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        bandwidths         bandwidth;
        bandwidth.kv      = copy_bandwidth(device, set.n_threads);
        bandwidth.weights = set.host_weights && gpu() ? upload_bandwidth(gpu()) : bandwidth.kv;
        printf("%s: a copy reads and writes %.1f GB/s", ggml_backend_dev_description(device), 1e-9*bandwidth.kv);
        if (bandwidth.weights != bandwidth.kv) {
            printf("; weights in host memory, from where %.1f GB/s", 1e-9*bandwidth.weights);
        }
        printf(".\n%s\n\n", set.full ? "Every row was run from end to end." :
               "Sampled: rates measured at the beginning, in the middle and at the end, and integrated; no row was run from end to end.");
        printf("| KV budget | prompt+answer | KV type | plan | batch | KV, GiB | prefill, s | decode, s | tokens/s | batch ratio | "
               "ratio | decode, tokens/s | roofline | decode time / roofline |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
        std::vector<row> rows;
        subject          s;
        for (const auto & plan : set.plans) {
            load(s, set, plan);
            for (const auto & budget : set.budgets) {
                for (const auto & kv_type : set.kv_types) {
                    for (const auto & work : set.workloads) {
                        if (budget == "card" && !gpu()) {
                            throw std::invalid_argument("a budget of \"card\" needs a GPU");
                        }
                        row r = { plan, kv_type, budget, work };
                        if (!measure(s, set, bandwidth, r)) {
                            printf("| %s | %s | %s | %s | 0 | not one sequence fits | | | | | | | | |\n", budget.c_str(),
                                   work.name().c_str(), kv_type.c_str(), plan.c_str());
                            continue;
                        }
                        const auto first = std::find_if(rows.begin(), rows.end(), [&](const row & other) {
                            return other.plan == set.plans[0] && other.budget == budget && other.kv_type == kv_type &&
                                   other.work.name() == work.name();
                        });
                        print(r, first == rows.end() ? nullptr : &*first);
                        rows.push_back(r);
                        if (!set.json_path.empty()) {
                            write_json(set, bandwidth, rows); // after each row, so that nothing is lost
                        }
                    }
                }
            }
        }
        return 0;
    } catch (const std::exception & e) {
        fprintf(stderr, "kv_throughput: %s\n", e.what());
        return 1;
    }
}
