// Prefill and decode tokens per second of several models in turn, in one process: what a KV plan, or a patch, costs or
// gains. Measures llama_decode() alone; nothing else should run on the machine.
//
//   kv_bench --model A.gguf [--label NAME] [--kv-plan PLAN] [--model B.gguf ...] [--threads N] [--rounds 5]
//            [--depths 0,2048] [--generate 32] [--prompt 256] [--sequences 1,16] [--ubatch 512]
//            [--kv-type f16] [--cpu-attention fused|upstream] [--prefill auto|fixed|exact]
//
// A --label, --kv-plan, --kv-type or --cpu-attention belongs to the --model before it; the latter two, if they come first, to
// all that say nothing else. Every round runs all models once, in an order that turns by one each round. Prints a Markdown table: median, lowest and highest rate, and the same of the ratios to the first
// model within one round.

#include "fill_cache.h"
#include "type_of.h"

#include "ggml-backend.h"
#include "llama-cpp.h"
#include "llama.h"

#ifndef KVFOLD_UNPATCHED
#    include "hooks/cpu-attention.h"
#    include "hooks/kv-plan-prefill.h"
#endif

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

struct subject {
    std::string path;
    std::string label;
    std::string kv_plan;
    std::string cpu_attention;
    ggml_type   kv_type = GGML_TYPE_F16;

    llama_model_ptr   model;
    llama_context_ptr context;
};

struct settings {
    std::vector<subject> subjects;
    std::vector<int>     depths    = { 0 };
    std::vector<int>     sequences = { 1, 16 };

    int         n_generate = 32;
    int         n_prompt   = 256;
    int         n_ubatch   = 512;
    int         n_rounds   = 5;
    int         n_threads  = (int) std::thread::hardware_concurrency();
    std::string prefill    = "auto";
    subject     defaults;
};

static std::vector<int> numbers(const std::string & text) {
    std::vector<int> list;
    for (size_t from = 0; from < text.size();) {
        const size_t to = std::min(text.find(',', from), text.size());
        list.push_back(std::stoi(text.substr(from, to - from)));
        from = to + 1;
    }
    return list;
}

static settings parse(int argc, char ** argv) {
    settings s;
    for (int i = 1; i < argc; i++) {
        const std::string name = argv[i];
        if (++i >= argc) {
            throw std::invalid_argument(name + " needs a value");
        }
        const std::string value = argv[i];
        const auto        last  = [&]() -> subject & {
            if (s.subjects.empty()) {
                throw std::invalid_argument(name + " comes before any --model");
            }
            return s.subjects.back();
        };
        if (name == "--model") {
            s.subjects.emplace_back();
            last().kv_type       = s.defaults.kv_type;
            last().cpu_attention = s.defaults.cpu_attention;
            last().path          = value;
            last().label = value.substr(value.find_last_of('/') + 1);
        } else if (name == "--label") {
            last().label = value;
        } else if (name == "--kv-plan") {
            last().kv_plan = value;
        } else if (name == "--threads") {
            s.n_threads = std::stoi(value);
        } else if (name == "--rounds") {
            s.n_rounds = std::stoi(value);
        } else if (name == "--depths") {
            s.depths = numbers(value);
        } else if (name == "--sequences") {
            s.sequences = numbers(value);
        } else if (name == "--generate") {
            s.n_generate = std::stoi(value);
        } else if (name == "--prompt") {
            s.n_prompt = std::stoi(value);
        } else if (name == "--ubatch") {
            s.n_ubatch = std::stoi(value);
        } else if (name == "--prefill") {
            s.prefill = value;
        } else if (name == "--kv-type") {
            (s.subjects.empty() ? s.defaults : last()).kv_type = type_of(value);
        } else if (name == "--cpu-attention") {
            (s.subjects.empty() ? s.defaults : last()).cpu_attention = value;
        } else {
            throw std::invalid_argument("unknown option " + name);
        }
    }
    if (s.subjects.empty()) {
        throw std::invalid_argument("no --model");
    }
    std::sort(s.depths.begin(), s.depths.end());
    return s;
}

static void load(subject & s) {
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers       = 999;
#ifndef KVFOLD_UNPATCHED
    params.kv_plan            = s.kv_plan.empty() ? nullptr : s.kv_plan.c_str();
#endif
    s.context.reset();
    s.model.reset(llama_model_load_from_file(s.path.c_str(), params));
    if (!s.model) {
        throw std::runtime_error("cannot load " + s.path);
    }
}

static void open_context(subject & s, const settings & set, int n_ctx, int n_batch, int n_seq) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx                = n_ctx;
    params.n_batch              = n_batch;
    params.n_ubatch             = set.n_ubatch;
    params.n_seq_max            = n_seq;
    params.kv_unified           = true;
    params.n_threads            = set.n_threads;
    params.n_threads_batch      = set.n_threads;
    params.flash_attn_type      = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.type_k               = s.kv_type;
    params.type_v               = s.kv_type;
    params.swa_full             = false; // as in the engine: lazy layers keep their window only
#ifndef KVFOLD_UNPATCHED
    params.cpu_attention = s.cpu_attention == "upstream" ? KVFOLD_CPU_ATTENTION_UPSTREAM : KVFOLD_CPU_ATTENTION_FUSED;
    params.kv_prefill = set.prefill == "exact" ? KVFOLD_PREFILL_EXACT : set.prefill == "fixed" ? KVFOLD_PREFILL_FIXED : KVFOLD_PREFILL_AUTO;
#endif
    s.context.reset();
    s.context.reset(llama_init_from_model(s.model.get(), params));
    if (!s.context) {
        throw std::runtime_error("no context for " + s.path);
    }
}

// Decodes n tokens of each sequence as one batch; the seconds that took.
static double decode(const subject & s, int n_seq, int n, int pos) {
    llama_batch batch   = llama_batch_init(n_seq*n, 0, 1);
    const int   n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(s.model.get()));
    for (int seq = 0; seq < n_seq; seq++) {
        for (int i = 0; i < n; i++) {
            const int t        = batch.n_tokens++;
            batch.token[t]     = (int) ((seq*7919LL + (pos + i)*104729LL) % n_vocab);
            batch.pos[t]       = pos + i;
            batch.n_seq_id[t]  = 1;
            batch.seq_id[t][0] = seq;
            batch.logits[t]    = i == n - 1;
        }
    }
    const auto start  = std::chrono::steady_clock::now();
    const int  status = llama_decode(s.context.get(), batch);
    llama_synchronize(s.context.get());
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    llama_batch_free(batch);
    if (status != 0) {
        throw std::runtime_error("llama_decode failed for " + s.path);
    }
    return took.count();
}

static double median(std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v.size() % 2 ? v[v.size()/2] : (v[v.size()/2 - 1] + v[v.size()/2])/2;
}

template <typename F>
static void measure(settings & set, const std::string & what, F rate_of) {
    const size_t n = set.subjects.size();
    std::vector<std::vector<double>> rates(n), ratios(n);
    for (auto & s : set.subjects) {
        rate_of(s); // not counted: pages, caches, clocks
    }
    for (int round = 0; round < set.n_rounds; round++) {
        std::vector<double> now(n);
        for (size_t k = 0; k < n; k++) {
            const size_t i = (k + round) % n;
            now[i] = rate_of(set.subjects[i]);
        }
        for (size_t i = 0; i < n; i++) {
            rates[i].push_back(now[i]);
            ratios[i].push_back(now[i]/now[0]);
        }
    }
    for (size_t i = 0; i < n; i++) {
        const auto [low, high]             = std::minmax_element(rates[i].begin(), rates[i].end());
        const auto [ratio_low, ratio_high] = std::minmax_element(ratios[i].begin(), ratios[i].end());
        printf("| %s | %s | %.2f | %.2f - %.2f | %.3f | %.3f - %.3f |\n", what.c_str(), set.subjects[i].label.c_str(),
                median(rates[i]), *low, *high, median(ratios[i]), *ratio_low, *ratio_high);
    }
    fflush(stdout);
}

static void measure_prefill(settings & set, int n_seq) {
    const int n_total = n_seq*set.n_prompt;
    for (auto & s : set.subjects) {
        load(s);
        open_context(s, set, n_total, n_total, n_seq);
    }
    measure(set, "prefill " + std::to_string(n_seq) + " x " + std::to_string(set.n_prompt), [&](const subject & s) {
        const double took = decode(s, n_seq, set.n_prompt, 0);
        llama_memory_clear(llama_get_memory(s.context.get()), false);
        return n_total/took;
    });
}

static void measure_decode(settings & set) {
    const int n_ctx = set.depths.back() + set.n_generate + set.n_ubatch;
    for (auto & s : set.subjects) {
        load(s);
        open_context(s, set, n_ctx, set.n_ubatch, 1);
    }
    for (const int depth : set.depths) {
        const int n_end = std::min(depth, 64); // are computed, as the end of a prompt: tokens that a plan evicts go then
        for (auto & s : set.subjects) {
            fill_cache(s.context.get(), 1, depth - n_end);
            if (n_end > 0) {
                decode(s, 1, n_end, depth - n_end);
            }
        }
        measure(set, "decode at " + std::to_string(depth), [&](const subject & s) {
            double took = 0.0;
            for (int i = 0; i < set.n_generate; i++) {
                took += decode(s, 1, 1, depth + i);
            }
            llama_memory_seq_rm(llama_get_memory(s.context.get()), 0, depth, -1);
            return set.n_generate/took;
        });
    }
}

int main(int argc, char ** argv) {
    try {
        settings set = parse(argc, argv);
        llama_log_set([](ggml_log_level level, const char * text, void *) {
            if (level == GGML_LOG_LEVEL_ERROR) {
                fputs(text, stderr);
            }
        }, nullptr);
        llama_backend_init();

        printf("| what | model | tokens/s | lowest - highest | ratio | lowest - highest |\n|---|---|---|---|---|---|\n");
        for (const int n_seq : set.sequences) {
            measure_prefill(set, n_seq);
        }
        if (!set.depths.empty() && set.n_generate > 0) {
            measure_decode(set);
        }
        return 0;
    } catch (const std::exception & e) {
        fprintf(stderr, "kv_bench: %s\n", e.what());
        return 1;
    }
}
