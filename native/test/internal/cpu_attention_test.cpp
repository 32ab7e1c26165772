// Which kernel computes attention is each context's own choice, and both compute the same to rounding.

#include "kv_test_context.h"

#include <algorithm>
#include <cmath>

static tested context_of(kvfold_cpu_attention cpu_attention, ggml_type type, const char * plan, bool flash_attn) {
    context_options o;
    o.cpu_attention = cpu_attention;
    o.type          = type;
    o.kv_plan       = plan;
    o.flash_attn    = flash_attn;
    return tested(wide_model(), o);
}

static double distance(const std::vector<float> & a, const std::vector<float> & b) {
    double most = a.empty() || a.size() != b.size() ? INFINITY : 0.0;
    for (size_t i = 0; i < std::min(a.size(), b.size()); i++) {
        most = std::max(most, std::fabs((double) a[i] - b[i]));
    }
    return most;
}

// Contexts side by side, so that a choice of the process would show.
static void is_the_choice_of_a_context(ggml_type type, const char * plan) {
    const std::string name     = std::string(ggml_type_name(type)) + " under " + (plan ? plan : "standard");
    tested            fused    = context_of(KVFOLD_CPU_ATTENTION_FUSED, type, plan, true);
    tested            upstream = context_of(KVFOLD_CPU_ATTENTION_UPSTREAM, type, plan, true);
    tested            again    = context_of(KVFOLD_CPU_ATTENTION_FUSED, type, plan, true);
    for (const uint32_t n : { 300u, 1u }) { // a prompt and a step
        const llama_pos pos = n == 1 ? 300 : 0;
        const auto step = [&](tested & t) { return n == 1 ? t.decode(1, pos, 0, 7) : t.prompt(n, 0, 7); };
        const auto by_fused = step(fused), by_upstream = step(upstream), by_fused_again = step(again);
        const std::string what = name + ", " + std::to_string(n) + " tokens: ";
        check(by_fused == by_fused_again, what + "the same choice gives the same logits");
        check(by_fused != by_upstream, what + "another choice is another kernel");
        check(distance(by_fused, by_upstream) < 0.1, what + "but the same but for rounding");
    }
}

static void is_none_without_flash_attention() {
    tested fused    = context_of(KVFOLD_CPU_ATTENTION_FUSED, GGML_TYPE_F16, nullptr, false);
    tested upstream = context_of(KVFOLD_CPU_ATTENTION_UPSTREAM, GGML_TYPE_F16, nullptr, false);
    check(fused.prompt(300, 0, 7) == upstream.prompt(300, 0, 7), "without flash attention there is nothing to choose");
}

// Upstream rounds keys and values in F32 to F16, which attention without flash attention does not.
static void reads_f32_as_it_is(const char * plan) {
    const auto error = [&](kvfold_cpu_attention cpu_attention) {
        tested flash = context_of(cpu_attention, GGML_TYPE_F32, plan, true);
        tested plain = context_of(cpu_attention, GGML_TYPE_F32, plan, false);
        return distance(flash.prompt(300, 0, 7), plain.prompt(300, 0, 7));
    };
    const double of_fused = error(KVFOLD_CPU_ATTENTION_FUSED), of_upstream = error(KVFOLD_CPU_ATTENTION_UPSTREAM);
    check(of_fused*100 < of_upstream, std::string("keys and values in F32 are not rounded under ") + (plan ? plan : "standard") +
            ": off by " + std::to_string(of_fused) + ", ggml's by " + std::to_string(of_upstream));
}

int main() {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0 }) {
        for (const char * plan : { (const char *) nullptr, "cla:2", "streaming:64" }) {
            is_the_choice_of_a_context(type, plan);
        }
    }
    for (const char * plan : { (const char *) nullptr, "cla:2", "streaming:64" }) {
        reads_f32_as_it_is(plan);
    }
    is_none_without_flash_attention();
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed == 0 ? 0 : 1;
}
