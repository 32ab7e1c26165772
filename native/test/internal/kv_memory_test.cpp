// Memory of the KV cache follows use: pages are committed before cells are written, go back when their cells are empty,
// once, and nothing is lost when the system refuses.

#include "kv_test_context.h"

#include "kv/memory/layout.h"
#include "kv/memory/pages.h"

#include <set>

static std::string warnings;

// ---- the bookkeeping, against a system that is made up

struct fake_driver : page_driver {
    std::set<char *> mapped;
    size_t           left       = SIZE_MAX; // pages that can still be had
    bool             takes_back = true;
    int              n_releases = 0;
    int              n_mistakes = 0; // a page mapped or released twice
    size_t           most       = 0; // pages mapped at once

    size_t page_size() const override { return 4096; }

    bool commit(void * data, size_t size) override {
        if (size/page_size() > left) {
            return false;
        }
        left -= size/page_size();
        for (size_t at = 0; at < size; at += page_size()) {
            n_mistakes += !mapped.insert((char *) data + at).second;
        }
        most = std::max(most, mapped.size());
        return true;
    }

    bool release(void * data, size_t size) override {
        n_releases++;
        if (!takes_back) {
            return false;
        }
        left += size/page_size();
        for (size_t at = 0; at < size; at += page_size()) {
            n_mistakes += mapped.erase((char *) data + at) != 1;
        }
        return true;
    }
};

static void test_pages() {
    constexpr size_t page = 4096;
    char * const     base = (char *) 0x10000000;
    fake_driver      driver;
    {
        page_map pages(driver, base, 1000*page);
        check(pages.committed() == 0 && driver.mapped.empty(), "nothing is committed at first");

        check(pages.commit(10*page + 5, 10), "a few bytes");
        check(pages.committed() == page && driver.mapped.count(base + 10*page), "take the page they lie in");
        check(pages.commit(9*page, 3*page) && pages.committed() == 3*page, "pages that are there are not mapped again");
        check(pages.commit(100*page, 300*page) && pages.committed() == 303*page, "a long range, over many words of bits");
        check(pages.committed(110*page, 5*page) == 5*page && pages.committed(50*page, 10*page) == 0, "what of a part is committed");
        check(pages.committed(9*page + 1, 1) == page, "a part of a page counts as the page");

        check(pages.release(100*page + 1, 300*page - 2), "a page that is not given back as a whole");
        check(driver.mapped.count(base + 100*page) && driver.mapped.count(base + 399*page), "stays");
        check(pages.committed() == 5*page, "the others go");
        driver.n_releases = 0;
        check(pages.release(100*page + 1, 300*page - 2) && driver.n_releases == 0, "and are not given back twice");

        driver.left = 10;
        check(!pages.commit(500*page, 11*page), "more than there is cannot be had");
        check(pages.commit(505*page, page), "one in the middle can");
        driver.left = 6;
        check(!pages.commit(500*page, 12*page), "the second half of a range cannot be had");
        check(pages.committed(500*page, 12*page) == page && driver.left == 6, "so its first half goes back");

        driver.takes_back = false;
        check(!pages.release(0, 1000*page), "a system that takes nothing back");
        check(pages.committed() == 6*page && driver.mapped.size() == 6, "is left with what it has");
        driver.takes_back = true;
        check(pages.release(0, 1000*page) && pages.committed() == 0 && driver.mapped.empty(), "and may take it later");
        check(pages.commit(999*page, page), "the last page");
    }
    check(driver.mapped.empty(), "the end gives everything back");
    check(driver.n_mistakes == 0, "no page was mapped or released twice");
}

// ---- a cache

// The system, with a count and a fault.
struct watched_driver : fake_driver {
    // host pages are there whether they were asked for or not
    bool release(void * data, size_t size) override {
        memset(data, 0, takes_back ? size : 0);
        return fake_driver::release(data, size);
    }
};

// Tokens of two sequences, so that they share pages.
static void decode_in_turn(tested & t) {
    for (llama_pos pos = 200; pos < 260; ++pos) {
        t.decode(1, pos, 0, 2);
        t.decode(1, pos, 1, 2);
    }
}

// What sequence 1 of test_cache() gives where pages keep what they hold after they are given back.
static std::vector<float> unreleased(const char * plan, const context_options & o) {
    fake_driver driver;
    set_page_driver(&driver);
    tested t(wide_model(plan), o);
    set_page_driver(nullptr);
    t.decode(200, 0, 0, 1);
    t.decode(200, 0, 1, 1);
    decode_in_turn(t);
    llama_memory_seq_rm(t.memory(), 0, -1, -1);
    const auto logits = t.decode(1, 260, 1, 3);
    t.context.reset();
    return logits;
}

static void test_cache(const char * plan, const context_options & o) {
    const std::string name = std::string(plan) + (o.unified ? ", one pool" : ", a stream each") + (o.flash_attn ? "" : ", transposed");
    watched_driver driver;
    set_page_driver(&driver);
    tested t(wide_model(plan), o);
    set_page_driver(nullptr);
    const auto expect = [&](bool ok, const char * what) { check(ok, name + ": " + what + ", " + std::to_string(t.committed()) + " bytes committed"); };

    expect(t.committed() == 0, "nothing is committed before the first token");
    for (llama_seq_id seq = 0; seq < (llama_seq_id) o.n_seq; ++seq) {
        t.decode(200, 0, seq, 1);
    }
    if (o.flash_attn) {
        expect(t.follows_use(), "what is committed is what is used");
    }
    const uint64_t full = t.committed();
    expect(full > 0, "tokens take pages");

    if (o.n_seq > 1) {
        decode_in_turn(t);
        const uint64_t both = t.committed();
        llama_memory_seq_rm(t.memory(), 0, -1, -1);
        const uint64_t one = t.committed();
        expect(one < both && one > 0, "the pages of one sequence go, but not those it shares with another");
        const auto logits = t.decode(1, 260, 1, 3);
        expect(!logits.empty() && logits == unreleased(plan, o), "which reads what it wrote, bit for bit");
        llama_memory_seq_rm(t.memory(), 1, -1, -1);
    }
    llama_memory_seq_rm(t.memory(), -1, -1, -1);
    expect(t.committed() == 0, "the last token takes the last page with it");

    // as speculative decoding does: a few cells written and removed, time after time
    t.decode(200, 0, 0, 1);
    driver.n_releases = 0;
    for (int i = 0; i < 50; ++i) {
        t.decode(3, 200, 0, 4);
        llama_memory_seq_rm(t.memory(), 0, 201, -1);
        llama_memory_seq_rm(t.memory(), 0, 200, -1);
    }
    if (o.flash_attn && plan[0] == 0) {
        // 200 cells end in the middle of a page
        expect(driver.n_releases == 0, "cells that come and go in a page that stays release nothing");
    }
    llama_memory_clear(t.memory(), false);
    expect(t.committed() == 0, "a cleared cache has no pages");
    const int n = driver.n_releases;
    llama_memory_clear(t.memory(), false);
    llama_memory_seq_rm(t.memory(), -1, -1, -1);
    expect(driver.n_releases == n, "what was given back is not given back again");
    check(driver.n_mistakes == 0, name + ": no page was mapped or released twice");
    t.context.reset();
    check(driver.mapped.empty(), name + ": the end gives everything back");
}

static void test_refused_release(const char * plan) {
    const std::string name = std::string("a system that takes nothing back, ") + plan;
    tested            plain(wide_model(plan), { 1, true, true });
    watched_driver    driver;
    set_page_driver(&driver);
    tested t(wide_model(plan), { 1, true, true });
    set_page_driver(nullptr);

    driver.takes_back = false;
    bool same = true;
    for (uint32_t round = 0; round < 3; ++round) {
        const auto a = t.decode(100, 0, 0, round);
        const auto b = plain.decode(100, 0, 0, round);
        llama_memory_seq_rm(t.memory(), 0, 50, -1);
        llama_memory_seq_rm(plain.memory(), 0, 50, -1);
        const auto c = t.decode(20, 50, 0, round + 10);
        const auto d = plain.decode(20, 50, 0, round + 10);
        same = same && !a.empty() && a == b && !c.empty() && c == d;
        llama_memory_clear(t.memory(), round == 1);
        llama_memory_clear(plain.memory(), round == 1);
    }
    check(same, name + ": the logits are the same, bit for bit");
    check(t.committed() > 0, name + ": what it keeps is still counted");
    driver.takes_back = true;
    t.decode(100, 0, 0, 1);
    llama_memory_clear(t.memory(), true);
    check(t.committed() == 0, name + ": it may take it later");
    driver.takes_back = false;
    t.context.reset(); // nothing to give back
    driver.takes_back = true;
    check(driver.n_mistakes == 0, name + ": no page was mapped or released twice");
}

static void test_refused_commit() {
    watched_driver driver;
    set_page_driver(&driver);
    tested t(wide_model(), { 2, true, true });
    set_page_driver(nullptr);
    tested plain(wide_model(), { 2, true, true });

    check(!t.decode(64, 0, 0, 1).empty(), "the first tokens have memory");
    plain.decode(64, 0, 0, 1);
    driver.left = 3; // the first tensors of a layer get theirs, the others do not
    warnings.clear();
    check(t.decode(64, 0, 1, 2).empty(), "the next ones have none, so the decode fails");
    check(warnings.find("no memory for the keys and values of 64 tokens") != std::string::npos, "saying so: " + warnings);
    check(cells_in_use(*kv_caches_of(t.memory())[0]) == 64, "no cell is taken");
    driver.left = SIZE_MAX/2;
    const auto a = t.decode(1, 64, 0, 3);
    const auto b = plain.decode(1, 64, 0, 3);
    check(!a.empty() && a == b, "and the sequence that runs goes on as if nothing had been");
    llama_memory_clear(t.memory(), false);
    check(t.committed() == 0 && driver.n_mistakes == 0, "nothing is left of the attempt");
}

// Whichever class of layers has no memory for a batch, none keeps what it had committed for it.
static void test_refused_class() {
    watched_driver  driver;
    context_options o;
    o.kv_plan  = "yoco:40";
    o.swa_full = false;
    set_page_driver(&driver);
    tested t(wide_model(), o);
    set_page_driver(nullptr);
    bool   nothing = true;
    size_t n_refused = 0;
    for (bool refused = true; refused; ++n_refused) {
        driver.left = n_refused;
        refused     = t.decode(64, 0, 0, 1).empty();
        llama_memory_seq_rm(t.memory(), 0, -1, -1);
        nothing = nothing && t.committed() == 0;
    }
    check(nothing && n_refused > 2 && driver.n_mistakes == 0, "nothing is left of " + std::to_string(n_refused) + " batches, refused by either class");
}

// What is left of a sequence is shifted run by run where pages between its cells have gone, and at once where others have cells there.
static void test_shift(bool flash_attn, ggml_type type) {
    std::vector<float> logits[2];
    uint64_t           committed[2];
    for (const bool whole : { false, true }) {
        context_options o{ 3, true, flash_attn };
        o.type = type;
        tested t(wide_model(), o);
        t.decode(200, 0, 0, 1);
        t.decode(200, 200, 0, 3);
        for (const llama_pos first : { 20, 210 }) {
            if (whole) {
                llama_memory_seq_cp(t.memory(), 0, 1, first, first + 150);
            }
            llama_memory_seq_rm(t.memory(), 0, first, first + 150);
        }
        llama_memory_seq_add(t.memory(), 0, 170, 210, -150);
        llama_memory_seq_add(t.memory(), 0, 360, -1, -300);
        logits[whole]    = t.decode(1, 100, 0, 2);
        committed[whole] = t.committed();
    }
    const std::string name = std::string("shift, ") + ggml_type_name(type) + (flash_attn ? "" : ", transposed");
    check(!logits[0].empty() && logits[0] == logits[1], name + ": run by run as at once");
    check(!flash_attn || committed[0] < committed[1], name + ": without the pages between, " + std::to_string(committed[0]) + " of " + std::to_string(committed[1]));
}

// Of a sequence that is copied into a stream of its own, and of one that is shifted there, only the cells in use take memory.
static void test_streams(bool flash_attn, ggml_type type) {
    const std::string name = std::string("streams, ") + ggml_type_name(type) + (flash_attn ? "" : ", transposed");
    watched_driver    driver;
    context_options   o{ 3, false, flash_attn };
    o.type = type;
    set_page_driver(&driver);
    tested t(wide_model(), o);
    set_page_driver(nullptr);
    const auto expect = [&](bool ok, const char * what) { check(ok, name + ": " + what + ", " + std::to_string(t.committed()) + " bytes committed"); };
    const auto same   = [&](uint32_t pos, const char * what) {
        const auto of_source = t.decode(1, (llama_pos) pos, 0, 2);
        const auto of_copy   = t.decode(1, (llama_pos) pos, 1, 2);
        expect(!of_source.empty() && of_source == of_copy, what);
    };

    t.decode(200, 0, 0, 1);
    const uint64_t one = t.committed();
    llama_memory_seq_cp(t.memory(), 0, 1, -1, -1);
    expect(t.committed() == 2*one, "a copy takes what it copies");
    same(200, "and reads the same, bit for bit");

    const size_t left = driver.left;
    driver.left = 0;
    llama_memory_seq_cp(t.memory(), 0, 2, -1, -1);
    driver.left = left;
    expect(!kvfold_has_cells(t.context.get(), 2) && kvfold_has_cells(t.context.get(), 0), "a copy without memory has no cells");
    same(201, "and the others go on");
    expect(!t.decode(10, 0, 2, 4).empty(), "it can be computed");

    const uint64_t before = t.committed();
    for (const llama_seq_id seq : { 0, 1 }) {
        llama_memory_seq_rm (t.memory(), seq, 10, 60);
        llama_memory_seq_add(t.memory(), seq, 60, -1, -50);
    }
    same(152, "both are shifted alike");
    expect(t.committed() <= before, "a shift takes no more");

    llama_memory_seq_rm (t.memory(), 0, 0, 80);
    llama_memory_seq_add(t.memory(), 0, 80, -1, -80);
    driver.left = 0;
    expect(!t.decode(1, 10, 2, 5).empty(), "a shift needs no memory");
    driver.left = SIZE_MAX/2;
    llama_memory_clear(t.memory(), true);
    expect(t.committed() == 0 && driver.n_mistakes == 0, "the end gives everything back");
}

// What a request is promised is what it commits at most: no less, and no more than pages that are filled in part.
static void test_peak(const char * plan, uint32_t n_prompt, uint32_t n_tokens, bool tight) {
    const std::string name = std::string(plan) + ", " + std::to_string(n_prompt) + " of " + std::to_string(n_tokens) + " tokens";
    watched_driver    driver;
    set_page_driver(&driver);
    context_options o;
    o.kv_plan = plan;
    tested t(wide_model(), o);
    set_page_driver(nullptr);
    const kv_layout layout   = read_kv_layout(t.context.get());
    const uint32_t  chunk    = kvfold_plan_parse(plan, 4).evict_chunk;
    const uint64_t  promised = layout.peak_for(n_prompt, n_tokens, chunk > 0 ? chunk : layout.n_batch);
    t.prompt(n_prompt, 0, 1, chunk > 0 ? chunk : 256);
    for (uint32_t pos = n_prompt; pos < n_tokens; ++pos) {
        t.decode(1, (llama_pos) pos, 0, 2);
    }
    const uint64_t peak     = driver.most*driver.page_size();
    const uint64_t in_part  = 2*4*2*driver.page_size(); // of K and V of 4 layers in 2 caches
    const std::string sizes = ": " + std::to_string(peak) + " bytes at most, " + std::to_string(promised) + " promised, " +
                              std::to_string(layout.bytes_for(n_tokens, layout.n_batch)) + " if all layers stayed full";
    printf("%s%s\n", name.c_str(), sizes.c_str());
    check(peak <= promised, name + " commit no more than was promised" + sizes);
    check(!tight || peak + in_part >= promised, name + " are promised no more than they commit" + sizes);
    check(layout.bytes_held(0) + in_part >= t.committed() && layout.bytes_held(0) <= promised, name + ": what is held is what is there, " +
                                                                 std::to_string(layout.bytes_held(0)) + " of " + std::to_string(t.committed()));
}

// The same of layers that forget, whose cells come back to the sequence.
static void test_window(const char * plan, ggml_type type, bool unified, uint32_t n_at_once) {
    const std::string name = std::string(plan) + ", " + ggml_type_name(type) + (unified ? ", one pool, " : ", a stream each, ") +
                             std::to_string(n_at_once) + " at once";
    watched_driver driver;
    set_page_driver(&driver);
    context_options o;
    o.kv_plan  = plan;
    o.type     = type;
    o.unified  = unified;
    o.n_seq    = unified ? 1 : 2;
    o.n_batch  = o.n_ubatch = 64;
    o.swa_full = false;
    tested t(wide_model(), o);
    set_page_driver(nullptr);
    const kv_layout layout   = read_kv_layout(t.context.get());
    const uint64_t  promised = layout.peak_for(320, 900, n_at_once);
    for (uint32_t pos = 0; pos < 320; pos += n_at_once) {
        t.decode(n_at_once, (llama_pos) pos, 0, 1);
    }
    for (uint32_t pos = 320; pos < 900; ++pos) {
        t.decode(1, (llama_pos) pos, 0, 2);
    }
    const uint64_t    peak  = driver.most*driver.page_size();
    const std::string sizes = ": " + std::to_string(peak) + " bytes at most, " + std::to_string(promised) + " promised";
    printf("%s%s\n", name.c_str(), sizes.c_str());
    check(peak <= promised, name + " commit no more than was promised" + sizes);
    check(!unified || peak + 2*4*driver.page_size() >= promised, name + " are promised no more than they commit" + sizes);
}

int main() {
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level >= GGML_LOG_LEVEL_WARN) {
            warnings += text;
        }
    }, nullptr);
    llama_backend_init();
    test_pages();
#if defined(__linux__)
    for (const char * plan : { "", "cla:2", "lckv:2", "0_1s_2_3s;window=100;sinks=4", "streaming:20" }) {
        for (const bool unified : { true, false }) {
            test_cache(plan, { 1, unified, true });
            test_cache(plan, { 2, unified, true });
            test_cache(plan, { 2, unified, false });
        }
    }
    for (const char * decide : { "early", "end", "decode" }) {
        const std::string at = ";window=100;sinks=4;queries=8;decide=" + std::string(decide);
        test_peak(("standard;lazy=1" + at).c_str(), 600, 620, true);   // as the prompt ends
        test_peak(("standard;lazy=1" + at).c_str(), 600, 1200, true);  // as the answer ends
        test_peak(("standard;lazy=0" + at).c_str(), 600, 1200, false); // which might have been full
        test_peak(("standard;lazy=1" + at).c_str(), 50, 1200, true);   // too short to decide
        test_peak(("standard;full=1" + at).c_str(), 300, 1900, true);
        test_peak(("standard;full=0" + at).c_str(), 500, 1200, true);
        test_peak(("cla:2;full=1" + at).c_str(), 300, 1900, true);
        test_peak(("0_1s_2_3;full=2" + at).c_str(), 300, 1900, true);
    }
    test_peak("standard", 600, 700, true);
    for (const char * plan : { "streaming:40", "yoco:40", "0_1s_2_3s;window=100;sinks=4" }) {
        for (const ggml_type type : { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0 }) {
            for (const uint32_t n_at_once : { 64, 32, 1 }) {
                test_window(plan, type, true, n_at_once);
                test_window(plan, type, false, n_at_once);
            }
        }
    }
    for (const char * when : { "", ";at=chunk:64", ";at=chunk:100" }) {
        const std::string at = when;
        test_peak(("standard;evict=knorm:200" + at).c_str(), 1500, 1510, true);          // as the prompt ends, or a chunk of it
        test_peak(("standard;evict=streaming:200" + at).c_str(), 900, 1900, true);       // as the answer ends
        test_peak(("cla:2;evict=keydiff:0.25" + at).c_str(), 1500, 1510, true);
        test_peak(("standard;skip=0;evict=knorm:200" + at).c_str(), 1500, 1510, true);
        test_peak(("standard;evict=pyramidkv:200;queries=16" + at).c_str(), 1500, 1510, at.empty()); // each layer at another time
        test_peak(("yoco:100;evict=knorm:200" + at).c_str(), 1500, 1510, true);
        test_peak(("standard;evict=knorm:200" + at).c_str(), 50, 300, true);              // too short to lose any
    }
    test_refused_commit();
    test_refused_class();
    test_streams(true, GGML_TYPE_F32);
    test_shift(true, GGML_TYPE_F32);
    test_streams(true, GGML_TYPE_Q8_0);
    test_shift(true, GGML_TYPE_Q8_0);
    test_streams(false, GGML_TYPE_F32);
    test_shift(false, GGML_TYPE_F32);
    warnings.clear();
    test_refused_release("");
    test_refused_release("0_1s_2_3s;window=20;sinks=4");
    const std::string once = "does not take the memory of empty cells back";
    const size_t      at   = warnings.find(once);
    check(at != std::string::npos && warnings.find(once, at + 1) == std::string::npos, "a refused release is warned of once: " + warnings);
#else
    printf("memory of a cache NOT tested: it is allocated as a whole on this system\n");
#endif
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed ? 1 : 0;
}
