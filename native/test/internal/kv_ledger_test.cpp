// Caches under a ledger and a system that refuses at random, against a model of what they must hold: rows stay what they were,
// every used cell lies in committed pages, what is committed is what the ledger says, and nothing is left at the end.

#include "filled_pages.h"
#include "kv_test_context.h"

#include "hooks/kv-checkpoints.h"
#include "kv/memory/caches.h"
#include "kv/memory/compaction.h"
#include "kv/memory/folded_memory.h"
#include "kv/memory/page_ledger.h"

#include "ggml/src/ggml-backend-impl.h"
#include "server-task.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

// Host memory that can be refused, by a count of calls or by chance.
struct scripted_pages : filled_pages {
    int64_t                  n_commits = 0;
    int64_t                  refused   = -1; // this call
    std::function<bool()>    refuses   = [] { return false; };
    const ggml_backend_buffer * of     = nullptr; // refused as well

    bool commit(void * data, size_t size) override {
        const auto * const base = of ? (const char *) ggml_backend_buffer_get_base(const_cast<ggml_backend_buffer *>(of)) : nullptr;
        const bool         here = base && (char *) data >= base && (char *) data < base + of->size;
        return n_commits++ != refused && !here && !refuses() && filled_pages::commit(data, size);
    }
};

static uint64_t hash(const void * data, size_t size) {
    uint64_t h = 14695981039346656037ull; // FNV-1a
    for (size_t i = 0; i < size; ++i) {
        h = (h ^ ((const uint8_t *) data)[i])*1099511628211ull;
    }
    return h;
}

struct model_of_caches {
    using key = std::tuple<size_t, llama_seq_id, llama_pos>; // cache, sequence, position

    std::map<key, uint64_t> rows;

    template <typename F> static void each_cell(const tested & t, F && what) {
        const auto caches = kv_caches_of(t.memory());
        for (size_t c = 0; c < caches.size(); ++c) {
            for (llama_seq_id s = 0; s < (llama_seq_id) llama_n_seq_max(t.context.get()); ++s) {
                const llama_kv_cells & cells  = caches[c]->get_cells(s);
                const uint32_t         stream = caches[c]->get_n_stream() > 1 ? (uint32_t) s : 0;
                for (uint32_t i = 0; i < cells.size(); ++i) {
                    if (!cells.is_empty(i) && cells.seq_has(i, s)) {
                        what(*caches[c], key{ c, s, cells.pos_get(i) }, stream, i);
                    }
                }
            }
        }
    }

    static uint64_t row(const llama_kv_cache & cache, uint32_t stream, uint32_t cell) {
        uint64_t sum = 0;
        for (const kv_tensors & layer : kv_tensors_of(cache)) {
            for (const ggml_tensor * each : { layer.k, layer.v }) {
                sum = sum*31 + hash((const char *) each->data + stream*each->nb[2] + cell*each->nb[1], each->nb[1]);
            }
        }
        return sum;
    }

    void learn(const tested & t, llama_seq_id seq, llama_pos from) {
        each_cell(t, [&](const llama_kv_cache & cache, const key & k, uint32_t stream, uint32_t cell) {
            if (std::get<1>(k) == seq && std::get<2>(k) >= from) {
                rows[k] = row(cache, stream, cell);
            }
        });
    }

    void copy(llama_seq_id from, llama_seq_id to) {
        forget(to, 0);
        std::map<key, uint64_t> added;
        for (const auto & [k, value] : rows) {
            if (std::get<1>(k) == from) {
                added[{ std::get<0>(k), to, std::get<2>(k) }] = value;
            }
        }
        rows.insert(added.begin(), added.end());
    }

    void forget(llama_seq_id seq, llama_pos from) {
        for (auto it = rows.begin(); it != rows.end();) {
            it = std::get<1>(it->first) == seq && std::get<2>(it->first) >= from ? rows.erase(it) : std::next(it);
        }
    }

    // The number of cells whose rows are not what they were.
    size_t changed(const tested & t) const {
        size_t n = 0;
        each_cell(t, [&](const llama_kv_cache & cache, const key & k, uint32_t stream, uint32_t cell) {
            const auto known = rows.find(k);
            n += known == rows.end() || known->second != row(cache, stream, cell);
        });
        return n;
    }
};

static uint64_t committed_pages(const tested & t) {
    std::set<const ggml_backend_buffer *> buffers;
    uint64_t                              bytes = 0;
    t.each([&](const llama_kv_cache &, const ggml_tensor * tensor) {
        bytes += buffers.insert(tensor->buffer).second ? committed_bytes(tensor->buffer) : 0;
    });
    return bytes;
}

// Bytes of rows of used cells that lie in pages which are not committed.
static uint64_t uncovered(const tested & t) {
    uint64_t bytes = 0;
    t.each([&](const llama_kv_cache & cache, const ggml_tensor * tensor) {
        const uint64_t least = cells_in_use(cache)*tensor->nb[1];
        bytes += least - std::min<uint64_t>(least, committed_bytes(tensor));
    });
    return bytes;
}

static void random_operations(const char * name, const kv_test_model & spec, const context_options & o, uint32_t seed, int n_steps) {
    std::mt19937   rng(seed);
    scripted_pages driver;
    const auto     ledger = std::make_shared<page_ledger>();
    std::string    at;
    const auto     holds = [&](bool ok, const std::string & what) {
        if (!ok) { // a passed check is not worth a line for each of so many steps
            check(false, std::string(name) + ", seed " + std::to_string(seed) + ", " + at + ": " + what);
        }
        return ok;
    };
    {
        set_page_driver(&driver);
        const ledger_scope charged(ledger);
        tested             t(spec, o);
        set_page_driver(nullptr);
        model_of_caches        model;
        std::vector<llama_pos> n_tokens(o.n_seq);
        int                    n_refused = 0;
        for (int step = 0; step < n_steps; ++step) {
            const auto seq = (llama_seq_id) (rng() % o.n_seq);
            at = "step " + std::to_string(step);
            switch (rng() % 8) {
                default: { // a prompt or an answer goes on, if there is memory
                    const uint32_t n = rng() % 3 ? 1 + rng() % 4 : 1 + rng() % 150;
                    if (n_tokens[seq] + n > 900) {
                        break;
                    }
                    const uint64_t room = rng() % 4;
                    driver.refuses = [&] { return room == 0 && rng() % 16 == 0; };
                    ledger->set_cap(room == 1 ? ledger->total() + rng() % (64 << 10) : page_ledger::no_cap);
                    const bool done = !t.decode(n, n_tokens[seq], seq, seed).empty();
                    driver.refuses = [] { return false; };
                    holds(ledger->total() <= ledger->cap(), "the cap holds");
                    ledger->set_cap(page_ledger::no_cap);
                    if (done) {
                        model.learn(t, seq, n_tokens[seq]);
                        n_tokens[seq] += (llama_pos) n;
                    } else {
                        n_refused++;
                    }
                    break;
                }
                case 0: { // an answer is taken back
                    const llama_pos from = n_tokens[seq] - (llama_pos) std::min<uint32_t>((uint32_t) n_tokens[seq], rng() % 20);
                    if (llama_memory_seq_rm(t.memory(), seq, from, -1)) {
                        model.forget(seq, from);
                        n_tokens[seq] = from;
                    }
                    break;
                }
                case 1: { // a sequence ends
                    llama_memory_seq_rm(t.memory(), seq, -1, -1);
                    model.forget(seq, 0);
                    n_tokens[seq] = 0;
                    break;
                }
                case 2: { // several answers to one prompt
                    const auto to = (llama_seq_id) (rng() % o.n_seq);
                    if (to == seq || !o.unified) {
                        break;
                    }
                    llama_memory_seq_rm(t.memory(), to, -1, -1);
                    llama_memory_seq_cp(t.memory(), seq, to, -1, -1);
                    model.copy(seq, to);
                    n_tokens[to] = n_tokens[seq];
                    break;
                }
                case 3: { // a conversation is kept elsewhere, and comes back
                    std::vector<uint8_t> state(llama_state_seq_get_size(t.context.get(), seq));
                    llama_state_seq_get_data(t.context.get(), state.data(), state.size(), seq);
                    llama_memory_seq_rm(t.memory(), seq, -1, -1);
                    const uint64_t room = rng() % 3;
                    ledger->set_cap(room == 0 ? ledger->total() + rng() % (32 << 10) : page_ledger::no_cap);
                    const bool back = llama_state_seq_set_data(t.context.get(), state.data(), state.size(), seq) == state.size();
                    holds(ledger->total() <= ledger->cap(), "the cap holds for a state");
                    ledger->set_cap(page_ledger::no_cap);
                    if (!back) {
                        llama_memory_seq_rm(t.memory(), seq, -1, -1);
                        model.forget(seq, 0);
                        n_tokens[seq] = 0;
                    }
                    break;
                }
            }
            holds(model.changed(t) == 0, "every row is what it was");
            holds(uncovered(t) == 0, "used cells lie in committed pages");
            holds(ledger->held(charge::pages) == committed_pages(t), "the ledger says what is committed");
            for (llama_seq_id s = 0; s < (llama_seq_id) o.n_seq; ++s) {
                holds(llama_memory_seq_pos_max(t.memory(), s) == n_tokens[s] - 1, "a sequence ends where it should");
            }
        }
        check(n_refused > 0, std::string(name) + ": some decodes were refused");
        llama_memory_clear(t.memory(), true);
        check(committed_pages(t) == 0 && ledger->total() == 0, std::string(name) + ": nothing is committed after clear()");
        t.decode(40, 0, 0, seed);
        check(ledger->total() > 0, std::string(name) + ": it goes on");
    }
    check(ledger->total() == 0, std::string(name) + ": nothing is charged after the context");
}

// Prompts, answers and an end, of two sequences; a decode that fails is asked for once more. Their logits.
static std::vector<float> recorded_run(tested & t, int & n_failed_decodes) {
    std::vector<float> all;
    const auto         decode = [&](uint32_t n, llama_pos pos, llama_seq_id seq) {
        auto logits = t.decode(n, pos, seq, 7);
        if (logits.empty()) {
            n_failed_decodes++;
            logits = t.decode(n, pos, seq, 7);
        }
        all.insert(all.end(), logits.begin(), logits.end());
    };
    decode(100, 0, 0);
    decode(60, 0, 1);
    for (llama_pos i = 0; i < 20; ++i) {
        decode(1, 100 + i, 0);
        decode(1, 60 + i, 1);
    }
    llama_memory_seq_rm(t.memory(), 0, -1, -1);
    decode(90, 0, 0);
    return all;
}

// gap: of logits, where it depends on what was refused in which order keys are read.
static void every_commit_may_fail(const char * name, const kv_test_model & spec, const context_options & o, float gap = 0) {
    scripted_pages     driver;
    std::vector<float> expected;
    const auto         run = [&](int64_t refused) {
        driver.n_commits = 0;
        driver.refused   = refused;
        const auto         ledger = std::make_shared<page_ledger>();
        const ledger_scope charged(ledger);
        set_page_driver(&driver);
        tested t(spec, o);
        set_page_driver(nullptr);
        int        n_failed_decodes = 0;
        const auto logits           = recorded_run(t, n_failed_decodes);
        check(ledger->total() == committed_pages(t), std::string(name) + ": the ledger says what is committed");
        if (refused < 0) {
            expected = logits;
            check(n_failed_decodes == 0 && !logits.empty(), std::string(name) + ": nothing fails by itself");
        } else {
            // two caches are tried with another split of the batch before it fails
            check(n_failed_decodes <= 1, std::string(name) + ": commit " + std::to_string(refused) + " fails one decode at most");
            check(close_to(logits, expected, gap), std::string(name) + ": commit " + std::to_string(refused) + " changes no logits");
        }
    };
    run(-1);
    const int64_t n = driver.n_commits;
    check(n > 10, std::string(name) + ": pages are committed");
    for (int64_t k = 0; k < n; ++k) {
        run(k);
    }
    printf("%s: %d commits, each refused once\n", name, (int) n);
}

// Layers that have turned out lazy go on where they are as long as there is no memory for their windows.
static void lazy_layers_wait_for_memory(const kv_test_model & spec, context_options o) {
    o.swa_full = false;
    std::vector<float> expected;
    for (const bool refused : { false, true }) {
        scripted_pages driver;
        set_page_driver(&driver);
        tested t(spec, o);
        set_page_driver(nullptr);
        const auto caches = kv_caches_of(t.memory());
        t.prompt(300, 0, 1, 64);
        check(!is_settled(t.memory(), 0), "layers have turned out lazy");
        driver.of = refused ? kv_tensors_of(*caches[1]).front().k->buffer : nullptr;
        std::vector<float> logits;
        for (llama_pos pos = 300; pos < 340; ++pos) {
            const auto more = t.decode(1, pos, 0, 2);
            check(!more.empty(), "memory for windows is no reason why a decode fails");
            logits.insert(logits.end(), more.begin(), more.end());
        }
        const uint64_t before = t.committed();
        check(is_settled(t.memory(), 0) == !refused, "their windows are there unless they were refused");
        check((llama_state_seq_get_size(t.context.get(), 0) > 0) == !refused, "and only then a state can be written");
        driver.of = nullptr;
        for (llama_pos pos = 340; pos < 380; ++pos) {
            const auto more = t.decode(1, pos, 0, 2);
            logits.insert(logits.end(), more.begin(), more.end());
        }
        check(is_settled(t.memory(), 0) && llama_state_seq_get_size(t.context.get(), 0) > 0, "they are there once there is memory");
        check(!refused || t.committed() < before/2, "and what they do not need has been given back");
        if (!refused) {
            expected = logits;
        } else {
            check(close_to(logits, expected, 1e-4f), "no logit is another one for it");
        }
    }
}

// Sequences that decode side by side have their cells on common pages. Who is left is moved together, and nothing else is different.
static void who_is_left_fills_its_pages(const char * name, const kv_test_model & spec, context_options o) {
    constexpr llama_pos n_common = 100, n_own = 60, n_more = 20;
    constexpr int       n_seqs = 8;
    o.n_seq    = n_seqs;
    o.swa_full = false;
    std::vector<float> expected;
    uint64_t           alone_committed = 0;
    for (const int n : { 1, n_seqs }) {
        tested               t(spec, o);
        const llama_memory_t memory = t.memory();
        t.prompt(n_common, 0, 1, 64);
        for (llama_seq_id seq_id = 1; seq_id < n; ++seq_id) {
            llama_memory_seq_cp(memory, 0, seq_id, 0, n_common);
        }
        for (llama_pos pos = n_common; pos < n_common + n_own; ++pos) {
            for (llama_seq_id seq_id = 0; seq_id < n; ++seq_id) {
                check(!t.decode(1, pos, seq_id, 2).empty(), "a token of each");
            }
        }
        compact(memory);
        const bool moved_before = compact(memory);
        check(!moved_before, std::string(name) + ": nothing is moved while nothing has gone");
        for (llama_seq_id seq_id = 1; seq_id < n; ++seq_id) {
            llama_memory_seq_rm(memory, seq_id, -1, -1);
        }
        const uint64_t sparse = t.committed();
        const bool     moved  = compact(memory);
        std::vector<float> logits;
        for (llama_pos pos = n_common + n_own; pos < n_common + n_own + n_more; ++pos) {
            const auto more = t.decode(1, pos, 0, 2);
            logits.insert(logits.end(), more.begin(), more.end());
        }
        if (n == 1) {
            expected = logits;
            alone_committed = t.committed();
            check(!moved, std::string(name) + ": alone nothing is moved");
        } else {
            const std::string bytes = ": " + std::to_string(sparse) + " bytes, then " + std::to_string(t.committed()) + ", alone " + std::to_string(alone_committed);
            check(moved && sparse > alone_committed*5/4, std::string(name) + ": its pages were half empty" + bytes);
            check(t.committed() <= alone_committed + 4*4096, // a page of each tensor
                    std::string(name) + ": they are filled" + bytes);
            check(close_to(logits, expected, 1e-4f), std::string(name) + ": no logit is another one for it");
        }
    }
}

// Where values are transposed a thousand cells share a page of theirs, and sixteen one of keys.
static void keys_beside_transposed_values_fill_their_pages(const kv_test_model & spec, context_options o) {
    std::vector<float> expected;
    for (const bool compacts : { false, true }) {
        tested t(spec, o);
        t.prompt(120, 0, 1);
        check(!compact(t.memory()), "nothing is moved while nothing has gone");
        for (const llama_pos hole : { 20, 50, 80 }) {
            llama_memory_seq_rm(t.memory(), 0, hole, hole + 12);
        }
        const uint64_t before = t.committed();
        if (compacts) {
            check(compact(t.memory()), "cells between holes are moved together");
            check(before - t.committed() == 2*2*4096, "two pages of keys in each layer: " + std::to_string(before) + ", then " + std::to_string(t.committed()));
            check(!compact(t.memory(), true), "and once");
        }
        const auto logits = t.decode(20, 120, 0, 2);
        expected = compacts ? expected : logits;
        check(close_to(logits, expected, 1e-4f), "no logit is another one for it");
    }
}

// Of values, a page of which has more cells, two pages could become one with a page of keys that there is no memory for.
static void what_needs_no_page_is_moved_first(const kv_test_model & spec, context_options o) {
    const auto         ledger = std::make_shared<page_ledger>();
    const ledger_scope charged(ledger);
    o.type_v = GGML_TYPE_F16;
    tested t(spec, o);
    t.prompt(64, 0, 1);
    for (const auto & [first, last] : { std::pair(16, 32), std::pair(36, 48), std::pair(52, 64) }) {
        llama_memory_seq_rm(t.memory(), 0, first, last);
    }
    const uint64_t before = ledger->total();
    ledger->set_cap(before);
    check(compact(t.memory(), true), "cells of keys go together");
    check(before - ledger->total() == 2*4096, "a page of keys in each layer: " + std::to_string(before) + ", then " + std::to_string(ledger->total()));
}

// One that begins in the midst of a page lies on more of them than it fills, which no move from page to page mends.
static void a_lone_sequence_goes_to_the_front(const char * name, const kv_test_model & spec, context_options o, uint32_t n_before, llama_pos n_own) {
    constexpr llama_pos n_more = 24;
    o.n_seq    = 2;
    o.swa_full = false;
    o.n_ubatch = 64;
    std::vector<float> expected;
    for (const bool wanted : { false, true }) {
        tested               t(spec, o);
        const llama_memory_t memory = t.memory();
        t.prompt(n_before, 0, 1);
        for (llama_pos pos = 0; pos < n_own; ++pos) {
            check(!t.decode(1, pos, 1, 2).empty(), "a token");
        }
        llama_memory_seq_rm(memory, 0, -1, -1);
        check(!compact(memory), std::string(name) + ": nothing is moved for one page");
        const uint64_t before = t.committed();
        if (wanted) {
            check(compact(memory, true), std::string(name) + ": it is, for memory that is wanted");
            check(before - t.committed() >= 4*4096, std::string(name) + ": a page of each tensor: " + std::to_string(before) + ", then " + std::to_string(t.committed()));
            check(!compact(memory, true), std::string(name) + ": and once");
        }
        std::vector<float> logits;
        for (llama_pos pos = n_own; pos < n_own + n_more; ++pos) {
            const auto more = t.decode(1, pos, 1, 2);
            logits.insert(logits.end(), more.begin(), more.end());
        }
        expected = wanted ? expected : logits;
        check(close_to(logits, expected, 1e-4f), std::string(name) + ": no logit is another one for it");
    }
}

// Rows that only a prompt needs whose layers are not decided on yet, in cells that others have as well.
static void rows_go_with_whom_they_were_for(const kv_test_model & spec, context_options o) {
    o.n_seq    = 2;
    o.swa_full = false;
    uint64_t alone = 0;
    for (const bool shared : { false, true }) {
        tested             t(spec, o);
        const llama_seq_id first = shared ? 1 : 0;
        t.decode(256, 0, first, 1, false); // of a prompt that goes on
        if (shared) {
            copy_beginning(t.memory(), first, 0, 256);
        }
        t.decode(44, 256, 0, 1);
        t.decode(1, 300, 0, 2);
        check(is_settled(t.memory(), 0), "layers have turned out lazy");
        const uint64_t before = t.committed();
        if (!shared) {
            alone = before;
            continue;
        }
        check(before > alone*5/4, "a prompt whose layers are not decided on needs every row");
        llama_memory_seq_rm(t.memory(), first, -1, -1);
        check(t.committed() <= alone + 4*4096, "and nobody does when it has gone: " + std::to_string(t.committed()) + " bytes, alone " + std::to_string(alone));
    }
}

// With "swa-full" a token that llama.cpp's own window hides is there all the same, whatever is free before it.
static void a_hidden_token_stays(context_options o) {
    kv_test_model spec = wide_model();
    spec.arch    = "gemma2";
    spec.edit    = [](gguf_context * g) { gguf_set_val_u32(g, "gemma2.attention.sliding_window", 64); };
    o.n_seq      = 8;
    o.swa_full   = true;
    constexpr llama_pos n = 160, n_more = 20;
    std::vector<float>  expected;
    for (const int n_seqs : { 1, 8 }) {
        tested t(spec, o);
        for (llama_pos pos = 0; pos < n; ++pos) {
            for (llama_seq_id seq_id = 0; seq_id < n_seqs; ++seq_id) {
                check(!t.decode(1, pos, seq_id, 2).empty(), "a token of each");
            }
        }
        compact(t.memory());
        for (llama_seq_id seq_id = 1; seq_id < n_seqs; ++seq_id) {
            llama_memory_seq_rm(t.memory(), seq_id, -1, -1);
        }
        check(compact(t.memory()) == (n_seqs > 1), "what is left is moved together");
        check(!t.prompt(1200, 1, 3).empty(), "another sequence takes the cells before it");
        std::vector<float> logits;
        for (llama_pos pos = n; pos < n + n_more; ++pos) {
            const auto more = t.decode(1, pos, 0, 2);
            logits.insert(logits.end(), more.begin(), more.end());
        }
        check(llama_memory_seq_pos_min(t.memory(), 0) == 0, "no token is gone: " + std::to_string(llama_memory_seq_pos_min(t.memory(), 0)));
        expected = n_seqs == 1 ? logits : expected;
        check(close_to(logits, expected, 1e-3f), "no logit is another one for it");
    }
}

// A row of transposed values need not be a whole number of pages.
static void nothing_is_left(const kv_test_model & spec, context_options o) {
    o.flash_attn = false;
    o.swa_full   = false;
    o.type       = GGML_TYPE_F32;
    for (const uint32_t n_batch : { 256, 512, 900 }) {
        o.n_batch = o.n_ubatch = n_batch;
        tested t(spec, o);
        t.prompt(300, 0, 1, 256);
        check(t.committed() > 0, "a prompt takes memory");
        llama_memory_seq_rm(t.memory(), 0, -1, -1);
        check(t.committed() == 0, "and gives all of it back: " + std::to_string(t.committed()) + " bytes, batches of " + std::to_string(n_batch));
    }
}

// What is dropped for the sake of cells is never the checkpoint that they are for.
static void a_checkpoint_stays_while_it_is_read(const kv_test_model & spec, context_options o) {
    o.swa_full = false;
    const auto         ledger = std::make_shared<page_ledger>();
    const ledger_scope charged(ledger);
    tested             t(spec, o);
    server_prompt      prompt;
    t.decode(200, 0, 0, 1);
    for (llama_pos pos : { 200, 201 }) {
        auto   charge = kvfold_charge_checkpoint(t.context.get(), nullptr, 0, prompt);
        auto & copy   = prompt.checkpoints.emplace_back();
        copy.charge   = std::move(charge);
        copy.update_tgt(t.context.get(), 0, LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY);
        t.decode(1, pos, 0, 1);
    }
    const auto & copy    = prompt.checkpoints.back();
    const size_t size    = copy.data_tgt.size();
    const auto   restore = [&] { return kvfold_restore_checkpoint(t.context.get(), nullptr, 1, prompt, copy); };
    ledger->set_cap(ledger->total());
    check(!restore(), "a checkpoint that there are no cells for is not restored");
    check(prompt.checkpoints.size() == 2 && copy.data_tgt.size() == size, "and it is still there");
    ledger->set_cap(page_ledger::no_cap);
    check(restore(), "it is restored once there are");
    ledger->set_cap(ledger->total());
    t.decode(200, 202, 0, 1);
    check(prompt.checkpoints.empty(), "other cells drop it");
}

// Who reads without a lock takes what it has read for one moment's only if nothing came and went meanwhile.
static void what_comes_and_goes_is_a_change() {
    page_ledger    ledger(1 << 20);
    const uint64_t before = ledger.n_changes();
    check(ledger.take(charge::pages, 4096), "taken");
    ledger.give(charge::pages, 4096);
    check(ledger.held(charge::pages) == 0 && ledger.n_changes() != before, "held as before, and yet changed");
    const uint64_t after = ledger.n_changes();
    check(!ledger.take(charge::pages, 2 << 20) && ledger.n_changes() == after, "what is refused changes nothing");
}

int main() {
    what_comes_and_goes_is_a_change();
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    kv_test_model small = wide_model();
    small.n_layer = 2;
    kv_test_model windows = wide_model("0s_1;window=64;sinks=4");
    windows.n_layer = 2;
    context_options one, four, streams;
    four.n_seq = streams.n_seq = 4;
    streams.unified = false;
    for (uint32_t seed = 1; seed <= 3; ++seed) {
        random_operations("one sequence", small, one, seed, 150);
        random_operations("four in a pool", small, four, seed, 150);
        random_operations("four with cells of their own", small, streams, seed, 150);
        random_operations("four with windows", windows, four, seed, 150);
    }
    four.n_seq = 2;
    every_commit_may_fail("standard", small, four);
    every_commit_may_fail("windows", windows, four);
    context_options lazy = four;
    lazy.kv_plan = "standard;lazy=0;window=16;sinks=4;queries=8";
    every_commit_may_fail("lazy layers", small, lazy, 1e-4f);
    lazy_layers_wait_for_memory(small, lazy);
    rows_go_with_whom_they_were_for(small, lazy);
    a_hidden_token_stays(four);
    nothing_is_left(windows, four);
    who_is_left_fills_its_pages("standard", small, four);
    context_options straddling = four; // rows of 68 bytes
    straddling.type = GGML_TYPE_Q8_0;
    who_is_left_fills_its_pages("cells on two pages", small, straddling);
    who_is_left_fills_its_pages("windows", windows, four);
    who_is_left_fills_its_pages("lazy layers", small, lazy);
    context_options transposed = four;
    transposed.flash_attn = false;
    what_needs_no_page_is_moved_first(small, four);
    keys_beside_transposed_values_fill_their_pages(small, transposed);
    a_lone_sequence_goes_to_the_front("cells on two pages", small, straddling, 64, 120);
    transposed.n_ctx = 1536; // every second row begins in the midst of a page
    a_lone_sequence_goes_to_the_front("rows on two pages", small, transposed, 448, 400);
    a_checkpoint_stays_while_it_is_read(windows, four);
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed ? 1 : 0;
}
