// Which tokens are evicted, and that what is left of a sequence is what was chosen, byte by byte, in fewer cells.
//
//     eviction_test [GOLDEN MODEL]    also compares with ../shared/golden-eviction, which is not part of the project

#include "../golden_eviction.h"
#include "kv_test_context.h"

#include "kv/eviction/choice.h"
#include "kv/eviction/evictor.h"
#include "kv/eviction/gumbel.h"
#include "kv/eviction/kept_tokens.h"
#include "kv/eviction/method.h"
#include "kv/eviction/rows.h"
#include "kv/memory/folded_memory.h"

#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>

using rows_t = std::vector<uint32_t>;

// Whether rows are those with the highest scores, as far as these can be told apart.
static bool are_highest(const std::vector<float> & scores, const rows_t & rows) {
    std::vector<bool> kept(scores.size());
    for (const uint32_t row : rows) {
        kept[row] = true;
    }
    const auto [least, most] = std::minmax_element(scores.begin(), scores.end());
    float lowest = INFINITY, highest = -INFINITY;
    for (size_t i = 0; i < scores.size(); ++i) {
        (kept[i] ? lowest : highest) = kept[i] ? std::min(lowest, scores[i]) : std::max(highest, scores[i]);
    }
    return lowest >= highest - 1e-5f*(*most - *least);
}

static std::string text_of(const rows_t & rows) {
    std::string text;
    for (const uint32_t row : rows) {
        text += (text.empty() ? "" : " ") + std::to_string(row);
    }
    return text;
}

static void check_kept(const std::string & attributes, const head_rows & rows, uint32_t n_kept, const rows_t & expected) {
    const auto kept = keep_highest(evict_scores(kvfold_plan_parse("standard;" + attributes, 1), rows, n_kept), n_kept);
    check(kept == expected, attributes + " keeps " + text_of(kept) + ", not " + text_of(expected));
}

// ---- the methods, on what can be computed by hand

static void methods_choose_what_their_papers_say() {
    // norms 5, 1, 2, 3, 0.5
    const head_rows keys = { 5, { 3, 4, 1, 0, 0, 2, -3, 0, 0.3f, 0.4f }, {} };
    check_kept("evict=knorm:2", keys, 2, { 1, 4 });
    check_kept("evict=knorm:4", keys, 4, { 1, 2, 3, 4 });

    // four keys point to the right whatever their length, one up and one to the left
    const head_rows directions = { 6, { 1, 0, 9, 0, 0, 1, 2, 0, -5, 0, 1, 0 }, {} };
    check_kept("evict=keydiff:2", directions, 2, { 2, 4 });

    check_kept("evict=streaming:5", { 9, std::vector<float>(9, 1.0f), {} }, 5, { 0, 1, 2, 3, 8 });
    check_kept("evict=streaming:5;sinks=1", { 9, std::vector<float>(9, 1.0f), {} }, 5, { 0, 5, 6, 7, 8 });

    // lag 2 after one sink: tokens 1 and 2 are measured by the ranges of 3 and 4, those by 5 and 6, and 5 to 7 stay
    const std::vector<float> k = { 0, 0, 1, 1, 5, 1, 0, 0, 2, 1, 1, 1, 3, 3, 0, 0 };
    check_kept("evict=lagkv:6;sinks=1;lag=2", { 8, k, k }, 6, { 0, 2, 4, 5, 6, 7 });
    check_kept("evict=lagkv:3;sinks=1;lag=2", { 8, k, k }, 3, { 0, 6, 7 }); // fewer than are not scored
    // too short for two chunks: the sinks and the most recent ones
    check_kept("evict=lagkv:3;sinks=1;lag=4", { 8, k, k }, 3, { 0, 6, 7 });
    // a channel without a range says nothing, and what is no number is no reason to fail
    const std::vector<float> flat(16, 7.0f);
    check_kept("evict=lagkv:7;sinks=1;lag=2", { 8, flat, flat }, 7, { 0, 2, 3, 4, 5, 6, 7 });
    // a budget without room for a chunk, and one that two chunks are too many for, all of which are of tokens that stay
    const auto by_votes = [](const std::string & attributes, uint32_t n_tokens) {
        const kvfold_plan  plan = kvfold_plan_parse("standard;" + attributes, 1);
        std::vector<float> votes(n_tokens);
        for (uint32_t i = 0; i < n_tokens; ++i) {
            votes[i] = (float) (i*7%n_tokens);
        }
        return choose_by_votes(plan, { votes }, n_tokens, plan.evict_budget)[0];
    };
    check(by_votes("evict=chunkkv:5;queries=2;kernel=1;chunk=8", 12) == by_votes("evict=snapkv:5;queries=2;kernel=1", 12), "without a chunk it is snapkv");
    check(by_votes("evict=chunkkv:8;queries=7;kernel=1;chunk=5", 11).size() <= 8, "chunks are no more than the budget");
    // two heads, of whose tokens the last three queries of six have marked two and one, beside the newest one
    const kvfold_plan corm = kvfold_plan_parse("standard;evict=corm:5;queries=3;newest=1", 1);
    const std::vector<std::vector<float>> marks = { { 2, 1, 9, 0, 0, 0 }, { 0, 0, 0, 0, 5, 0 }, { 6, 4, 3, 0, 0, 6 }, { 0, 1, 0, 2, 6, 6 } };
    check(choose_marked(corm, marks, 6, 5) == std::vector<rows_t>({ { 0, 1, 5 }, { 3, 4, 5 } }), "what is marked stays, and in the other head what was last");
    check(choose_marked(corm, marks, 6, 2) == std::vector<rows_t>({ { 0, 5 }, { 4, 5 } }), "where that is too much what was marked most often");
    check(choose_marked(corm, marks, 5, 5)[0] == rows_t({ 0, 1, 2, 5 }), "a query is among the last ones until others have come");
    const head_rows nan = { 4, { NAN, 1, 1, 1, NAN, NAN, 2, 2 }, {} };
    check(keep_highest(evict_scores(kvfold_plan_parse("standard;evict=knorm:2", 1), nan, 2), 2).size() == 2, "keys that are no numbers are rows as well");
}

static void budgets_are_tokens_or_shares() {
    check(kvfold_plan_parse("standard;evict=knorm:64", 2).str() == "0_1;evict=knorm:64", "a plan says its budget");
    check(kvfold_plan_parse("cla:2;evict=lagkv:0.250;lag=128;sinks=2;skip=0", 4).str() == "0_0_2_2;evict=lagkv:0.25;sinks=2;skip=0", "and what is not usual");
    check(kvfold_plan_parse("cla:2;evict=snapkv:1024;recent=32;kernel=5", 4).str() == "0_0_2_2;evict=snapkv:1024;queries=32", "a window of recent queries");
    const auto windows = kvfold_plan_parse("yoco:8;evict=streaming:64;sinks=2", 4);
    check(windows.str() == "0s_1s_2_2;window=8;sinks=2;evict=streaming:64", "windows and eviction have the same sinks: " + windows.str());
    check(kvfold_plan_parse(windows.str(), 4).evict_parameters == windows.evict_parameters, "and a plan's text says them once");
    check(kvfold_plan_parse("standard;evict=knorm:64;at=chunk", 2).evict_chunk == 512, "a chunk has 512 tokens");
    check(kvfold_plan_parse("standard;at=chunk:0512;skip=1;evict=tova:64", 2).str() == "0_1;evict=tova:64;at=chunk;skip=1", "which a plan does not say");
    check(kvfold_plan_parse("standard;evict=snapkv:100;at=chunk:64", 2).str() == "0_1;evict=snapkv:100;at=chunk:64", "but another size");
    check(kvfold_plan_parse("standard;evict=knorm:64;at=end", 2).str() == "0_1;evict=knorm:64", "nor that all is done at the end");
    check(kvfold_plan_parse("standard;answer=064;skip=1;at=chunk;evict=tova:64", 2).str() == "0_1;evict=tova:64;at=chunk;answer=64;skip=1", "answers lose tokens");
    check(kvfold_plan_parse("standard;evict=corm:1.0;newest=8;queries=16;at=chunk:16;answer=1", 2).str() == "0_1;evict=corm:1.0;queries=16;newest=8;at=chunk:16;answer=1",
          "fewer tokens than queries may come between");
    check(kvfold_plan_parse("standard;evict=keyformer:0.5;sample=8;recency=0;seed=0;steps=256", 2).str() == "0_1;evict=keyformer:0.5;recency=0;seed=0;sample=8", "noise has a seed");
    for (const char * text : { "standard;evict=knorm", "standard;evict=knorm:0", "standard;evict=knorm:0.0", "standard;evict=knorm:1.5",
                               "standard;evict=nothing:5", "standard;evict=:5", "standard;evict=knorm:5;lag=4", "standard;lag=4", "standard;evict=knorm:5;queries=4", "standard;queries=4",
                               "standard;evict=snapkv:64", "standard;evict=snapkv:100;kernel=4", "1_1;evict=snapkv:100", "standard;skip=0",
                               "standard;at=chunk", "standard;evict=knorm:64;at=chunk:15", "standard;evict=knorm:64;at=chunk:",
                               "standard;evict=knorm:64;at=soon", "standard;evict=snapkv:100;at=chunk:63", "standard;evict=observed:64;at=chunk",
                               "standard;answer=64", "standard;evict=knorm:64;answer=0", "standard;evict=knorm:64;answer=", "standard;evict=knorm:64;answer=1000000000",
                               "standard;evict=snapkv:100;answer=64", "standard;evict=observed:100;answer=64", "standard;evict=expected:100;answer=64", "standard;evict=rkv:100;answer=7", "standard;evict=rkv:8", "standard;evict=rkv:100;kernel=4",
                               "standard;evict=corm:256", "standard;evict=corm:300;newest=0", "standard;evict=corm:300;queries=513", "standard;evict=corm:300;sample=2",
                               "standard;evict=keyformer:100;recency=101", "standard;evict=keyformer:100;steps=0", "standard;evict=keyformer:100;queries=8",
                               "standard;evict=h2o:100;sample=0", "standard;evict=h2o:100;seed=2", "1_1;evict=corm:300",
                               "standard;evict=lagkv:5;lag=1", "standard;evict=knorm:5;skip=0_1", "standard;evict=knorm:5;evict=knorm:5",
                               "streaming:8;evict=knorm:5", "simlayerkv:0.9;evict=knorm:5", "0_0s;window=4;evict=knorm:5", "standard;evict" }) {
        bool refused = false;
        try {
            kvfold_plan_parse(text, 2);
        } catch (const std::invalid_argument &) {
            refused = true;
        }
        check(refused, std::string("refuses ") + text);
    }
}

// Its mean is Euler's constant, its variance a sixth of the square of pi; and keys, queries, heads and seeds are unlike.
static void noise_is_that_of_gumbel() {
    static constexpr uint32_t n = 1000;
    double sum = 0, squares = 0, with_next[4] = {};
    for (uint32_t key = 0; key < n; ++key) {
        for (uint32_t query = 0; query < n; ++query) {
            const double x = gumbel(1, key, query, 0) - 0.5772156649;
            const double others[] = { gumbel(2, key, query, 0), gumbel(1, key + 1, query, 0), gumbel(1, key, query + 1, 0), gumbel(1, key, query, 1) };
            sum     += x;
            squares += x*x;
            for (int i = 0; i < 4; ++i) {
                with_next[i] += x*(others[i] - 0.5772156649);
            }
        }
    }
    check(std::fabs(sum/n/n) < 0.005, "the mean of the noise differs by " + std::to_string(sum/n/n));
    check(std::fabs(squares/n/n - 1.6449340668) < 0.02, "the variance of the noise is " + std::to_string(squares/n/n));
    for (const double each : with_next) {
        check(std::fabs(each/n/n) < 0.01, "the covariance of noises is " + std::to_string(each/n/n));
    }
    check(gumbel(1, 5, 7, 2) == gumbel(1, 5, 7, 2) && gumbel(1, 5, 7, 2) != gumbel(1, 7, 5, 2), "it is always the same");
}

// What admission reckons with, against a loop over the tokens of an answer.
static void an_answer_has_at_most_what_a_loop_finds() {
    std::mt19937 random(1);
    for (const char * attributes : { "evict=knorm:100", "evict=knorm:100;answer=32", "evict=tova:0.3;answer=50", "evict=knorm:1.0;answer=7", "evict=streaming:20;answer=1" }) {
        const auto plan = kvfold_plan_parse("cla:2;skip=2;" + std::string(attributes), 4);
        for (int i = 0; i < 200; ++i) {
            const uint32_t n = random() % 300, n_answer = random() % 300;
            uint32_t       most = 0, rows = evict_budget_of(plan, 0, n);
            for (uint32_t t = n + 1; t <= n + n_answer; ++t) {
                most = std::max(most, ++rows);
                rows = plan.evict_answer > 0 && t % plan.evict_answer == 0 ? std::min(rows, evict_budget_of(plan, 0, t)) : rows;
            }
            const uint32_t found = evict_answer_peak_of(plan, 0, n, n_answer);
            check(found == std::max(most, evict_budget_of(plan, 0, n)), std::string(attributes) + ": " + std::to_string(found) + " rows of " + std::to_string(n) +
                                                                          " + " + std::to_string(n_answer) + " tokens, not " + std::to_string(most));
            check(evict_answer_peak_of(plan, 2, n, n_answer) == n + n_answer && evict_answer_peak_of(plan, n, n_answer) == n + n_answer, "a layer that is skipped has all");
        }
    }
}

// ---- what is left of a sequence

// The rows of each KV head of a sequence, in the order of positions.
struct held {
    std::vector<std::vector<float>> k, v; // [layer*n_heads + head], [n][d]

    held(const tested & t, llama_seq_id seq_id, uint32_t n_rotated = 0) {
        const llama_hparams &  hparams = llama_get_model(t.context.get())->hparams;
        const llama_kv_cache & cache   = *kv_caches_of(t.memory()).front();
        const llama_kv_cells & cells   = cache.get_cells(seq_id);
        std::vector<uint32_t>  own;
        for (uint32_t i = 0; i < cells.size(); ++i) {
            if (!cells.is_empty(i) && cells.seq_has(i, seq_id)) {
                own.push_back(i);
            }
        }
        std::sort(own.begin(), own.end(), [&](uint32_t a, uint32_t b) { return cells.pos_get(a) < cells.pos_get(b); });
        const uint32_t stream = cache.get_n_stream() > 1 ? (uint32_t) seq_id : 0;
        for (const kv_tensors & layer : kv_tensors_of(cache)) {
            std::vector<uint32_t> seen;
            std::copy_if(own.begin(), own.end(), std::back_inserter(seen), [&](uint32_t i) {
                return !evictor_of(t.memory()) || !evictor_of(t.memory())->hides(seq_id, (int) layer.il, cells.pos_get(i));
            });
            const uint32_t  n_heads = hparams.n_head_kv(layer.il);
            const cell_rows keys  (layer.k, false,              stream, seen, n_heads, hparams.n_embd_head_k(layer.il));
            const cell_rows values(layer.v, layer.v_transposed, stream, seen, n_heads, hparams.n_embd_head_v(layer.il));
            for (uint32_t h = 0; h < n_heads; ++h) {
                k.push_back(keys.head(h, n_rotated));
                v.push_back(values.head(h, n_rotated));
            }
        }
    }
};

static std::vector<float> picked(const std::vector<float> & from, const rows_t & rows, size_t n) {
    const size_t       d = from.size()/n;
    std::vector<float> values;
    for (const uint32_t row : rows) {
        values.insert(values.end(), from.begin() + (ptrdiff_t) (row*d), from.begin() + (ptrdiff_t) ((row + 1)*d));
    }
    return values;
}

struct variant {
    const char *    name;
    context_options options;
};

static std::vector<variant> variants() {
    const context_options usual = { 2, true, true, nullptr, GGML_TYPE_F32, KVFOLD_CPU_ATTENTION_FUSED, 512, 64 };
    std::vector<variant>  all   = { { "f32", usual }, { "f16", usual }, { "q8_0", usual }, { "q4_0", usual }, { "streams", usual }, { "transposed", usual } };
    all[1].options.type       = GGML_TYPE_F16;
    all[2].options.type       = GGML_TYPE_Q8_0;
    all[3].options.type       = GGML_TYPE_Q4_0;
    all[4].options.unified    = false;
    all[5].options.flash_attn = false;
    return all;
}

static constexpr uint32_t n_prompt = 300;
static constexpr uint32_t budget   = 100;

static constexpr uint32_t n_embd_head = 64;

static kv_test_model two_heads() {
    kv_test_model spec = wide_model();
    spec.n_head_kv = 2;
    return spec;
}

static tested context_of(const variant & how, const std::string & plan, const kv_test_model & model = two_heads()) {
    context_options options = how.options;
    options.kv_plan = plan.c_str();
    return tested(model, options);
}

// Which tokens a sequence keeps, as the evictor tells whoever listens.
struct heard {
    std::vector<kept_tokens> layers = std::vector<kept_tokens>(4, kept_tokens(2));

    explicit heard(const tested & t) {
        evictor_of(t.memory())->on_choice([this](llama_seq_id, uint32_t il, const std::vector<rows_t> & rows, uint32_t n_tokens) {
            layers[il].choose(rows, n_tokens);
        });
    }
    heard(const heard &) = delete;

    // `h`: layer*2 + head
    rows_t kept(size_t h, uint32_t n_tokens) const { return layers[h/2].at(n_tokens)[h % 2]; }
};

static bool alike(const std::vector<float> & a, const std::vector<float> & b, float tolerance = 1e-3f) {
    return a.size() == b.size() && !a.empty() &&
           std::equal(a.begin(), a.end(), b.begin(), [&](float x, float y) { return std::fabs(x - y) <= tolerance; });
}

// Each head has the rows that it chooses of what a context without eviction has, in the order of their tokens.
static void what_is_left_is_what_was_chosen(const variant & how, const std::string & attributes) {
    const std::string name  = std::string(how.name) + ", " + attributes;
    const std::string plan  = "standard;" + attributes + ":" + std::to_string(budget);
    tested            whole = context_of(how, "standard"), some = context_of(how, plan);
    const heard       told(some);
    const auto        first = whole.prompt(n_prompt, 1, 5);
    check(alike(some.prompt(n_prompt, 1, 5), first), name + ": a prompt is computed with all of its tokens");
    check(cells_in_use(*kv_caches_of(some.memory()).front(), 1) == n_prompt, name + ": and has them until the next batch");
    const held all(whole, 1, ggml_is_quantized(how.options.type) ? 64 : 0);
    const held raw(whole, 1);

    some.decode(1, n_prompt, 1, 5);
    check(llama_memory_seq_pos_max(some.memory(), 1) == (llama_pos) n_prompt, name + ": the next token has the next position");
    check(cells_in_use(*kv_caches_of(some.memory()).front(), 1) == budget + 1, name + ": has the cells of its budget and one more");
    check(some.follows_use() || !how.options.flash_attn, name + ": and their memory"); // transposed values lie side by side
    const held left(some, 1);
    const auto parsed = kvfold_plan_parse(plan, 4);
    for (size_t h = 0; h < all.k.size(); ++h) {
        const auto chosen = keep_highest(evict_scores(parsed, { n_prompt, all.k[h], all.v[h] }, budget), budget);
        const auto front  = [&](const std::vector<float> & of) { return std::vector<float>(of.begin(), of.begin() + (ptrdiff_t) (of.size()/(budget + 1)*budget)); };
        check(front(left.k[h]) == picked(raw.k[h], chosen, n_prompt), name + ": keys of head " + std::to_string(h));
        check(front(left.v[h]) == picked(raw.v[h], chosen, n_prompt), name + ": values of head " + std::to_string(h));
        check(told.kept(h, n_prompt) == chosen, name + ": it is told of head " + std::to_string(h));
    }
}

// ---- chunk by chunk

static constexpr uint32_t chunk = 64;

static variant in_chunks(variant how) {
    how.options.n_batch = chunk;
    return how;
}

// At the end of each chunk each head has the rows that it chooses of what it had.
static void each_chunk_leaves_what_was_chosen(const variant & how, const std::string & attributes) {
    const std::string name   = std::string(how.name) + ", " + attributes + ", in chunks";
    const std::string plan   = "standard;" + attributes + ":" + std::to_string(budget) + ";at=chunk:" + std::to_string(chunk);
    const auto        parsed = kvfold_plan_parse(plan, 4);
    tested            some   = context_of(in_chunks(how), plan);
    const auto        n_used = [&] { return cells_in_use(*kv_caches_of(some.memory()).front(), 1); };
    const heard         told(some);
    std::vector<rows_t> tokens(8); // by head, as chosen so far
    held                before(some, 1), raw(some, 1);
    for (uint32_t n = 0, n_more; n < n_prompt + 1; n += n_more) {
        n_more = n < n_prompt ? std::min(chunk, n_prompt - n) : 1;
        some.decode(n_more, (llama_pos) n, 1, 5);
        check(n_used() <= budget + chunk, name + ": " + std::to_string(n_used()) + " cells with " + std::to_string(n + n_more) + " tokens");
        const held after(some, 1);
        for (size_t h = 0; h < before.k.size() && n > 0; ++h) {
            const auto     n_had  = (uint32_t) (before.k[h].size()/n_embd_head);
            const auto     chosen = keep_highest(evict_scores(parsed, { n_had, before.k[h], before.v[h] }, budget), std::min(budget, n_had));
            const auto     front  = [&](const std::vector<float> & of) { return std::vector<float>(of.begin(), of.end() - (ptrdiff_t) (n_more*n_embd_head)); };
            check(front(after.k[h]) == picked(raw.k[h], chosen, n_had), name + ": keys of head " + std::to_string(h) + " with " + std::to_string(n) + " tokens");
            check(front(after.v[h]) == picked(raw.v[h], chosen, n_had), name + ": values of head " + std::to_string(h) + " with " + std::to_string(n) + " tokens");
            rows_t kept;
            for (const uint32_t row : chosen) {
                kept.push_back(tokens[h][row]);
            }
            tokens[h] = kept;
        }
        for (uint32_t token = n; token < n + n_more; ++token) {
            std::for_each(tokens.begin(), tokens.end(), [&](rows_t & of) { of.push_back(token); });
        }
        before = held(some, 1, ggml_is_quantized(how.options.type) ? 64 : 0);
        raw    = held(some, 1);
    }
    for (size_t h = 0; h < tokens.size(); ++h) {
        check(told.kept(h, n_prompt + 1) == tokens[h], name + ": head " + std::to_string(h) + " is told to keep " + text_of(told.kept(h, n_prompt + 1)));
    }
}

// What the lowest layer stores of a token is the same whatever the token sees, so that a plain loop over positions tells what is left.
static void the_same_positions_stay_as_in_a_plain_loop(const std::string & attributes) {
    const std::string plan   = "standard;" + attributes + ";at=chunk:" + std::to_string(chunk);
    const auto        parsed = kvfold_plan_parse(plan, 4);
    const variant     how    = in_chunks(variants()[0]);
    tested            whole  = context_of(how, "standard"), some = context_of(how, plan);
    const heard       told(some);
    whole.prompt(n_prompt, 1, 5, chunk);
    some.prompt(n_prompt, 1, 5, chunk);
    const held all(whole, 1);
    some.decode(1, n_prompt, 1, 5);
    const held left(some, 1);
    for (size_t h = 0; h < 2; ++h) {
        rows_t positions;
        for (uint32_t n = 0; n < n_prompt;) {
            for (const uint32_t end = std::min(n + chunk, n_prompt); n < end; ++n) {
                positions.push_back(n);
            }
            const auto n_had  = (uint32_t) positions.size();
            const auto n_kept = evict_budget_of(parsed, 0, n);
            if (n_had > n_kept) {
                const head_rows rows = { n_had, picked(all.k[h], positions, n_prompt), picked(all.v[h], positions, n_prompt) };
                rows_t          kept;
                for (const uint32_t row : keep_highest(evict_scores(parsed, rows, n_kept), n_kept)) {
                    kept.push_back(positions[row]);
                }
                positions = kept;
            }
        }
        const auto front = std::vector<float>(left.k[h].begin(), left.k[h].end() - n_embd_head);
        check(alike(front, picked(all.k[h], positions, n_prompt)), plan + ": head " + std::to_string(h) + " keeps " + text_of(positions));
        check(told.kept(h, n_prompt) == positions, plan + ": and is told to");
    }
}

// It is as if each chunk were a prompt of its own; and a prompt without one is none.
static void a_chunk_is_evicted_from_as_a_prompt(const std::string & plan) {
    const variant how   = in_chunks(variants()[0]);
    tested        some  = context_of(how, plan + ";at=chunk:" + std::to_string(chunk)), turns = context_of(how, plan);
    for (uint32_t n = 0, n_more; n < n_prompt; n += n_more) {
        n_more = std::min(chunk, n_prompt - n);
        const bool last     = n + n_more == n_prompt;
        const auto expected = turns.decode(n_more, (llama_pos) n, 1, 5);
        const auto actual   = some.decode(n_more, (llama_pos) n, 1, 5, last);
        check(!last || alike(actual, expected), plan + ": the end of a prompt in chunks");
    }
    const auto expected = turns.decode(1, n_prompt, 1, 5);
    check(alike(some.decode(1, n_prompt, 1, 5), expected), plan + ": and the first token of the answer");
    check(evictor_of(some.memory())->of(1).points == evictor_of(turns.memory())->of(1).points, plan + ": evicted at the same places");
    const auto done = evictor_of(some.memory())->so_far();
    check(done.n_prompts == 1, plan + ": of one prompt");
    check(done.n_kept[2] == evictor_of(some.memory())->of(1).n_rows[2] && done.n_kept[2] + done.n_evicted[2] == n_prompt, plan + ": each token of which is counted once");

    tested brief = context_of(how, plan + ";at=chunk:512"), at_end = context_of(how, plan);
    for (tested * each : { &brief, &at_end }) {
        each->prompt(n_prompt, 1, 5, chunk);
    }
    const auto as_before = at_end.decode(1, n_prompt, 1, 5);
    check(brief.decode(1, n_prompt, 1, 5) == as_before, plan + ": a prompt that is no longer than a chunk loses tokens at its end");
}

// ---- during the answer

static constexpr uint32_t part     = 32; // of an answer
static constexpr uint32_t n_answer = 150;

static std::string answering(const std::string & attributes) {
    return "standard;" + attributes + ";answer=" + std::to_string(part);
}

// Tokens up to here are evicted from, once there are too many.
static bool ends_a_part(uint32_t n) {
    return n == n_prompt || (n > n_prompt && n % part == 0);
}

// Whenever it has grown by a part each head has the rows that it chooses of what it had, and else one more.
static void each_part_of_an_answer_leaves_what_was_chosen(const variant & how, const std::string & attributes) {
    const std::string plan   = answering(attributes + ":" + std::to_string(budget)), name = std::string(how.name) + ", " + plan;
    const auto        parsed = kvfold_plan_parse(plan, 4);
    tested            some   = context_of(how, plan);
    some.prompt(n_prompt, 1, 5);
    held before(some, 1, ggml_is_quantized(how.options.type) ? 64 : 0), raw(some, 1);
    for (uint32_t n = n_prompt; n < n_prompt + n_answer; ++n) {
        some.decode(1, (llama_pos) n, 1, 5);
        const auto n_used = cells_in_use(*kv_caches_of(some.memory()).front(), 1);
        check(n_used <= budget + part, name + ": " + std::to_string(n_used) + " cells with " + std::to_string(n + 1) + " tokens");
        const held after(some, 1);
        for (size_t h = 0; h < before.k.size(); ++h) {
            const auto     n_had  = (uint32_t) (before.k[h].size()/n_embd_head);
            const uint32_t n_kept = ends_a_part(n) ? std::min(budget, n_had) : n_had;
            const auto     chosen = keep_highest(evict_scores(parsed, { n_had, before.k[h], before.v[h] }, n_kept), n_kept);
            const auto     front  = [&](const std::vector<float> & of) { return std::vector<float>(of.begin(), of.end() - n_embd_head); };
            check(front(after.k[h]) == picked(raw.k[h], chosen, n_had), name + ": keys of head " + std::to_string(h) + " with " + std::to_string(n) + " tokens");
            check(front(after.v[h]) == picked(raw.v[h], chosen, n_had), name + ": values of head " + std::to_string(h) + " with " + std::to_string(n) + " tokens");
        }
        before = held(some, 1, ggml_is_quantized(how.options.type) ? 64 : 0);
        raw    = held(some, 1);
    }
    check(some.follows_use() || !how.options.flash_attn, name + ": and memory is that of what is left");
    const auto done = evictor_of(some.memory())->so_far();
    check(done.n_prompts == 1 && done.n_kept[2] == budget && done.n_kept[2] + done.n_evicted[2] == (n_prompt + n_answer)/part*part, name + ": each token is counted once");
}

// In the lowest layer, as in the_same_positions_stay_as_in_a_plain_loop().
static void an_answer_leaves_the_same_positions_as_a_plain_loop(const std::string & attributes) {
    const std::string plan   = answering(attributes);
    const auto        parsed = kvfold_plan_parse(plan, 4);
    tested            whole  = context_of(variants()[0], "standard"), some = context_of(variants()[0], plan);
    for (tested * each : { &whole, &some }) {
        each->prompt(n_prompt, 1, 5);
        for (uint32_t n = n_prompt; n < n_prompt + n_answer; ++n) {
            each->decode(1, (llama_pos) n, 1, 5);
        }
    }
    const held all(whole, 1), left(some, 1);
    for (size_t h = 0; h < 2; ++h) {
        rows_t positions;
        for (uint32_t n = 0; n < n_prompt + n_answer; ++n) {
            positions.push_back(n);
            const uint32_t n_kept = evict_budget_of(parsed, 0, n + 1);
            if (n + 1 == n_prompt + n_answer || !ends_a_part(n + 1) || positions.size() <= n_kept) { // nothing follows the last one
                continue;
            }
            const head_rows rows = { (uint32_t) positions.size(), picked(all.k[h], positions, n_prompt + n_answer), picked(all.v[h], positions, n_prompt + n_answer) };
            rows_t          kept;
            for (const uint32_t row : keep_highest(evict_scores(parsed, rows, n_kept), n_kept)) {
                kept.push_back(positions[row]);
            }
            positions = kept;
        }
        check(alike(left.k[h], picked(all.k[h], positions, n_prompt + n_answer)), plan + ": head " + std::to_string(h) + " keeps " + text_of(positions));
    }
}

// The queries of a layer after RoPE, of one ubatch after the other.
struct seen_queries {
    std::vector<float> values[2]; // by layer, of the lowest ones; [token][head][n_embd_head]

    // A ggml_backend_sched_eval_callback.
    static bool take(ggml_tensor * t, bool ask, void * user) {
        const int  il     = strcmp(t->name, "Qcur-0") == 0 ? 0 : strcmp(t->name, "Qcur-1") == 0 ? 1 : -1;
        const bool is_one = t->op == GGML_OP_ROPE && il >= 0;
        if (ask || !is_one) {
            return is_one || !ask;
        }
        auto &       all = static_cast<seen_queries *>(user)->values[il];
        const size_t n   = all.size();
        all.resize(n + (size_t) ggml_nelements(t));
        ggml_backend_tensor_get(t, &all[n], 0, ggml_nbytes(t));
        return true;
    }

    // How a query of a layer attends to keys: one share for each of them. noise: added to what the shares are of, and by what that is divided.
    std::vector<double> shares(int il, uint32_t token, uint32_t head, const std::vector<float> & keys, const rows_t & positions,
                               const std::function<double(size_t)> & noise = {}, double divided_by = 1) const {
        static constexpr uint32_t n_heads = 4;
        const float *             q       = &values[il][(token*n_heads + head)*n_embd_head];
        std::vector<double>       all;
        for (const uint32_t at : positions) {
            const double product = std::inner_product(q, q + n_embd_head, &keys[at*n_embd_head], 0.0)/8; // of root 64
            all.push_back(std::exp((product + (noise ? noise(all.size()) : 0))/divided_by));
        }
        const double sum = std::accumulate(all.begin(), all.end(), 0.0);
        for (double & each : all) {
            each /= sum;
        }
        return all;
    }
};

// Both layers that read what a layer stores.
static void readers_of_a_layer_vote_together() {
    seen_queries queries;
    variant      how = variants()[0];
    tested       some = context_of(how, "cla:2;evict=tova:100");
    how.options.cb_eval = seen_queries::take;
    how.options.cb_user = &queries;
    tested       whole = context_of(how, "cla:2");
    for (tested * each : { &whole, &some }) {
        each->prompt(n_prompt, 1, 5);
        each->decode(1, n_prompt, 1, 5);
    }
    const held          all(whole, 1), left(some, 1);
    rows_t              positions(n_prompt);
    std::vector<double> votes(n_prompt);
    std::iota(positions.begin(), positions.end(), 0);
    for (const int il : { 0, 1 }) {
        for (uint32_t head = 0; head < 4; ++head) {
            const auto shares = queries.shares(il, n_prompt - 1, head, all.k[head/2], positions);
            std::transform(votes.begin(), votes.end(), shares.begin(), votes.begin(), std::plus<>());
        }
    }
    std::sort(positions.begin(), positions.end() - 1, [&](uint32_t a, uint32_t b) { return votes[a] > votes[b]; });
    positions.erase(positions.begin() + budget - 1, positions.end() - 1); // the last one stays
    std::sort(positions.begin(), positions.end());
    positions.push_back(n_prompt); // came since
    for (uint32_t h = 0; h < 2; ++h) {
        check(alike(left.k[h], picked(all.k[h], positions, n_prompt + 1)), "layers 0 and 1 together keep " + text_of(positions));
    }
}

// R-KV of a KV head with n + 1 tokens, those at these positions left, each product and each cosine for itself.
static std::vector<double> scores_of_rkv(
        const seen_queries & queries, uint32_t n, uint32_t h, const std::vector<float> & keys, const rows_t & positions) {
    const size_t n_rows = positions.size(), n_old = n_rows - 8;
    const auto   product = [](const float * a, const float * b) { return std::inner_product(a, a + n_embd_head, b, 0.0); };
    const auto   key     = [&](size_t row) { return &keys[positions[row]*n_embd_head]; };
    std::vector<double> attention(n_old), like(n_rows), scores(n_old);
    for (uint32_t token = n - 7; token <= n; ++token) {
        std::vector<double> shares(n_old);
        double              sum = 0;
        for (size_t i = 0; i < n_old; ++i) {
            const float * q = &queries.values[0][(token*4 + 2*h)*n_embd_head];
            shares[i] = std::exp(std::max(product(q, key(i)), product(q + n_embd_head, key(i)))/8);
            sum += shares[i];
        }
        for (size_t i = 0; i < n_old; ++i) {
            attention[i] += shares[i]/sum/8;
        }
    }
    for (size_t row = 0; row < n_rows; ++row) {
        std::vector<double> cosines(n_rows);
        size_t              newest = n_rows;
        for (size_t i = 0; i < n_rows; ++i) {
            cosines[i] = i == row ? 0 : product(key(row), key(i))/std::sqrt(product(key(row), key(row))*product(key(i), key(i)));
            newest     = cosines[i] > 0.5 ? i : newest;
        }
        for (size_t i = 0; i < n_rows; ++i) {
            like[i] += i == newest ? 0 : cosines[i]/(double) n_rows;
        }
    }
    double sum = 0;
    for (const double each : like) {
        sum += std::exp(each);
    }
    for (size_t i = 0; i < n_old; ++i) {
        double highest = 0;
        for (size_t j = i < 3 ? 0 : i - 3; j < std::min(n_old, i + 4); ++j) {
            highest = std::max(highest, attention[j]);
        }
        scores[i] = 0.07*highest - 0.93*std::exp(like[i])/sum;
    }
    return scores;
}

// By the attention of queries: in the lowest layer keys and queries of a token are the same whatever it sees.
static void attention_leaves_the_same_positions_as_a_plain_loop(const std::string & attributes) {
    const std::string plan   = answering(attributes);
    const auto        parsed = kvfold_plan_parse(plan, 4);
    const bool        noise  = parsed.evict == EVICT_KEYFORMER;
    const bool        adds   = parsed.evict == EVICT_H2O || noise, unlike = parsed.evict == EVICT_RKV;
    const auto        steps  = noise ? (double) evict_parameter_of(parsed, "steps") : 1;
    seen_queries      queries;
    variant           how  = variants()[0];
    how.options.n_batch    = how.options.n_ubatch = chunk;
    tested            some = context_of(how, plan);
    how.options.cb_eval    = seen_queries::take;
    how.options.cb_user    = &queries;
    tested            whole = context_of(how, "standard");
    const uint32_t    n_all = n_prompt + n_answer;
    for (tested * each : { &whole, &some }) {
        each->prompt(n_prompt, 1, 5, chunk);
        for (uint32_t n = n_prompt; n < n_all; ++n) {
            each->decode(1, (llama_pos) n, 1, 5);
        }
    }
    const held     all(whole, 1), left(some, 1);
    const uint32_t n_alike = 2; // query heads that read one KV head
    check(queries.values[0].size() == (size_t) n_all*4*n_embd_head, "every query was seen once");

    std::vector<rows_t>             positions(2);
    std::vector<std::vector<float>> sums(2);
    uint32_t                        n_left = 0; // rows that stayed when tokens went last, in the first cells
    for (uint32_t n = 0; n < n_all; ++n) {
        const double divided_by = n < n_prompt ? 1 : 1 + std::min(n + 1.0 - n_prompt, steps)/steps;
        std::vector<std::vector<float>> votes(2);
        for (uint32_t h = 0; h < 2; ++h) {
            positions[h].push_back(n);
            sums[h].push_back(0);
            votes[h].resize(positions[h].size());
            for (uint32_t head = h*n_alike; head < (h + 1)*n_alike; ++head) {
                const auto of_row = [&](size_t i) {
                    const uint32_t cell = i + 1 < n_left ? (uint32_t) i : positions[h][i];
                    return (double) gumbel(evict_parameter_of(parsed, "seed"), cell, n, head % n_alike);
                };
                const auto shares = noise ? queries.shares(0, n, head, all.k[h], positions[h], of_row, divided_by)
                                          : queries.shares(0, n, head, all.k[h], positions[h]);
                for (size_t i = 0; i < shares.size(); ++i) {
                    votes[h][i] += (float) shares[i];
                    sums[h][i]  += n % evict_sample_of(parsed) == 0 ? (float) shares[i] : 0;
                }
            }
        }
        const bool     in_chunks = parsed.evict_chunk > 0 && n < n_prompt && (n + 1) % chunk == 0;
        const uint32_t n_kept    = evict_budget_of(parsed, 0, n + 1);
        if (n + 1 == n_all || !(ends_a_part(n + 1) || in_chunks) || positions[0].size() <= n_kept) {
            continue;
        }
        const uint32_t n_recent = noise ? n_kept*evict_parameter_of(parsed, "recency")/100 : adds ? n_kept/2 : unlike ? 8 : 1, n_old = (uint32_t) positions[0].size() - n_recent;
        for (uint32_t h = 0; h < 2; ++h) {
            const auto unlike_scores = unlike ? scores_of_rkv(queries, n, h, all.k[h], positions[h]) : std::vector<double>();
            rows_t     rows(n_old);
            std::iota(rows.begin(), rows.end(), 0);
            const auto worth = [&](uint32_t i) { return unlike ? (float) unlike_scores[i] : adds ? sums[h][i] : votes[0][i] + votes[1][i]; };
            std::sort(rows.begin(), rows.end(), [&](uint32_t a, uint32_t b) { return worth(a) > worth(b); });
            rows.resize(n_kept - n_recent);
            std::sort(rows.begin(), rows.end());
            rows_t             kept;
            std::vector<float> kept_sums;
            for (uint32_t i = 0; i < n_recent; ++i) {
                rows.push_back(n_old + i);
            }
            for (const uint32_t row : rows) {
                kept.push_back(positions[h][row]);
                kept_sums.push_back(sums[h][row]);
            }
            positions[h] = kept;
            sums[h]      = kept_sums;
        }
        n_left = (uint32_t) positions[0].size();
    }
    for (uint32_t h = 0; h < 2; ++h) {
        check(alike(left.k[h], picked(all.k[h], positions[h], n_all)), plan + ": head " + std::to_string(h) + " keeps " + text_of(positions[h]));
    }
}

// CORM, whichever queries the product looks at again: each query marks keys when it comes.
static void marks_leave_the_same_positions_as_a_plain_loop(const std::string & attributes) {
    struct row {
        uint32_t              position;
        std::vector<uint32_t> marked_by = {}; // since tokens were evicted last
        double                before    = 0;  // how often it had been marked then
        uint32_t              last      = 0;  // which query did, plus one
    };
    const std::string plan   = answering(attributes);
    const auto        parsed = kvfold_plan_parse(plan, 4);
    const uint32_t    window = evict_parameter_of(parsed, "queries"), newest = evict_parameter_of(parsed, "newest"), n_all = n_prompt + n_answer;
    seen_queries      queries;
    variant           how = variants()[0];
    how.options.n_batch   = how.options.n_ubatch = chunk;
    tested            some = context_of(how, plan);
    how.options.cb_eval   = seen_queries::take;
    how.options.cb_user   = &queries;
    tested            whole = context_of(how, "standard");
    whole.prompt(n_prompt, 1, 5, chunk);
    for (uint32_t n = n_prompt; n < n_all; ++n) {
        whole.decode(1, (llama_pos) n, 1, 5);
    }
    const held  all(whole, 1);
    const heard told(some);
    some.prompt(n_prompt, 1, 5, chunk);

    std::vector<std::vector<row>> rows(2);
    const auto                    positions_of = [&](uint32_t h) {
        rows_t positions;
        for (const row & each : rows[h]) {
            positions.push_back(each.position);
        }
        return positions;
    };
    uint32_t n_evictions = 0;
    for (uint32_t n = 0; n < n_all; ++n) {
        for (uint32_t h = 0; h < 2; ++h) {
            rows[h].push_back({ n });
            for (uint32_t head = 2*h; head < 2*h + 2; ++head) {
                const auto shares = queries.shares(0, n, head, all.k[h], positions_of(h));
                for (size_t i = 0; i < shares.size(); ++i) {
                    if (shares[i] >= 1.0/(n + 1)) {
                        rows[h][i].marked_by.push_back(n);
                    }
                }
            }
        }
        if (n >= n_prompt) {
            some.decode(1, (llama_pos) n, 1, 5);
            for (uint32_t h = 0; h < 2; ++h) {
                check(told.kept(h, n + 1) == positions_of(h), plan + ": with " + std::to_string(n + 1) + " tokens head " + std::to_string(h) + " has " +
                                                                  text_of(told.kept(h, n + 1)) + ", not " + text_of(positions_of(h)));
            }
        }
        const uint32_t n_had = (uint32_t) rows[0].size(), n_most = evict_budget_of(parsed, 0, n + 1);
        const bool     in_chunks = parsed.evict_chunk > 0 && n < n_prompt && (n + 1) % chunk == 0;
        if (n + 1 == n_all || !(ends_a_part(n + 1) || in_chunks) || n_had <= std::min(n_most, window + newest)) {
            continue;
        }
        const auto last      = [&](const row & each) { // as far as one of those that decide, now or before
            return each.marked_by.empty() || each.marked_by.back() + 1 + window <= n + 1 ? each.last : each.marked_by.back() + 1;
        };
        const auto is_marked = [&](const row & each) { return last(each) > 0 && last(each) + window > n + 1; };
        const auto is_newest = [&](size_t i) { return i + newest >= n_had; };
        const auto count     = [&](const row & each) {
            return each.before + (double) std::count_if(each.marked_by.begin(), each.marked_by.end(), [&](uint32_t by) { return by + 1 + window > n + 1; });
        };
        size_t n_kept = 0;
        for (uint32_t h = 0; h < 2; ++h) {
            size_t n_wanted = 0;
            for (size_t i = 0; i < n_had; ++i) {
                n_wanted += is_marked(rows[h][i]) || is_newest(i);
            }
            n_kept = std::max(n_kept, n_wanted);
        }
        n_kept = std::min<size_t>(n_kept, n_most);
        if (n_kept == n_had) {
            continue;
        }
        ++n_evictions;
        for (uint32_t h = 0; h < 2; ++h) {
            rows_t order(n_had);
            std::iota(order.begin(), order.end(), 0);
            const auto worth = [&](uint32_t i) {
                const row & each = rows[h][i];
                return is_newest(i) ? std::make_pair(2, 0.0) : is_marked(each) ? std::make_pair(1, count(each)) : std::make_pair(0, (double) last(each));
            };
            std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return worth(a) != worth(b) ? worth(a) > worth(b) : a > b; });
            order.resize(n_kept);
            std::sort(order.begin(), order.end());
            std::vector<row> kept;
            for (const uint32_t i : order) {
                const row & each = rows[h][i];
                kept.push_back({ each.position, {}, is_marked(each) ? count(each) : 0, last(each) });
            }
            rows[h] = kept;
        }
    }
    check(n_evictions > 1, plan + ": tokens go " + std::to_string(n_evictions) + " times");
    const held left(some, 1);
    for (uint32_t h = 0; h < 2; ++h) {
        check(alike(left.k[h], picked(all.k[h], positions_of(h), n_all)), plan + ": head " + std::to_string(h) + " keeps " + text_of(positions_of(h)));
    }
}

// It is as if a part's last two tokens ended a prompt, in their logits, too.
static void a_part_of_an_answer_is_evicted_from_as_a_prompt(const std::string & attributes) {
    tested some = context_of(variants()[0], answering(attributes)), turns = context_of(variants()[0], "standard;" + attributes);
    some.prompt(n_prompt, 1, 5);
    turns.prompt(n_prompt, 1, 5);
    for (uint32_t n = n_prompt; n < n_prompt + n_answer; ++n) {
        const bool two = ends_a_part(n + 1) || ends_a_part(n + 2);
        const auto one = some.decode_tokens({ (llama_token) (n % some.n_vocab) }, (llama_pos) n, 1);
        if (two && ends_a_part(n + 2)) {
            continue;
        }
        std::vector<llama_token> tokens = { (llama_token) (n % some.n_vocab) };
        if (two) {
            tokens.insert(tokens.begin(), (llama_token) ((n - 1) % some.n_vocab));
        }
        const auto expected = turns.decode_tokens(tokens, (llama_pos) (n + 1 - tokens.size()), 1);
        check(alike(one, expected), attributes + ": token " + std::to_string(n) + " of an answer");
    }
    check(evictor_of(some.memory())->of(1).points == evictor_of(turns.memory())->of(1).points, attributes + ": evicted at the same places");
    check(evictor_of(some.memory())->of(1).points.size() == 6, attributes + ": that is at each part of it");
}

static std::vector<float> draft(tested & t, uint32_t from, uint32_t n, uint32_t n_accepted) {
    llama_batch batch = llama_batch_init((int32_t) n, 0, 1);
    for (uint32_t i = 0; i < n; ++i) {
        batch.token[i]     = (llama_token) ((from + i) % t.n_vocab);
        batch.pos[i]       = (llama_pos) (from + i);
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = 1;
        batch.logits[i]    = true;
    }
    batch.n_tokens = (int32_t) n;
    const bool ok = llama_decode(t.context.get(), batch) == 0;
    llama_batch_free(batch);
    if (!ok) {
        return {};
    }
    const float * l = llama_get_logits_ith(t.context.get(), (int32_t) n_accepted - 1);
    const std::vector<float> logits(l, l + t.n_vocab);
    check(llama_memory_seq_rm(t.memory(), 1, (llama_pos) (from + n_accepted), -1), "what was not accepted goes");
    return logits;
}

// Whether the last of them is accepted or not, tokens go when those before have been.
static void drafts_lose_tokens_when_they_are_accepted(const std::string & attributes) {
    const std::string plan = answering(attributes);
    tested            some = context_of(variants()[0], plan), plain = context_of(variants()[0], plan);
    some.prompt(n_prompt, 1, 5);
    plain.prompt(n_prompt, 1, 5);
    std::mt19937 random(3);
    for (uint32_t n = n_prompt; n < n_prompt + n_answer;) {
        const uint32_t n_drafted = std::min<uint32_t>(1 + random() % 7, part - n % part), n_accepted = 1 + random() % n_drafted;
        const auto     actual    = draft(some, n, n_drafted, n_accepted);
        std::vector<float> expected;
        for (uint32_t i = 0; i < n_accepted; ++i, ++n) {
            expected = plain.decode_tokens({ (llama_token) (n % plain.n_vocab) }, (llama_pos) n, 1);
        }
        check(alike(actual, expected), plan + ": drafts up to " + std::to_string(n));
    }
    check(evictor_of(some.memory())->of(1).points == evictor_of(plain.memory())->of(1).points, plan + ": drafts lose tokens at the same places");
    check(evictor_of(some.memory())->of(1).points.size() >= 5, plan + ": at each part");
}

static void copies_lose_tokens_of_their_own(const std::string & attributes) {
    const std::string plan = answering(attributes);
    variant           how  = variants()[0];
    how.options.n_seq = 3;
    tested some = context_of(how, plan), alone = context_of(how, plan);
    some.prompt(n_prompt, 0, 5);
    llama_memory_seq_cp(some.memory(), 0, 1, -1, -1);
    alone.prompt(n_prompt, 0, 5);
    alone.prompt(n_prompt, 1, 5);
    for (uint32_t n = n_prompt; n < n_prompt + n_answer; ++n) {
        check(some.decode_together({ { 0, (llama_pos) n, 1, 7 }, { 1, (llama_pos) n, 1, 8 } }), plan + ": two answers go on side by side");
        for (const llama_seq_id seq_id : { 0, 1 }) {
            const float * l = llama_get_logits_ith(some.context.get(), seq_id);
            const std::vector<float> actual(l, l + some.n_vocab);
            check(alike(alone.decode(1, (llama_pos) n, seq_id, 7 + (uint32_t) seq_id), actual), plan + ": token " + std::to_string(n) + " of a copy");
        }
    }
    for (const llama_seq_id seq_id : { 0, 1 }) {
        const held own(some, seq_id), expected(alone, seq_id);
        for (size_t h = 0; h < own.k.size(); ++h) {
            check(alike(own.k[h], expected.k[h]) && alike(own.v[h], expected.v[h]), plan + ": what is left of a copy in head " + std::to_string(h));
        }
    }
    check(!evictor_of(some.memory())->shares(0) && !evictor_of(some.memory())->shares(1), plan + ": which have cells of their own now");
    check(evictor_of(some.memory())->of(1).points == evictor_of(alone.memory())->of(1).points, plan + ": which lost tokens at the same places");
    check(some.follows_use() || attributes.find("skip") != std::string::npos, plan + ": and their memory");
}

// Until there is room for what it keeps, a copy keeps all that it has.
static void a_copy_without_room_waits() {
    tested some = context_of(variants()[0], answering("evict=knorm:1030"));
    some.prompt(1100, 0, 5);
    llama_memory_seq_cp(some.memory(), 0, 1, -1, -1); // of 2048 cells 1030 are in use
    llama_pos n = 1100;
    for (; n < 1100 + 2*(llama_pos) part; ++n) {
        check(!some.decode(1, n, 0, 5).empty() && !some.decode(1, n, 1, 6).empty(), "two answers go on, token " + std::to_string(n));
    }
    const auto n_used = [&](llama_seq_id seq_id) { return cells_in_use(*kv_caches_of(some.memory()).front(), seq_id); };
    check(n_used(0) == 1030 + 2*part && n_used(1) == 1030 + 2*part, "both keep all, there is no room for another 1030");
    llama_memory_seq_rm(some.memory(), 1, -1, -1);
    for (; n < 1100 + 3*(llama_pos) part; ++n) {
        some.decode(1, n, 0, 5);
    }
    check(n_used(0) < 1030 + part, "alone it has them");
}

// Computed again as slot_schedule::replay() does it: tokens are where they were, whoever had them.
static void an_answer_that_is_computed_again_is_what_it_was(const std::string & attributes) {
    const std::string plan = answering(attributes);
    tested            some = context_of(variants()[0], plan), again = context_of(variants()[0], plan);
    const auto        run  = [&](tested & t, uint32_t first, uint32_t n, bool output) {
        std::vector<llama_token> tokens;
        for (uint32_t i = first; i < first + n; ++i) {
            tokens.push_back((llama_token) (i*i % t.n_vocab));
        }
        return t.decode_tokens(tokens, (llama_pos) first, 1, output);
    };
    // a prompt, an answer that loses tokens twice, the next prompt, and an answer that has lost some once
    const uint32_t first = n_prompt, second = n_prompt + 100, n_all = second + 30 + 40;
    run(some, 0, 256, false);
    run(some, 256, first - 256, true);
    for (uint32_t n = first; n < second; ++n) {
        run(some, n, 1, true);
    }
    run(some, second, 30, true);
    for (uint32_t n = second + 30; n < n_all; ++n) {
        run(some, n, 1, true);
    }
    settle_memory(some.memory());
    evictor * const  evicts = evictor_of(again.memory());
    const evicted    before = evictor_of(some.memory())->of(1);
    check(before.points.size() >= 5, plan + ": it has lost tokens in both answers");
    evicts->replays(1, before, (llama_pos) second + 30);
    for (uint32_t n = 0, n_more; n < n_all; n += n_more) {
        n_more = std::min(64u, n_all - n);
        for (const auto & cuts : { before.points, before.begins, std::vector<llama_pos>({ (llama_pos) second + 30 }) }) {
            const auto next = std::upper_bound(cuts.begin(), cuts.end(), (llama_pos) n);
            n_more = next == cuts.end() ? n_more : std::min(n_more, (uint32_t) *next - n);
        }
        const bool ends = n + n_more == second + 30 || std::count(before.points.begin(), before.points.end(), (llama_pos) (n + n_more)) > 0;
        run(again, n, n_more, n < second + 30 && ends);
    }
    evicts->replayed(1);
    for (uint32_t n = n_all; n < n_all + 2*part; ++n) {
        const auto expected = run(some, n, 1, true);
        check(alike(run(again, n, 1, true), expected), plan + ": token " + std::to_string(n) + " after it was computed again");
    }
    check(evicts->of(1).points == evictor_of(some.memory())->of(1).points && evicts->of(1).begins == evictor_of(some.memory())->of(1).begins,
          plan + ": which says the same of where it lost tokens");
}

// ---- conversations

// Where all heads keep the same tokens it is as if the others had been removed.
static void goes_on_as_if_the_others_were_gone(const variant & how) {
    const std::string name = std::string(how.name) + ", streaming";
    tested            some = context_of(how, "standard;evict=streaming:100;sinks=4"), removed = context_of(how, "standard");
    // keys that are computed in another order may be rounded to another quantum
    const float       tolerance = how.options.type == GGML_TYPE_Q4_0 ? 0.1f : how.options.type == GGML_TYPE_Q8_0 ? 0.01f : 1e-3f;
    uint32_t          n    = 0;
    const auto        turn = [&](const std::string & what, uint32_t n_more) {
        const auto expected = removed.decode(n_more, (llama_pos) n, 1, 7);
        check(alike(some.decode(n_more, (llama_pos) n, 1, 7), expected, tolerance), name + ": " + what);
        n += n_more;
        llama_memory_seq_rm(removed.memory(), 1, 4, (llama_pos) n - 96);
        for (int step = 0; step < 3; ++step, ++n) {
            const auto next = removed.decode(1, (llama_pos) n, 1, 7);
            check(alike(some.decode(1, (llama_pos) n, 1, 7), next, tolerance), name + ": " + what + ", and token " + std::to_string(step) + " after it");
        }
    };
    turn("a prompt", 300);
    turn("the next one of the conversation", 40);
    turn("and one that has twice the budget", 200);
    check(llama_memory_seq_rm(some.memory(), 1, (llama_pos) n - 2, -1) && llama_memory_seq_rm(removed.memory(), 1, (llama_pos) n - 2, -1), "two tokens go");
    check(alike(some.decode(1, (llama_pos) n - 2, 1, 9), removed.decode(1, (llama_pos) n - 2, 1, 9), tolerance), name + ": as drafts that are refused go");
    check(!llama_memory_seq_rm(some.memory(), 1, 50, -1), name + ": what has been evicted from is not cut");
    llama_memory_seq_rm(some.memory(), 1, -1, -1);
    check(some.committed() == 0, name + ": and nothing is left of it");
}

// Others go on meanwhile, and get the cells that it has left.
static void others_are_as_they_were(const variant & how) {
    tested some = context_of(how, "standard;evict=knorm:100"), alone = context_of(how, "standard;evict=knorm:100");
    some.prompt(64, 0, 1);
    alone.prompt(64, 0, 1);
    some.prompt(n_prompt, 1, 5);
    for (uint32_t n = 64; n < 264; ++n) {
        const auto expected = alone.decode(1, (llama_pos) n, 0, 1);
        check(alike(some.decode(1, (llama_pos) n, 0, 1), expected), std::string(how.name) + ": somebody else's token " + std::to_string(n));
    }
}

// A layer that is left alone sees everything, the others what they keep. The last one has no part in what the others hold, so a
// window over it is the same for one token.
static void layers_that_are_skipped_keep_everything(const variant & how) {
    tested some = context_of(how, "standard;evict=streaming:100;sinks=4;skip=0_1_2"), windowed = context_of(how, "0_1_2_3s;window=97;sinks=4");
    some.prompt(n_prompt, 1, 5);
    windowed.prompt(n_prompt, 1, 5);
    const auto expected = windowed.decode(1, n_prompt, 1, 5);
    check(alike(some.decode(1, n_prompt, 1, 5), expected), std::string(how.name) + ": skipped layers see all, the last one does not");
    if (ggml_is_quantized(how.options.type) || !how.options.flash_attn) {
        return; // rows of which too many, or none, fill a page
    }
    const llama_kv_cache & cache = *kv_caches_of(some.memory()).front();
    const auto             bytes = [&](const kv_tensors & layer) { return committed_bytes(layer.k) + committed_bytes(layer.v); };
    const auto             layers = kv_tensors_of(cache);
    check(2*bytes(layers[3]) < bytes(layers[0]), std::string(how.name) + ": and gives memory back");
    some.decode(60, n_prompt + 1, 1, 5);
    const auto again = some.decode(1, n_prompt + 61, 1, 5);
    check(!again.empty() && 2*bytes(layers[3]) < bytes(layers[0]), std::string(how.name) + ": also of a longer conversation");
}

static void copies_share_what_is_left(const variant & how) {
    if (!how.options.unified) {
        return; // there they have cells of their own
    }
    tested some = context_of(how, "standard;evict=knorm:100");
    some.prompt(n_prompt, 0, 5);
    llama_memory_seq_cp(some.memory(), 0, 1, -1, -1);
    const auto a = some.decode(1, n_prompt, 0, 5), b = some.decode(1, n_prompt, 1, 5);
    check(alike(a, b), std::string(how.name) + ": a copy goes on as the first one");
    check(kv_caches_of(some.memory()).front()->get_cells(0).get_used() == 102, std::string(how.name) + ": in the same cells");
    check(evictor_of(some.memory())->shares(0), std::string(how.name) + ": which are said to be shared");
    // what is another one's as well stays there, and what is kept is copied
    some.decode(50, n_prompt + 1, 0, 5);
    some.decode(1, n_prompt + 51, 0, 5);
    check(cells_in_use(*kv_caches_of(some.memory()).front(), 0) == 101, std::string(how.name) + ": the next prompt leaves its budget");
    check(kv_caches_of(some.memory()).front()->get_cells(0).get_used() == 202, std::string(how.name) + ": in cells of its own");
    check(some.follows_use() || !how.options.flash_attn, std::string(how.name) + ": and their memory");
    const auto left = some.decode(1, n_prompt + 1, 1, 7);
    tested     alone = context_of(how, "standard;evict=knorm:100");
    alone.prompt(n_prompt, 1, 5);
    alone.decode(1, n_prompt, 1, 5);
    check(alike(left, alone.decode(1, n_prompt + 1, 1, 7)), std::string(how.name) + ": and the copy is what it was");
}

// What layers do not have of the cells of a sequence, as the statistics ask for it.
static void rows_that_layers_lack_count_once() {
    tested          some   = context_of(variants()[0], "standard;evict=streaming:100;skip=0");
    const evictor & evicts = *evictor_of(some.memory());
    const auto      lack   = [&](uint64_t n_all, const std::vector<uint64_t> & by_sequence, const std::string & what) {
        check(evicts.n_hidden(0) == 0 && evicts.n_hidden(1) == n_all && evicts.n_hidden(3) == n_all, what + ": all together");
        for (size_t seq_id = 0; seq_id < by_sequence.size(); ++seq_id) {
            check(evicts.n_hidden((llama_seq_id) seq_id, 1) == by_sequence[seq_id], what + ": sequence " + std::to_string(seq_id));
        }
    };
    some.prompt(n_prompt, 0, 5);
    lack(0, { 0, 0, 0 }, "until the next batch every layer has every row");
    llama_memory_seq_cp(some.memory(), 0, 1, -1, -1);
    lack(200, { 200, 200, 0 }, "copies have the same cells");
    some.prompt(n_prompt, 2, 9);
    some.decode(1, n_prompt, 2, 9);
    lack(400, { 200, 200, 200 }, "another prompt has its own");
    llama_memory_seq_rm(some.memory(), 2, n_prompt, -1);
    lack(400, { 200, 200, 200 }, "and keeps them when a token goes");
    llama_memory_seq_rm(some.memory(), 0, -1, -1);
    lack(400, { 0, 200, 200 }, "a copy keeps them");
    llama_memory_seq_keep(some.memory(), 2);
    lack(200, { 0, 0, 200 }, "others go");
    llama_memory_clear(some.memory(), false);
    lack(0, { 0, 0, 0 }, "all go");
}

static std::vector<float> rest_of_prompt(tested & t, llama_seq_id seq_id, uint32_t n, uint32_t seed) {
    for (uint32_t n_more; n < n_prompt; n += n_more) {
        n_more = std::min(chunk - n % chunk, n_prompt - n);
        t.decode(n_more, (llama_pos) n, seq_id, seed, n + n_more == n_prompt);
    }
    return t.decode(1, n_prompt, seq_id, seed);
}

// As if it had been computed, whichever way the other one goes on.
static void a_copy_of_a_beginning_loses_tokens_of_its_own(const variant & how, const std::string & attributes) {
    const std::string plan = "standard;" + attributes;
    tested            some = context_of(in_chunks(how), plan), alone = context_of(in_chunks(how), plan);
    for (uint32_t n = 0; n < 3*chunk; n += chunk) {
        some .decode(chunk, (llama_pos) n, 0, 5, false);
        alone.decode(chunk, (llama_pos) n, 0, 5, false);
    }
    settle_memory(some.memory());
    const uint32_t n = evictor_of(some.memory())->n_beginning(0, 3*chunk - 2, 3*chunk, n_prompt);
    check(n == 3*chunk - 2, plan + ": what has not been chosen from is a beginning of others");
    check(copy_beginning(some.memory(), 0, 1, (llama_pos) n), plan + ": and is copied");
    check(!evictor_of(some.memory())->shares(0) && !evictor_of(some.memory())->shares(1), plan + ": into cells of its own");

    alone.decode(chunk, 0, 1, 5, false);
    alone.decode(chunk, (llama_pos) chunk, 1, 5, false);
    alone.decode(n - 2*chunk, 2*(llama_pos) chunk, 1, 5, false);
    const auto expected = rest_of_prompt(alone, 1, n, 9);
    check(alike(rest_of_prompt(some, 1, n, 9), expected), plan + ": which loses tokens as if it had been computed");
    const auto first = rest_of_prompt(alone, 0, 3*chunk, 5);
    check(alike(rest_of_prompt(some, 0, 3*chunk, 5), first), plan + ": and so does the other one");

    llama_seq_id more = 2;
    while (more < 100 && copy_beginning(some.memory(), 0, more, (llama_pos) n_prompt)) {
        ++more;
    }
    check(more > 2 && more < 100, plan + ": as long as there is room");
    check(some.committed() <= some.bounds().second || !how.options.flash_attn, plan + ": and memory is that of the copies");
}

static void states_hold_what_is_left(const variant & how, const std::string & plan) {
    tested some = context_of(how, plan), restored = context_of(how, plan);
    some.prompt(n_prompt, 0, 5);
    some.decode(1, n_prompt, 0, 5);
    std::vector<uint8_t> state(llama_state_seq_get_size(some.context.get(), 0));
    llama_state_seq_get_data(some.context.get(), state.data(), state.size(), 0);
    check(llama_state_seq_set_data(restored.context.get(), state.data(), state.size(), 1) == state.size(), plan + ": a state is restored");
    for (int il = 0; il < 4; ++il) {
        check(evictor_of(restored.memory())->n_hidden(1, il) == evictor_of(some.memory())->n_hidden(0, il), plan + ": with the rows that each layer has");
    }
    check(restored.committed() <= some.committed(), plan + ": and their memory: " + std::to_string(restored.committed()) + " bytes, not " +
          std::to_string(some.committed()));
    const auto expected = some.decode(1, n_prompt + 1, 0, 5);
    check(alike(restored.decode(1, n_prompt + 1, 1, 5), expected), plan + ": and goes on");
    some.decode(80, n_prompt + 2, 0, 5);
    restored.decode(80, n_prompt + 2, 1, 5);
    const auto next = some.decode(1, n_prompt + 82, 0, 5);
    check(alike(restored.decode(1, n_prompt + 82, 1, 5), next), plan + ": and loses tokens again as the first one does");
    check(evictor_of(restored.memory())->of(1).points == std::vector<llama_pos>({ n_prompt, n_prompt + 82 }), plan + ": and knows when it did");
}

static void a_state_in_an_answer_holds_what_is_left(const variant & how, const std::string & attributes) {
    const std::string plan = answering(attributes);
    tested            some = context_of(how, plan), restored = context_of(how, plan);
    some.prompt(n_prompt, 0, 5);
    uint32_t n = n_prompt;
    for (; n < n_prompt + part; ++n) {
        some.decode(1, (llama_pos) n, 0, 5);
    }
    std::vector<uint8_t> state(llama_state_seq_get_size(some.context.get(), 0));
    llama_state_seq_get_data(some.context.get(), state.data(), state.size(), 0);
    check(llama_state_seq_set_data(restored.context.get(), state.data(), state.size(), 1) == state.size(), plan + ": a state in an answer is restored");
    for (; n < n_prompt + 3*part; ++n) {
        const auto expected = some.decode(1, (llama_pos) n, 0, 5);
        check(alike(restored.decode(1, (llama_pos) n, 1, 5), expected), plan + ": and goes on at " + std::to_string(n));
    }
    check(evictor_of(restored.memory())->of(1).points == evictor_of(some.memory())->of(0).points, plan + ": and loses tokens where the first one does");
    check(evictor_of(restored.memory())->of(1).points.size() == 4, plan + ": which is before and after");
}

// ---- the attention of queries

// However the prompt is cut, and whoever else has one.
static void the_last_queries_are_those_of_the_prompt(const char * attributes) {
    const std::string plan = std::string("standard;") + attributes;
    variant           whole = variants()[0], pieces = whole;
    whole.options.n_ubatch  = 512;
    pieces.options.n_ubatch = 64; // the last of them has 44 tokens
    tested at_once = context_of(whole, plan), in_pieces = context_of(pieces, plan), beside_others = context_of(whole, plan);
    at_once.prompt(n_prompt, 1, 5);
    in_pieces.prompt(n_prompt, 1, 5);
    const auto expected = at_once.decode(1, n_prompt, 1, 5);
    check(alike(in_pieces.decode(1, n_prompt, 1, 5), expected), plan + ": in ubatches of 64 tokens");

    beside_others.decode(256, 0, 1, 5, false);
    beside_others.decode(150, 0, 0, 9, false);
    beside_others.decode_together({ { 1, 256, 44, 5 }, { 0, 150, 20, 9 } });
    check(alike(beside_others.decode(1, n_prompt, 1, 5), expected), plan + ": beside another prompt that ends");
    check(cells_in_use(*kv_caches_of(beside_others.memory()).front(), 0) <= 170, plan + ": which loses tokens as well, if it has too many");

    // the next prompt of the conversation
    for (tested * each : { &at_once, &in_pieces }) {
        each->decode(90, n_prompt + 1, 1, 5);
    }
    const auto next = at_once.decode(1, n_prompt + 91, 1, 5);
    check(alike(in_pieces.decode(1, n_prompt + 91, 1, 5), next), plan + ": the next prompt in ubatches of 64 tokens");
}

// ---- golden results

static void compare_with_golden(const golden_eviction & golden, const std::string & model_path) {
    const auto tokens = golden.tokens();
    for (const std::string & name : golden.cases) {
        const std::string plan = "standard;" + golden_eviction::attributes_of(name);
        kvfold_plan       parsed;
        try {
            parsed = kvfold_plan_parse(plan, 5);
        } catch (const std::invalid_argument &) {
            printf("no method for %s\n", name.c_str());
            continue;
        }
        llama_model_params of_model = llama_model_default_params();
        of_model.kv_plan = "standard";
        tested t(llama_model_ptr(llama_model_load_from_file(model_path.c_str(), of_model)), variants()[0].options);
        t.decode_tokens({ tokens.begin(), tokens.begin() + golden.n_prompt }, 0, 0);
        const held all(t, 0);
        of_model.kv_plan = plan.c_str();
        tested some(llama_model_ptr(llama_model_load_from_file(model_path.c_str(), of_model)), variants()[0].options);
        some.decode_tokens({ tokens.begin(), tokens.begin() + golden.n_prompt }, 0, 0);
        some.decode_tokens({ tokens[golden.n_prompt] }, golden.n_prompt, 0);
        const held left(some, 0);
        for (uint32_t il = 0; il < 5; ++il) {
            const auto   kept   = golden.tensor<int32_t>("kept/" + name + "/" + std::to_string(il));
            const size_t n_kept = kept.size()/4;
            for (uint32_t h = 0; evicts_by_queries(parsed) && h < 4; ++h) {
                const rows_t expected(kept.begin() + (ptrdiff_t) (h*n_kept), kept.begin() + (ptrdiff_t) ((h + 1)*n_kept));
                const auto & of   = left.k[il*4 + h];
                const size_t size = of.size()/(n_kept + 1)*n_kept;
                check(std::vector<float>(of.begin(), of.begin() + (ptrdiff_t) size) == picked(all.k[il*4 + h], expected, golden.n_prompt),
                      name + ": layer " + std::to_string(il) + ", head " + std::to_string(h) + " does not keep " + text_of(expected));
            }
            for (uint32_t h = 0; !evicts_by_queries(parsed) && h < 4; ++h) {
                const head_rows rows   = { (uint32_t) golden.n_prompt, all.k[il*4 + h], all.v[il*4 + h] };
                const auto      scores = evict_scores(parsed, rows, (uint32_t) n_kept);
                const auto      chosen = keep_highest(scores, (uint32_t) n_kept);
                const rows_t    expected(kept.begin() + (ptrdiff_t) (h*n_kept), kept.begin() + (ptrdiff_t) ((h + 1)*n_kept));
                check(chosen == expected || are_highest(scores, expected), name + ": layer " + std::to_string(il) + ", head " + std::to_string(h) + " keeps " + text_of(chosen) +
                                          ", not " + text_of(expected));
            }
        }
    }
}

int main(int argc, char ** argv) {
    llama_backend_init();
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR) {
            fputs(text, stderr);
        }
    }, nullptr);
    methods_choose_what_their_papers_say();
    budgets_are_tokens_or_shares();
    noise_is_that_of_gumbel();
    an_answer_has_at_most_what_a_loop_finds();
    a_copy_without_room_waits();
    readers_of_a_layer_vote_together();
    for (const variant & how : variants()) {
        for (const char * method : { "evict=knorm", "evict=keydiff", "evict=streaming" }) {
            what_is_left_is_what_was_chosen(how, method);
        }
        what_is_left_is_what_was_chosen(how, "lag=16;evict=lagkv");
        each_chunk_leaves_what_was_chosen(how, "evict=knorm");
        each_chunk_leaves_what_was_chosen(how, "lag=16;evict=lagkv");
        each_part_of_an_answer_leaves_what_was_chosen(how, "evict=knorm");
        each_part_of_an_answer_leaves_what_was_chosen(how, "lag=16;evict=lagkv");
        goes_on_as_if_the_others_were_gone(how);
        others_are_as_they_were(how);
        layers_that_are_skipped_keep_everything(how);
        copies_share_what_is_left(how);
        states_hold_what_is_left(how, "standard;evict=knorm:100");
        states_hold_what_is_left(how, "standard;evict=knorm:0.4;skip=1");
        states_hold_what_is_left(how, "yoco:55;evict=keydiff:100");
        a_state_in_an_answer_holds_what_is_left(how, "evict=knorm:100");
        if (how.options.unified && how.options.type == GGML_TYPE_F32) {
            a_state_in_an_answer_holds_what_is_left(how, "evict=h2o:100;skip=1");
            a_state_in_an_answer_holds_what_is_left(how, "evict=keyformer:100;steps=50");
            a_state_in_an_answer_holds_what_is_left(how, "evict=corm:100;queries=16;newest=20;skip=1");
        }
        if (how.options.unified && how.options.type == GGML_TYPE_F32) { // rounded attention may choose other rows
            states_hold_what_is_left(how, "standard;evict=snapkv:100;queries=16");
            states_hold_what_is_left(how, "cla:2;evict=h2o:100");
            states_hold_what_is_left(how, "cla:2;evict=keyformer:100");
            states_hold_what_is_left(how, "standard;evict=corm:100;queries=2;newest=20");
            states_hold_what_is_left(how, "cla:2;evict=pyramidkv:100;queries=16");
        }
    }
    rows_that_layers_lack_count_once();
    for (const char * attributes : { "evict=snapkv:100", "evict=tova:100", "evict=pyramidkv:100;queries=16", "evict=chunkkv:0.4;queries=32;skip=1", "evict=observed:100",
                                    "evict=expected:100;future=64", "evict=h2o:100", "evict=rkv:100", "evict=keyformer:100", "evict=h2o:100;sample=4",
                                    "evict=corm:1.0;queries=2;newest=20", "evict=corm:100;queries=16;newest=20" }) {
        the_last_queries_are_those_of_the_prompt(attributes);
    }
    for (const char * attributes : { "evict=tova:100", "evict=tova:0.4;at=chunk:64", "evict=h2o:100", "evict=h2o:0.3", "evict=h2o:101;at=chunk:64", "evict=rkv:100", "evict=rkv:0.3;at=chunk:64",
                                     "evict=h2o:100;sample=3", "evict=keyformer:100", "evict=keyformer:0.3;recency=50;steps=20;seed=7", "evict=keyformer:101;at=chunk:64;sample=2" }) {
        attention_leaves_the_same_positions_as_a_plain_loop(attributes);
    }
    for (const char * attributes : { "evict=corm:1.0;queries=1;newest=20", "evict=corm:100;queries=3;newest=10", "evict=corm:100;queries=50;newest=10",
                                     "evict=corm:0.5;queries=1;newest=1;at=chunk:64", "evict=corm:1.0;queries=2;newest=30;skip=2" }) {
        marks_leave_the_same_positions_as_a_plain_loop(attributes);
    }
    for (const char * attributes : { "evict=knorm:100", "evict=keydiff:0.3", "evict=streaming:100;sinks=4", "evict=lagkv:100;lag=16", "evict=streaming:100;skip=1" }) {
        the_same_positions_stay_as_in_a_plain_loop(attributes);
        an_answer_leaves_the_same_positions_as_a_plain_loop(attributes);
    }
    for (const char * attributes : { "evict=keydiff:100", "evict=tova:100", "evict=tova:0.3;skip=1", "evict=h2o:100", "evict=h2o:0.3;skip=0", "evict=rkv:100", "evict=rkv:100;skip=1",
                                     "evict=keyformer:100;steps=999999999", "evict=keyformer:0.3;steps=40;skip=0", "evict=corm:100;queries=2;newest=20",
                                     "evict=corm:1.0;queries=2;newest=20;skip=1", "evict=corm:100;queries=50;newest=20" }) {
        const auto plan = kvfold_plan_parse(std::string("standard;") + attributes, 4);
        if (evict_queries_of(plan) <= 2 && !(evicts_by_noise(plan) && evict_parameter_of(plan, "steps") < 100)) { // such a prompt has no more, and is no answer
            a_part_of_an_answer_is_evicted_from_as_a_prompt(attributes);
        }
        if (!evicts_by_sums(plan)) { // for which nothing is drafted
            drafts_lose_tokens_when_they_are_accepted(attributes);
        }
        copies_lose_tokens_of_their_own(attributes);
        an_answer_that_is_computed_again_is_what_it_was(attributes);
    }
    for (const variant & how : { variants()[0], variants()[1], variants()[5] }) {
        for (const char * attributes : { "evict=streaming:100", "evict=snapkv:100;queries=16", "evict=lagkv:100;lag=16;at=chunk:128;skip=1", "evict=keydiff:100;at=chunk:128",
                                         "evict=corm:100;queries=16;newest=20;at=chunk:128" }) {
            a_copy_of_a_beginning_loses_tokens_of_its_own(how, attributes);
        }
    }
    for (const char * plan : { "standard;evict=knorm:100", "cla:2;evict=lagkv:0.4;lag=16;skip=0", "standard;evict=snapkv:100;queries=16", "cla:2;evict=tova:100",
                               "standard;evict=pyramidkv:100;queries=16", "standard;evict=chunkkv:0.4;queries=32", "yoco:55;evict=keydiff:100",
                               "cla:2;evict=expected:60", "cla:2;evict=h2o:100;skip=2", "cla:2;evict=rkv:100", "cla:2;evict=keyformer:100;skip=2",
                               "standard;evict=corm:100;queries=16;newest=20", "cla:2;evict=corm:1.0;queries=2;newest=20" }) {
        a_chunk_is_evicted_from_as_a_prompt(plan);
    }
    const golden_eviction golden(argc > 2 ? argv[1] : "");
    if (golden.is_there()) {
        compare_with_golden(golden, argv[2]);
    } else {
        printf("not compared with golden results: they are not there\n");
    }
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed > 0;
}
