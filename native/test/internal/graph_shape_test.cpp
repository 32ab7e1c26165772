// graph-shape.patch: graphs with equally many tensors of the same sizes that read them in another order.

#include "../kvfold_test.h"

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <algorithm>
#include <functional>
#include <vector>

namespace {

constexpr int64_t N = 64;

struct graph_of {
    ggml_context * ctx = ggml_init({ ggml_tensor_overhead()*64 + ggml_graph_overhead(), nullptr, true });
    ggml_cgraph *  graph = ggml_new_graph(ctx);
    std::vector<std::pair<ggml_tensor *, float>> inputs;

    ~graph_of() { ggml_free(ctx); }

    ggml_tensor * input(float value) {
        ggml_tensor * t = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, N);
        ggml_set_input(t);
        inputs.push_back({ t, value });
        return t;
    }
};

struct fixture {
    ggml_backend_t         backend = ggml_backend_cpu_init();
    ggml_context *         ctx     = ggml_init({ ggml_tensor_overhead()*4, nullptr, true });
    ggml_tensor *          cache   = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, N); // has its memory before any graph
    ggml_backend_buffer_t  buffer  = ggml_backend_alloc_ctx_tensors(ctx, backend);
    ggml_gallocr_t         alloc   = ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend));

    fixture() { fill(cache, 2.0f); }

    ~fixture() {
        ggml_gallocr_free(alloc);
        ggml_backend_buffer_free(buffer);
        ggml_free(ctx);
        ggml_backend_free(backend);
    }

    static void fill(ggml_tensor * t, float value) {
        const std::vector<float> values(N, value);
        ggml_backend_tensor_set(t, values.data(), 0, ggml_nbytes(t));
    }

    float compute(const std::function<ggml_tensor *(graph_of &)> & build) {
        graph_of      own;
        ggml_tensor * out = build(own);
        ggml_set_output(out);
        ggml_build_forward_expand(own.graph, out);
        CHECK(ggml_gallocr_alloc_graph(alloc, own.graph));
        for (const auto & [t, value] : own.inputs) {
            fill(t, value);
        }
        CHECK(ggml_backend_graph_compute(backend, own.graph) == GGML_STATUS_SUCCESS);
        std::vector<float> values(N);
        ggml_backend_tensor_get(out, values.data(), 0, ggml_nbytes(out));
        CHECK(std::all_of(values.begin(), values.end(), [&](float v) { return v == values.front(); }));
        return values.front();
    }
};

} // namespace

// The first mask is read in each layer or only at first; leafs are then masks and caches in another order.
static void an_input_comes_where_a_cache_was() {
    fixture        f;
    const auto build = [&](bool second_early) {
        return [&f, second_early](graph_of & g) {
            ggml_tensor * x      = g.input(1.0f);
            ggml_tensor * first  = g.input(3.0f);
            ggml_tensor * second = g.input(5.0f);
            ggml_tensor * cur    = ggml_mul(g.ctx, x, first);
            cur = ggml_mul(g.ctx, cur, second_early ? second : first);
            cur = ggml_mul(g.ctx, cur, f.cache);
            return ggml_mul(g.ctx, cur, second_early ? first : second);
        };
    };
    for (const bool second_early : { true, false, true }) {
        CHECK(f.compute(build(second_early)) == 3.0f*3.0f*5.0f*2.0f);
    }
}

// An input that the former graph reads for the last time before the end, so that it writes something else there.
static void an_input_is_read_longer_than_before() {
    fixture        f;
    const auto build = [&](bool first_late) {
        return [first_late](graph_of & g) {
            ggml_tensor * x      = g.input(1.0f);
            ggml_tensor * first  = g.input(3.0f);
            ggml_tensor * second = g.input(5.0f);
            ggml_tensor * cur    = ggml_mul(g.ctx, ggml_mul(g.ctx, x, first), second);
            for (int i = 0; i < 4; ++i) {
                cur = ggml_sum_rows(g.ctx, ggml_repeat_4d(g.ctx, ggml_scale(g.ctx, cur, 1.0f/N), N, N, 1, 1));
                cur = ggml_cont(g.ctx, ggml_reshape_1d(g.ctx, cur, N));
            }
            return ggml_mul(g.ctx, cur, first_late ? first : second);
        };
    };
    CHECK(f.compute(build(false)) == 3.0f*5.0f*5.0f);
    CHECK(f.compute(build(true))  == 3.0f*5.0f*3.0f);
    CHECK(f.compute(build(false)) == 3.0f*5.0f*5.0f);
}

int main() {
    an_input_comes_where_a_cache_was();
    an_input_is_read_longer_than_before();
    return kvfold_test::failures;
}
