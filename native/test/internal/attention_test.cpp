// The attention kernels against double precision, beside ggml's own: shapes, types and masks by chance, and what must not
// depend on chance. Every kernel that this machine runs is tested.
//
//   attention_test [CASES [SEED]]

#include "attention_op.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>

using kvfold::attention::kernel;
using kvfold::attention::usable_kernels;

static int n_checks = 0;
static int n_failed = 0;

static void check(bool ok, const std::string & what) {
    n_checks++;
    if (!ok) {
        n_failed++;
        fprintf(stderr, "FAILED: %s\n", what.c_str());
    }
}

static ggml_backend_t backend_of(int n_threads) {
    static const ggml_backend_ptr backend(ggml_backend_cpu_init());
    ggml_backend_cpu_set_n_threads(backend.get(), n_threads);
    return backend.get();
}

static const float hidden = -std::numeric_limits<float>::infinity();

enum class masking { everything, causal, sequences, by_chance, biases, rows_without_keys };

struct generator {
    std::mt19937 rng;

    explicit generator(uint32_t seed) : rng(seed) {}

    int64_t up_to(int64_t n) { return (int64_t) (rng()%(uint64_t) n); } // 0..n-1
    bool    one_in(int n) { return rng()%(unsigned) n == 0; }

    template <typename T> T any_of(std::initializer_list<T> of) { return of.begin()[up_to((int64_t) of.size())]; }

    std::vector<float> normal(int64_t n, float width) {
        std::normal_distribution<float> distribution(0.0f, width);
        std::vector<float>              values(n);
        for (float & v : values) {
            v = distribution(rng);
        }
        return values;
    }

    std::vector<float> mask(const attention_shape & s, masking how) {
        std::vector<float> values(s.n_kv*s.n_tokens*s.n_masks*s.mask_streams());
        const int64_t      n_rows = s.n_tokens*s.n_masks*s.mask_streams();
        for (int64_t row = 0; row < n_rows; row++) {
            const int64_t token = row%s.n_tokens;
            const bool    empty = how == masking::rows_without_keys && one_in(3);
            for (int64_t j = 0; j < s.n_kv; j++) {
                float & m = values[row*s.n_kv + j];
                switch (how) {
                    case masking::everything:        m = 0.0f; break;
                    case masking::causal:            m = j <= s.n_kv - s.n_tokens + token ? 0.0f : hidden; break;
                    case masking::sequences:         m = j*s.n_tokens/s.n_kv == token ? 0.0f : hidden; break;
                    case masking::by_chance:         m = one_in(2) ? 0.0f : hidden; break;
                    case masking::biases:            m = one_in(4) ? hidden : -(float) up_to(64)/8; break;
                    case masking::rows_without_keys: m = empty || one_in(8) ? hidden : 0.0f; break;
                }
            }
        }
        return values;
    }

    void fill(attention_op & op, masking how) {
        const attention_shape & s = op.shape;
        set_values(op.q, normal(ggml_nelements(op.q), 1.0f));
        set_values(op.k[0], normal(ggml_nelements(op.k[0]), 1.0f));
        set_values(op.v[0], normal(ggml_nelements(op.v[0]), 1.0f));
        if (op.mask) {
            set_values(op.mask, mask(s, how));
        }
        if (op.sinks) {
            set_values(op.sinks, normal(s.n_heads, 2.0f));
        }
    }
};

// In double precision, from what the operands' types have made of their values.
static std::vector<double> reference(const attention_op & op) {
    const attention_shape & s = op.shape;
    const auto q = get_values(op.q), k = get_values(op.k[0]), v = get_values(op.v[0]);
    const auto mask  = op.mask ? get_values(op.mask) : std::vector<float>();
    const auto sinks = op.sinks ? get_values(op.sinks) : std::vector<float>();
    std::vector<double> out(s.d_v*s.n_heads*s.n_tokens*s.n_streams), scores(s.n_kv);
    const double n_log2 = std::pow(2.0, std::floor(std::log2((double) s.n_heads)));
    for (int64_t stream = 0; stream < s.n_streams; stream++) {
        for (int64_t token = 0; token < s.n_tokens; token++) {
            for (int64_t head = 0; head < s.n_heads; head++) {
                const int64_t kv_head = head/(s.n_heads/s.n_kv_heads);
                const double  slope   = s.max_bias == 0 ? 1.0 : head < n_log2 ? std::pow(2.0, -s.max_bias/n_log2*(double) (head + 1))
                                      : std::pow(2.0, -s.max_bias/2/n_log2*(2*(head - n_log2) + 1));
                const float * query = &q[((stream*s.n_tokens + token)*s.n_heads + head)*s.d_k];
                double top = hidden, sum = 0;
                for (int64_t j = 0; j < s.n_kv; j++) {
                    const float * key = &k[((stream*s.n_kv + j)*s.n_kv_heads + kv_head)*s.d_k];
                    double score = 0;
                    for (int64_t d = 0; d < s.d_k; d++) {
                        score += (double) query[d]*key[d];
                    }
                    score *= s.scale;
                    score = s.softcap != 0 ? s.softcap*std::tanh(score/s.softcap) : score;
                    const float m = op.mask ? mask[((stream%s.mask_streams()*s.n_masks + head%s.n_masks)*s.n_tokens + token)*s.n_kv + j] : 0.0f;
                    scores[j] = m == hidden ? (double) hidden : score + slope*m;
                    top       = std::max(top, scores[j]);
                }
                if (op.sinks) {
                    top = std::max(top, (double) sinks[head]);
                    sum = std::exp(sinks[head] - top);
                }
                double * to = &out[((stream*s.n_tokens + token)*s.n_heads + head)*s.d_v];
                for (int64_t j = 0; j < s.n_kv; j++) {
                    if (scores[j] == hidden) {
                        continue;
                    }
                    const double  weight = std::exp(scores[j] - top);
                    const float * value  = &v[((stream*s.n_kv + j)*s.n_kv_heads + kv_head)*s.d_v];
                    for (int64_t d = 0; d < s.d_v; d++) {
                        to[d] += weight*value[d];
                    }
                    sum += weight;
                }
                for (int64_t d = 0; d < s.d_v; d++) {
                    to[d] = sum == 0 ? 0.0 : to[d]/sum;
                }
            }
        }
    }
    return out;
}

static double error_of(const std::vector<float> & values, const std::vector<double> & truth) {
    double error = 0;
    for (size_t i = 0; i < values.size(); i++) {
        const double difference = std::fabs(values[i] - truth[i]);
        error = std::isnan(difference) ? INFINITY : std::max(error, difference);
    }
    return error;
}

struct tally {
    double      largest_ratio = 0; // of errors, where ggml's is larger than rounding
    double      largest_own   = 0;
    double      largest_ggml  = 0;
    int         n_rounding    = 0; // cases in which both are rounding
};

// Rounding of F32: where ggml's own error is of this size, which of two is larger is chance. Of values around 1.
static double rounding(const attention_shape & s) {
    return 2e-6*(s.softcap != 0 ? 1 + s.softcap/8 : 1)*(s.max_bias != 0 ? 2 : 1);
}

static void compare(const attention_op & op, const std::string & what, std::vector<tally> & tallies) {
    const std::vector<double> truth = reference(op);
    op.compute(nullptr);
    const double ggml = error_of(op.result(), truth);
    for (size_t i = 0; i < usable_kernels().size(); i++) {
        const kernel * kernel = usable_kernels()[i];
        op.compute(kernel);
        check(kvfold::attention::takes_over(*op.out[0]), what + " is not taken by " + kernel->name);
        const auto   first = op.result();
        const double own   = error_of(first, truth);
        check(own <= std::max(ggml, rounding(op.shape)),
                what + ", " + kernel->name + ": error " + std::to_string(own*1e6) + "e-6, ggml's " + std::to_string(ggml*1e6) + "e-6");
        tally & t = tallies[i];
        t.largest_own  = std::max(t.largest_own, own);
        t.largest_ggml = std::max(t.largest_ggml, ggml);
        if (ggml > rounding(op.shape)) {
            t.largest_ratio = std::max(t.largest_ratio, own/ggml);
        } else {
            t.n_rounding++;
        }
        op.compute(kernel);
        check(op.result() == first, what + ", " + kernel->name + ": not the same twice");
    }
}

static constexpr std::initializer_list<ggml_type> types = { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q8_0, GGML_TYPE_Q5_1,
    GGML_TYPE_Q5_0, GGML_TYPE_Q4_1, GGML_TYPE_Q4_0, GGML_TYPE_IQ4_NL };

static void cases_by_chance(int n_cases, uint32_t seed, std::vector<tally> & tallies) {
    for (int i = 0; i < n_cases; i++) {
        generator g(seed + (uint32_t) i);
        attention_shape s;
        s.type_k = g.any_of(types);
        s.type_v = g.one_in(2) ? s.type_k : g.any_of(types);
        const auto head_size = [&](ggml_type type) {
            return ggml_is_quantized(type) ? g.any_of<int64_t>({ 32, 64, 96, 128, 256, 576 }) : g.any_of<int64_t>({ 1, 8, 40, 64, 72, 80, 112, 128, 192 });
        };
        s.d_k        = head_size(s.type_k);
        s.d_v        = ggml_blck_size(s.type_v) <= 1 || s.d_k%32 == 0 ? (g.one_in(2) ? s.d_k : head_size(s.type_v)) : head_size(s.type_v);
        s.n_kv_heads = 1 + g.up_to(4);
        s.n_heads    = s.n_kv_heads*g.any_of<int64_t>({ 1, 1, 2, 3, 4, 5, 8 });
        s.n_tokens   = g.any_of<int64_t>({ 1, 1, 1, 2, 5, 8, 33, 64, 100 });
        s.n_kv       = g.any_of<int64_t>({ 1, 7, 63, 64, 65, 200, 256, 500, 512, 777, 1500 });
        s.n_streams  = g.one_in(4) ? 1 + g.up_to(3) : 1;
        s.masked     = !g.one_in(6);
        s.n_masks    = s.masked && g.one_in(8) ? s.n_heads : 1;
        s.n_mask_streams = g.one_in(2) ? 1 : 0;
        s.sinks      = g.one_in(4);
        s.softcap    = g.one_in(4) ? g.any_of({ 10.0f, 30.0f, 50.0f }) : 0.0f;
        s.max_bias   = s.masked && g.one_in(4) ? 8.0f : 0.0f;
        s.scale      = 1.0f/std::sqrt((float) s.d_k);
        const auto how = g.any_of({ masking::everything, masking::causal, masking::sequences, masking::by_chance, masking::biases,
                masking::rows_without_keys });
        const int n_threads = g.any_of({ 1, 1, 2, 3 });
        attention_op op(s, backend_of(n_threads));
        g.fill(op, how);
        compare(op, "case " + std::to_string(seed + i) + " (" + s.text() + ", mask " + std::to_string((int) how) + ", " +
                        std::to_string(n_threads) + " threads)", tallies);
    }
}

static void many_tokens(std::vector<tally> & tallies) {
    for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_Q8_0 }) {
        attention_shape s;
        s.n_kv       = 100000;
        s.n_heads    = 2;
        s.n_kv_heads = 1;
        s.type_k = s.type_v = type;
        attention_op op(s, backend_of(2));
        generator(1).fill(op, masking::everything);
        compare(op, "1e5 tokens (" + s.text() + ")", tallies);
    }
}

// Queries so many that the op is divided by KV head and block of tokens, the last one not a whole one.
static void many_queries(std::vector<tally> & tallies) {
    for (const ggml_type type : { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q4_0 }) {
        attention_shape s;
        s.n_tokens = 300;
        s.n_heads  = 32;
        s.n_kv     = 333;
        s.type_k = s.type_v = type;
        attention_op op(s, backend_of(2));
        generator(2).fill(op, masking::causal);
        compare(op, "many queries (" + s.text() + ")", tallies);
    }
}

static const float not_a_number = std::numeric_limits<float>::quiet_NaN();

// More heads for a KV head than a block of rows has, and not enough tokens for all threads.
static void many_heads(std::vector<tally> & tallies) {
    for (const ggml_type type : { GGML_TYPE_F16, GGML_TYPE_Q8_0 }) {
        attention_shape s;
        s.n_heads    = 71;
        s.n_kv_heads = 1;
        s.n_tokens   = 31;
        s.n_kv       = 130;
        s.type_k = s.type_v = type;
        attention_op op(s, backend_of(8));
        generator(4).fill(op, masking::causal);
        compare(op, "many heads (" + s.text() + ")", tallies);
    }
}

// What is lost in a sum over long keys, which are not rounded themselves; and in rows that are computed again, since a key that
// nobody sees is not finite.
static void long_keys(std::vector<tally> & tallies) {
    for (const int64_t d_k : { 256, 576 }) {
        attention_shape s;
        s.d_k        = d_k;
        s.n_heads    = 8;
        s.n_kv_heads = 2;
        s.n_tokens   = 100;
        s.n_kv       = 200;
        s.type_k = s.type_v = GGML_TYPE_F32;
        s.scale      = 4.0f/std::sqrt((float) d_k);
        attention_op op(s, backend_of(2));
        generator(5).fill(op, masking::causal);
        std::vector<float> k = get_values(op.k[0]), mask = get_values(op.mask);
        for (int64_t t = 0; t < s.n_tokens; t++) {
            mask[t*s.n_kv + 70] = hidden;
        }
        set_values(op.mask, mask);
        compare(op, "long keys (" + s.text() + ")", tallies);
        const std::vector<double> truth = reference(op);
        op.compute(nullptr);
        const double ggml = error_of(op.result(), truth);
        std::fill_n(k.begin() + 70*s.n_kv_heads*d_k, s.n_kv_heads*d_k, not_a_number);
        set_values(op.k[0], k);
        for (const kernel * kernel : usable_kernels()) {
            op.compute(kernel);
            const double own = error_of(op.result(), truth);
            check(own <= std::max(ggml, rounding(s)),
                    "long keys, one not finite (" + s.text() + "), " + kernel->name + ": error " + std::to_string(own*1e6) + "e-6, ggml's without it " +
                            std::to_string(ggml*1e6) + "e-6");
        }
    }
}

// ---- values that are not finite

// `edit` gets keys and values of 130 keys in 2 KV heads of 64; results must be those of ggml's kernel, finite or not.
template <typename F> static void as_ggml(const char * what, int64_t n_tokens, F edit) {
    attention_shape s;
    s.n_kv     = 130;
    s.n_tokens = n_tokens;
    attention_op op(s, backend_of(1));
    generator(3).fill(op, masking::by_chance);
    std::vector<float> k = get_values(op.k[0]), v = get_values(op.v[0]), mask = get_values(op.mask), q = get_values(op.q);
    edit(q, k, v, mask);
    set_values(op.q, q);
    set_values(op.k[0], k);
    set_values(op.v[0], v);
    set_values(op.mask, mask);
    op.compute(nullptr);
    const auto ggml = op.result();
    for (const kernel * kernel : usable_kernels()) {
        op.compute(kernel);
        const auto own  = op.result();
        bool       same = true;
        for (size_t i = 0; i < own.size(); i++) {
            same = same && (std::isfinite(ggml[i]) ? std::fabs(own[i] - ggml[i]) < 5e-3f
                               : std::isnan(ggml[i]) ? std::isnan(own[i]) : own[i] == ggml[i]);
        }
        check(same, std::string(what) + ", " + std::to_string(n_tokens) + " tokens: " + kernel->name + " differs from ggml");
    }
}

static void values_that_are_not_finite() {
    using floats = std::vector<float> &;
    constexpr int64_t row = 2*64, n_kv = 130;
    for (const int64_t n_tokens : { 1, 3 }) {
        const auto at_key = [&](int64_t key, bool seen, floats mask, floats of, float value) {
            for (int64_t t = 0; t < n_tokens; t++) {
                mask[t*n_kv + key] = seen ? 0.0f : hidden;
            }
            std::fill_n(of.begin() + key*row, row, value);
        };
        as_ggml("a hidden key that is NaN", n_tokens, [&](floats, floats k, floats, floats mask) { at_key(70, false, mask, k, not_a_number); });
        as_ggml("a hidden value that is NaN", n_tokens, [&](floats, floats, floats v, floats mask) { at_key(70, false, mask, v, not_a_number); });
        as_ggml("a hidden value that is infinite", n_tokens, [&](floats, floats, floats v, floats mask) { at_key(129, false, mask, v, INFINITY); });
        as_ggml("a key that is NaN", n_tokens, [&](floats, floats k, floats, floats mask) { at_key(5, true, mask, k, not_a_number); });
        as_ggml("a value that is NaN", n_tokens, [&](floats, floats, floats v, floats mask) { at_key(5, true, mask, v, not_a_number); });
        as_ggml("a value that is infinite", n_tokens, [&](floats, floats, floats v, floats mask) { at_key(5, true, mask, v, -INFINITY); });
        as_ggml("a query that is NaN", n_tokens, [&](floats q, floats, floats, floats) { q[64*3] = not_a_number; });
        as_ggml("nothing seen", n_tokens, [&](floats, floats, floats, floats mask) { std::fill(mask.begin(), mask.end(), hidden); });
    }
}

// ---- what is left to ggml

static void what_is_not_taken() {
    attention_shape s;
    attention_op op(s, backend_of(1));
    ggml_tensor & node = *op.out[0];
    check(!kvfold::attention::takes_over(node), "an op that nobody marked is ggml's");
    kvfold::attention::mark(node, true);
    check(kvfold::attention::takes_over(node), "a marked op is taken");
    const size_t needed = kvfold::attention::work_size(node, 4);
    check(needed > 0, "a marked op needs work memory");
    std::vector<char> work(needed);
    const kvfold::attention::team alone = { 0, 1, nullptr, [](void *) {}, [](void *, int) {}, [](void *) { return 1; } };
    check(!kvfold::attention::compute(node, alone, work.data(), 64), "too little work memory is refused");
    kvfold::attention::choose_kernel(nullptr);
    check(!kvfold::attention::takes_over(node), "without a kernel everything is ggml's");
    check(kvfold::attention::work_size(node, 4) == 0, "what is ggml's needs no work memory of ours");
    kvfold::attention::choose_kernel(usable_kernels().front());
    for (const ggml_type type : { GGML_TYPE_Q2_K, GGML_TYPE_Q6_K }) {
        attention_shape other;
        other.d_k = other.d_v = 256;
        other.type_k = other.type_v = type;
        attention_op of(other, backend_of(1));
        kvfold::attention::mark(*of.out[0], true);
        check(!kvfold::attention::takes_over(*of.out[0]), std::string(ggml_type_name(type)) + " is ggml's");
    }
}

int main(int argc, char ** argv) {
    const int      n_cases = argc > 1 ? atoi(argv[1]) : 250;
    const uint32_t seed    = argc > 2 ? (uint32_t) atoi(argv[2]) : 1;
    check(!usable_kernels().empty(), "no kernel on this machine");
    std::vector<tally> tallies(usable_kernels().size());
    cases_by_chance(n_cases, seed, tallies);
    many_tokens(tallies);
    many_queries(tallies);
    many_heads(tallies);
    long_keys(tallies);
    values_that_are_not_finite();
    what_is_not_taken();
    for (size_t i = 0; i < tallies.size(); i++) {
        const tally & t = tallies[i];
        printf("%s: largest error %.1e, ggml's %.1e, largest ratio %.3f; %d cases in which ggml's is rounding\n",
                usable_kernels()[i]->name, t.largest_own, t.largest_ggml, t.largest_ratio, t.n_rounding);
    }
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed == 0 ? 0 : 1;
}
