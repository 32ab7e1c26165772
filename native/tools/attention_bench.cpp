// Attention alone: the fused kernel against ggml's op and against the time to read the bytes of keys and values, in turn in
// one process. Nothing else should run on the machine.
//
//   attention_bench [--shapes tinyllama,llama-3-8b,...] [--depths 1024,32768] [--types f16,q8_0,q4_0] [--threads 1,2]
//                   [--batches 1,8,32,8+] [--kernels avx512,avx2,...] [--rounds 7] [--layers-mib 512] [--full]
//
// A batch of n sequences has n times the depth in the cache, one token each; with a plus the sequences share all of it. Keys
// and values are those of as many layers as fit --layers-mib, at least one, so that with enough of them they come from memory
// as a model's do. --full is the whole grid of shapes, depths, types, threads and batches up to 256K keys. Prints a Markdown
// table: milliseconds per layer, medians; ratios are medians of those within a round, lowest and highest beside.

#include "../test/internal/attention_op.h"
#include "type_of.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <stdexcept>

using kvfold::attention::kernel;
using kvfold::attention::usable_kernels;

struct model_shape {
    const char * name;
    int64_t      head_size, n_heads, n_kv_heads;
};

static const std::vector<model_shape> & model_shapes() {
    static const std::vector<model_shape> list = {
        { "tinyllama", 64, 32, 4 },   { "llama-3-8b", 128, 32, 8 }, { "qwen3-8b", 128, 32, 8 },
        { "smollm2-135m", 64, 9, 3 }, { "gemma-3-4b", 256, 8, 4 },  { "ungrouped", 64, 32, 32 },
    };
    return list;
}

struct settings {
    std::vector<std::string> shapes  = { "tinyllama", "llama-3-8b", "smollm2-135m", "gemma-3-4b", "ungrouped" };
    std::vector<std::string> depths  = { "1024", "8192", "32768" };
    std::vector<std::string> types   = { "f16", "q8_0", "q4_0" };
    std::vector<std::string> threads = { "2" };
    std::vector<std::string> batches = { "1" };
    std::vector<std::string> kernels;
    int     n_rounds   = 7;
    int64_t layers_mib = 512;
};

static std::vector<std::string> split(const std::string & text) {
    std::vector<std::string> list;
    for (size_t from = 0; from < text.size();) {
        const size_t to = std::min(text.find(',', from), text.size());
        list.push_back(text.substr(from, to - from));
        from = to + 1;
    }
    return list;
}

static settings parse(int argc, char ** argv) {
    settings s;
    const std::map<std::string, std::vector<std::string> *> lists = { { "--shapes", &s.shapes }, { "--depths", &s.depths },
        { "--types", &s.types }, { "--threads", &s.threads }, { "--batches", &s.batches }, { "--kernels", &s.kernels } };
    for (int i = 1; i < argc; i++) {
        const std::string name = argv[i];
        if (name == "--full") {
            s.shapes.clear();
            for (const model_shape & shape : model_shapes()) {
                s.shapes.push_back(shape.name);
            }
            s.depths  = { "1024", "8192", "32768", "131072" };
            s.threads = { "1", "2" };
            s.batches = { "1", "8", "32", "8+" };
            continue;
        }
        if (++i >= argc) {
            throw std::invalid_argument(name + " needs a value");
        }
        if (lists.count(name)) {
            *lists.at(name) = split(argv[i]);
        } else if (name == "--rounds") {
            s.n_rounds = std::stoi(argv[i]);
        } else if (name == "--layers-mib") {
            s.layers_mib = std::stoll(argv[i]);
        } else {
            throw std::invalid_argument("unknown option " + name);
        }
    }
    if (s.kernels.empty()) {
        s.kernels.push_back(usable_kernels().front()->name);
    }
    return s;
}

template <typename T, typename F> static T find(const std::vector<T> & list, const std::string & name, F name_of) {
    for (const T & each : list) {
        if (name == name_of(each)) {
            return each;
        }
    }
    throw std::invalid_argument("unknown name " + name);
}

// ---- reading alone

struct reading {
    std::vector<const ggml_tensor *> tensors;
};

// Every thread reads its part of each tensor, 64 bytes at a time.
static void read_all(ggml_tensor * to, const ggml_tensor *, int ith, int nth, void * data) {
    uint64_t sums[8] = {};
    for (const ggml_tensor * t : ((const reading *) data)->tensors) {
        const size_t n_lines = ggml_nbytes(t)/64;
        const char * from    = (const char *) t->data + n_lines*ith/nth*64;
        const char * end     = (const char *) t->data + n_lines*(ith + 1)/nth*64;
        for (; from < end; from += 64) {
            uint64_t line[8];
            memcpy(line, from, sizeof(line));
            for (int i = 0; i < 8; i++) {
                sums[i] += line[i];
            }
        }
    }
    uint64_t sum = 0;
    for (const uint64_t s : sums) {
        sum += s;
    }
    ((float *) to->data)[ith] = (float) sum; // so that reading has a result
}

struct reader {
    reading                 what;
    ggml_context_ptr        context;
    ggml_backend_buffer_ptr buffer;
    ggml_cgraph *           graph;
    ggml_backend_t          backend;

    reader(const attention_op & op) : backend(op.backend) {
        what.tensors.insert(what.tensors.end(), op.k.begin(), op.k.end());
        what.tensors.insert(what.tensors.end(), op.v.begin(), op.v.end());
        context.reset(ggml_init({ 4*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true }));
        ggml_tensor * sums = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, GGML_MAX_N_THREADS);
        graph = ggml_new_graph(context.get());
        ggml_build_forward_expand(graph, ggml_map_custom1_inplace(context.get(), sums, read_all, GGML_N_TASKS_MAX, &what));
        buffer.reset(ggml_backend_alloc_ctx_tensors(context.get(), backend));
    }

    void read() const { ggml_backend_graph_compute(backend, graph); }
};

// ---- measuring

static double median(std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v.size()%2 ? v[v.size()/2] : (v[v.size()/2 - 1] + v[v.size()/2])/2;
}

// Milliseconds per layer; a run of a few milliseconds at least.
template <typename F> static double milliseconds(int n_layers, F run) {
    using clock = std::chrono::steady_clock;
    const auto start = clock::now();
    std::chrono::duration<double, std::milli> took{};
    int n = 0;
    do {
        run();
        n++;
        took = clock::now() - start;
    } while (took.count() < 5.0);
    return took.count()/n/n_layers;
}

static std::string with_spread(const std::vector<double> & values) {
    char text[64];
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    snprintf(text, sizeof(text), "%.2f (%.2f - %.2f)", median(values), *low, *high);
    return text;
}

// Quantised random bytes would hold scales that are not finite; so one layer is quantised, and copied to the others.
static void fill(const attention_op & op, bool shared, int64_t n_sequences) {
    std::mt19937 rng(1);
    const auto   random = [&](ggml_tensor * t, float width) {
        std::vector<float> values(ggml_nelements(t));
        for (float & v : values) {
            v = ((float) (rng() >> 8)/16777216.0f - 0.5f)*width;
        }
        set_values(t, values);
    };
    random(op.q, 4.0f);
    random(op.k[0], 4.0f);
    random(op.v[0], 2.0f);
    for (size_t i = 1; i < op.k.size(); i++) {
        memcpy(op.k[i]->data, op.k[0]->data, ggml_nbytes(op.k[0]));
        memcpy(op.v[i]->data, op.v[0]->data, ggml_nbytes(op.v[0]));
    }
    std::vector<float> mask(ggml_nelements(op.mask));
    const int64_t      n_kv = op.shape.n_kv;
    for (size_t i = 0; i < mask.size(); i++) {
        mask[i] = shared || (int64_t) i%n_kv*n_sequences/n_kv == (int64_t) i/n_kv ? 0.0f : -INFINITY;
    }
    set_values(op.mask, mask);
}

static void measure(const settings & set, const model_shape & model, int64_t depth, ggml_type type, int n_threads, const std::string & batch,
        ggml_backend_t backend) {
    const bool    shared = batch.back() == '+';
    const int64_t n      = std::stoll(batch);
    attention_shape s;
    s.d_k = s.d_v = model.head_size;
    s.n_heads     = model.n_heads;
    s.n_kv_heads  = model.n_kv_heads;
    s.n_tokens    = n;
    s.n_kv        = shared ? depth : depth*n;
    s.type_k = s.type_v = type;
    s.scale             = 1.0f/std::sqrt((float) model.head_size);
    if (s.n_kv > 262144) {
        return;
    }
    const int64_t bytes    = 2*(int64_t) ggml_row_size(type, s.d_k)*s.n_kv_heads*s.n_kv;
    const int     n_layers = (int) std::clamp<int64_t>((set.layers_mib << 20)/bytes, 1, 64);
    ggml_backend_cpu_set_n_threads(backend, n_threads);
    attention_op op(s, backend, n_layers);
    fill(op, shared, n);
    const reader memory(op);

    std::vector<const kernel *> kernels;
    for (const std::string & name : set.kernels) {
        kernels.push_back(find(usable_kernels(), name, [](const kernel * k) { return k->name; }));
    }
    std::vector<double>              ggml, reading;
    std::vector<std::vector<double>> own(kernels.size()), speedup(kernels.size()), over_reading(kernels.size());
    op.compute(kernels.front());
    for (int round = 0; round < set.n_rounds; round++) {
        ggml.push_back(milliseconds(n_layers, [&] { op.compute(nullptr); }));
        reading.push_back(milliseconds(n_layers, [&] { memory.read(); }));
        for (size_t i = 0; i < kernels.size(); i++) {
            own[i].push_back(milliseconds(n_layers, [&] { op.compute(kernels[i]); }));
            speedup[i].push_back(ggml.back()/own[i].back());
            over_reading[i].push_back(own[i].back()/reading.back());
        }
    }
    for (size_t i = 0; i < kernels.size(); i++) {
        printf("| %s | %lld | %s | %s | %d | %s | %.3f | %.3f | %.1f | %.3f | %s | %s |\n", model.name, (long long) depth, batch.c_str(),
                ggml_type_name(type), n_threads, kernels[i]->name, median(ggml), median(reading), (double) bytes/median(reading)/1e6,
                median(own[i]), with_spread(speedup[i]).c_str(), with_spread(over_reading[i]).c_str());
    }
    fflush(stdout);
}

int main(int argc, char ** argv) {
    try {
        const settings set = parse(argc, argv);
        const ggml_backend_ptr backend(ggml_backend_cpu_init());
        printf("| shape | depth | sequences | type | threads | kernel | ggml, ms | reading, ms | GB/s | fused, ms | ggml / fused | fused / reading |\n"
               "|---|---|---|---|---|---|---|---|---|---|---|---|\n");
        for (const std::string & batch : set.batches) {
            for (const std::string & shape : set.shapes) {
                for (const std::string & depth : set.depths) {
                    for (const std::string & type : set.types) {
                        for (const std::string & n_threads : set.threads) {
                            measure(set, find(model_shapes(), shape, [](const model_shape & m) { return m.name; }), std::stoll(depth),
                                    type_of(type), std::stoi(n_threads), batch, backend.get());
                        }
                    }
                }
            }
        }
        return 0;
    } catch (const std::exception & e) {
        fprintf(stderr, "attention_bench: %s\n", e.what());
        return 1;
    }
}
