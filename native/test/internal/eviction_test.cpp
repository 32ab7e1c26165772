// Which tokens are evicted, and that what is left of a sequence is what was chosen, byte by byte, in fewer cells.
//
//     eviction_test [GOLDEN MODEL]    also compares with ../shared/golden-eviction, which is not part of the project

#include "../golden_eviction.h"
#include "kv_test_context.h"

#include "kv/eviction/choice.h"
#include "kv/eviction/evictor.h"
#include "kv/eviction/kept_tokens.h"
#include "kv/eviction/method.h"
#include "kv/eviction/rows.h"
#include "kv/memory/folded_memory.h"

#include "llama-model.h"

#include <algorithm>
#include <cmath>
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
    for (const char * text : { "standard;evict=knorm", "standard;evict=knorm:0", "standard;evict=knorm:0.0", "standard;evict=knorm:1.5",
                               "standard;evict=nothing:5", "standard;evict=:5", "standard;evict=knorm:5;lag=4", "standard;lag=4", "standard;evict=knorm:5;queries=4", "standard;queries=4",
                               "standard;evict=snapkv:64", "standard;evict=snapkv:100;kernel=4", "1_1;evict=snapkv:100", "standard;skip=0",
                               "standard;at=chunk", "standard;evict=knorm:64;at=chunk:15", "standard;evict=knorm:64;at=chunk:",
                               "standard;evict=knorm:64;at=soon", "standard;evict=snapkv:100;at=chunk:63", "standard;evict=observed:64;at=chunk",
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
    // what is another one's as well stays, whatever the budget
    some.decode(50, n_prompt + 1, 0, 5);
    some.decode(1, n_prompt + 51, 0, 5);
    check(cells_in_use(*kv_caches_of(some.memory()).front(), 0) == 152, std::string(how.name) + ": shared cells are left alone");
    check(evictor_of(some.memory())->shares(0), std::string(how.name) + ": and said to be shared");
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
    settle_evictions(some.memory());
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
    for (const variant & how : variants()) {
        for (const char * method : { "evict=knorm", "evict=keydiff", "evict=streaming" }) {
            what_is_left_is_what_was_chosen(how, method);
        }
        what_is_left_is_what_was_chosen(how, "lag=16;evict=lagkv");
        each_chunk_leaves_what_was_chosen(how, "evict=knorm");
        each_chunk_leaves_what_was_chosen(how, "lag=16;evict=lagkv");
        goes_on_as_if_the_others_were_gone(how);
        others_are_as_they_were(how);
        layers_that_are_skipped_keep_everything(how);
        copies_share_what_is_left(how);
        states_hold_what_is_left(how, "standard;evict=knorm:100");
        states_hold_what_is_left(how, "standard;evict=knorm:0.4;skip=1");
        states_hold_what_is_left(how, "yoco:55;evict=keydiff:100");
        if (how.options.unified && how.options.type == GGML_TYPE_F32) { // rounded attention may choose other rows
            states_hold_what_is_left(how, "standard;evict=snapkv:100;queries=16");
            states_hold_what_is_left(how, "cla:2;evict=pyramidkv:100;queries=16");
        }
    }
    rows_that_layers_lack_count_once();
    for (const char * attributes : { "evict=snapkv:100", "evict=tova:100", "evict=pyramidkv:100;queries=16", "evict=chunkkv:0.4;queries=32;skip=1", "evict=observed:100",
                                    "evict=expected:100;future=64" }) {
        the_last_queries_are_those_of_the_prompt(attributes);
    }
    for (const char * attributes : { "evict=knorm:100", "evict=keydiff:0.3", "evict=streaming:100;sinks=4", "evict=lagkv:100;lag=16", "evict=streaming:100;skip=1" }) {
        the_same_positions_stay_as_in_a_plain_loop(attributes);
    }
    for (const variant & how : { variants()[0], variants()[1], variants()[5] }) {
        for (const char * attributes : { "evict=streaming:100", "evict=snapkv:100;queries=16", "evict=lagkv:100;lag=16;at=chunk:128;skip=1", "evict=keydiff:100;at=chunk:128" }) {
            a_copy_of_a_beginning_loses_tokens_of_its_own(how, attributes);
        }
    }
    for (const char * plan : { "standard;evict=knorm:100", "cla:2;evict=lagkv:0.4;lag=16;skip=0", "standard;evict=snapkv:100;queries=16", "cla:2;evict=tova:100",
                               "standard;evict=pyramidkv:100;queries=16", "standard;evict=chunkkv:0.4;queries=32", "yoco:55;evict=keydiff:100",
                               "cla:2;evict=expected:60" }) {
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
