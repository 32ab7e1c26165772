// Which cells sequences get: runs of their own as long as there are some, and any cell after that.

#include "kv_test_context.h"

#include "kv/memory/placement.h"

#include "llama-kv-cells.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>


constexpr uint32_t run = placement::least_run;

// Cells as llama_kv_cache fills them.
struct pool {
    llama_kv_cells                                cells;
    placement                                     places;
    std::map<llama_seq_id, std::vector<uint32_t>> held; // by position

    explicit pool(uint32_t n_cells, std::vector<cell_bytes> kinds = { {} }) : places(n_cells, std::move(kinds)) { cells.resize(n_cells); }

    // One ubatch with a token for each of these. Returns their cells.
    std::vector<uint32_t> add(std::vector<llama_seq_id> seq_ids) {
        check(cells.size() - cells.get_used() >= seq_ids.size(), "there are free cells");
        const std::vector<uint32_t> idxs = places.choose(cells, seq_ids);
        check(idxs.size() == seq_ids.size(), "each token has one");
        check(std::set<uint32_t>(idxs.begin(), idxs.end()).size() == idxs.size(), "no cell twice");
        for (size_t i = 0; i < idxs.size(); ++i) {
            check(idxs[i] < cells.size() && cells.is_empty(idxs[i]), "they are free");
            auto & own = held[seq_ids[i]];
            cells.pos_set(idxs[i], own.empty() ? 0 : cells.pos_get(own.back()) + 1);
            cells.seq_add(idxs[i], seq_ids[i]);
            own.push_back(idxs[i]);
        }
        return idxs;
    }

    void share(llama_seq_id from, size_t n, const std::vector<llama_seq_id> & with) {
        for (const llama_seq_id seq_id : with) {
            for (size_t i = 0; i < n; ++i) {
                cells.seq_add(held[from][i], seq_id);
                held[seq_id].push_back(held[from][i]);
            }
        }
    }

    // As a window does.
    void forget(llama_seq_id seq_id, size_t n_sinks, size_t n_recent) {
        auto & own = held[seq_id];
        while (own.size() > n_sinks + n_recent) {
            cells.seq_rm(own[n_sinks], seq_id);
            own.erase(own.begin() + (ptrdiff_t) n_sinks);
        }
    }

    void keep(llama_seq_id seq_id, size_t n) {
        auto & own = held[seq_id];
        for (; own.size() > n; own.pop_back()) {
            cells.seq_rm(own.back(), seq_id);
        }
    }

    size_t parts_of(llama_seq_id seq_id, uint32_t n_part) {
        std::set<uint32_t> parts;
        for (const uint32_t at : held[seq_id]) {
            parts.insert(at/n_part);
        }
        return parts.size();
    }

    // Pages that hold a cell of any of these.
    size_t pages_of(const std::vector<llama_seq_id> & seq_ids, const cell_bytes & bytes) {
        std::set<size_t> pages;
        for (const llama_seq_id seq_id : seq_ids) {
            for (const uint32_t at : held[seq_id]) {
                pages.insert(bytes.first_page(at));
                pages.insert(bytes.last_page(at));
            }
        }
        return pages.size();
    }

    size_t runs_of(llama_seq_id seq_id) { return parts_of(seq_id, run); }
};

static void test_runs(cell_bytes bytes) {
    pool p(64*run, { bytes });
    for (int step = 0; step < 100; ++step) {
        p.add({ 0, 1, 2, 3, 4, 5, 6, 7 });
    }
    std::map<uint32_t, llama_seq_id> owner;
    for (const auto & [seq_id, cells] : p.held) {
        check(p.runs_of(seq_id) == 2, "100 cells lie in two runs");
        check(std::is_sorted(cells.begin(), cells.end()), "one after the other");
        for (const uint32_t at : cells) {
            check(owner.emplace(at/run, seq_id).first->second == seq_id, "a run is one sequence's");
        }
    }
    p.keep(3, 0);
    const std::vector<uint32_t> next = p.add({ 9 });
    check(next[0]%run == 0 && owner.at(next[0]/run) == 3, "the first run that is free again");
}

static void test_drafts() {
    pool p(16*run);
    p.add(std::vector<llama_seq_id>(10, 1));
    for (int step = 0; step < 20; ++step) { // three tokens are drafted, one stays
        p.add({ 1, 1, 1 });
        p.keep(1, 11 + step);
    }
    check(p.runs_of(1) == 1, "what was taken back does not cost a run");
    p.keep(1, 0);
    check(p.add({ 1 })[0] == 0, "and a sequence without cells begins anew");
}

static void test_one() {
    pool p(8*run);
    p.add(std::vector<llama_seq_id>(200, 0));
    for (uint32_t i = 0; i < 200; ++i) {
        check(p.held[0][i] == i, "alone a sequence has cells in a row");
    }
}

// However long it is, a window takes the pages that its cells fill, of whatever size they are.
static void test_windows() {
    for (const uint32_t n_at_once : { 1, 7, 32 }) {
        for (const uint32_t page : { 8, 32, 61 }) {
            pool         p(16*run);
            const size_t n_most = 4 + 65 + n_at_once;
            for (int step = 0; step < 500; ++step) {
                p.forget(0, 4, 65);
                p.add(std::vector<llama_seq_id>(n_at_once, 0));
                check(p.parts_of(0, page) <= (n_most + page - 1)/page, "alone a window has no more pages than it fills");
            }
            p.forget(0, 4, 65);
            for (int step = 0; step < 500; ++step) {
                p.add({ 0 });
                p.forget(0, 4, 65);
            }
            check(p.runs_of(0) == 2, "and fewer when fewer tokens come at a time");
        }
    }
    pool p(16*run);
    for (int step = 0; step < 500; ++step) {
        p.add({ 0, 1, 2 });
        for (const llama_seq_id seq_id : { 0, 1, 2 }) {
            p.forget(seq_id, 4, 65);
            check(p.runs_of(seq_id) <= 2, "nor beside others");
        }
    }
}

// A sequence that begins with the cells of another has its own behind them, if nobody else has.
static void test_shared() {
    pool p(8*run);
    p.add(std::vector<llama_seq_id>(10, 0));
    p.share(0, 10, { 1, 2 });
    check(p.add({ 1, 2, 1, 2 }) == std::vector<uint32_t>({ 10, run, 11, run + 1 }), "the others have runs of their own");
}

// However short what sequences add to a common beginning is, and however many keys a page holds, little of their pages is free.
static void test_short_ones() {
    for (const cell_bytes bytes : { cell_bytes{ 384, 4096 }, cell_bytes{ 204, 4096 }, cell_bytes{ 64, 4096 }, cell_bytes{ 1024, 4096 }, cell_bytes{ 1024, 2*1024*1024 } }) {
        for (const uint32_t n_own : { 1u, 6u, 12u, 19u, 40u }) {
            pool p(4096, { bytes });
            p.add(std::vector<llama_seq_id>(400, 0));
            std::vector<llama_seq_id> all(32);
            std::iota(all.begin(), all.end(), 0);
            p.share(0, 400, { all.begin() + 1, all.end() });
            for (const llama_seq_id seq_id : all) {
                p.add(std::vector<llama_seq_id>(n_own, seq_id));
            }
            const size_t most = (400 + all.size()*n_own)*bytes.of_cell*33/32/bytes.of_page + 1;
            check(p.pages_of(all, bytes) <= most,
                    "cells of " + std::to_string(bytes.of_cell) + " bytes, " + std::to_string(n_own) + " each: " +
                    std::to_string(p.pages_of(all, bytes)) + " pages of " + std::to_string(bytes.of_page) + ", at most " + std::to_string(most));
            for (uint32_t step = 0; step < 8; ++step) { // their answers, side by side
                p.add(all);
            }
            const size_t most_then = (400 + all.size()*(n_own + 8))*bytes.of_cell*33/32/bytes.of_page + 1;
            check(p.pages_of(all, bytes) <= most_then, "nor while they answer: " + std::to_string(p.pages_of(all, bytes)) + " pages");
            for (const llama_seq_id seq_id : all) {
                p.keep(seq_id, 400);
            }
            for (const llama_seq_id seq_id : all) {
                p.add(std::vector<llama_seq_id>(n_own, seq_id));
            }
            for (const llama_seq_id seq_id : { 5, 9, 17 }) {
                p.keep(seq_id, 400);
            }
            for (const llama_seq_id seq_id : { 5, 9, 17 }) {
                p.add(std::vector<llama_seq_id>(n_own, seq_id));
            }
            check(p.pages_of(all, bytes) <= most, "nor is it after some have gone and others come");
        }
    }
}

// But what is long comes back when it ends.
static void test_long_ones() {
    const cell_bytes bytes = { 384, 4096 };
    pool             p(8192, { bytes });
    p.add(std::vector<llama_seq_id>(100, 0));
    p.share(0, 100, { 1, 2, 3, 4, 5, 6, 7 });
    for (int step = 0; step < 600; ++step) {
        p.add({ 0, 1, 2, 3, 4, 5, 6, 7 });
    }
    const size_t before = p.pages_of({ 0, 1, 2, 3, 4, 5, 6, 7 }, bytes);
    p.keep(3, 0);
    const size_t given_back = before - p.pages_of({ 0, 1, 2, 4, 5, 6, 7 }, bytes);
    check(given_back*4096 >= (600 - bytes.most_beside_others())*384, "all but its first cells: " + std::to_string(given_back) + " pages");
    p.share(0, 100, { 9 });
    for (int step = 0; step < 600; ++step) {
        p.add({ 9 });
    }
    check(p.pages_of({ 0, 1, 2, 4, 5, 6, 7, 9 }, bytes)*4096 <= (100 + 8*600)*384*33/32 + 4096, "and the next one leaves little free");
}

static void test_full(cell_bytes bytes) {
    std::mt19937 random(1);
    pool         p(4*run, { bytes }); // fewer runs than sequences
    for (int step = 0; step < 2000; ++step) {
        std::vector<llama_seq_id> seq_ids;
        const uint32_t            n_free = p.cells.size() - p.cells.get_used();
        for (uint32_t i = 0; i < std::min<uint32_t>(n_free, 1 + random()%24); ++i) {
            seq_ids.push_back((llama_seq_id) (random()%8));
        }
        if (!seq_ids.empty()) {
            p.add(seq_ids);
        }
        if (n_free < 24 || random()%4 == 0) {
            const auto seq_id = (llama_seq_id) (random()%8);
            p.keep(seq_id, random()%(p.held[seq_id].size() + 1));
        }
    }
}

// Transposed values of many cells share a page, the keys of few do: memory that is short is spared in both.
static void test_two_kinds() {
    const cell_bytes values = { 4, 4096 }, keys = { 256, 4096 };
    pool             p(1024, { values, keys });
    p.add(std::vector<llama_seq_id>(48, 0)); // three pages of keys
    p.add(std::vector<llama_seq_id>(8, 1));
    p.places.spares_pages = true;
    p.add(std::vector<llama_seq_id>(8, 0));
    check(p.pages_of({ 0, 1 }, keys) == 4, "what is free on the page of another: " + std::to_string(p.pages_of({ 0, 1 }, keys)) + " pages");
    p.add(std::vector<llama_seq_id>(8, 0));
    check(p.pages_of({ 0, 1 }, keys) == 5 && p.pages_of({ 0, 1 }, values) == 1, "and a new one of keys alone when there is none");
}

int main() {
    check(placement(64*1024, { { 1, 11 } }).run() == 64, "runs of what attention looks at");
    check(placement(64*1024, { { 1, 200 } }).run() == 256, "or what fills a page");
    check(placement(64*1024, { { 1, 100000 } }).run() == 1024, "but not so few that sequences have none");
    check(placement(100, { { 1, 100000 } }).run() == 64, "in a small pool neither");
    test_runs({});
    test_runs({ 384, 4096 });
    test_drafts();
    test_one();
    test_windows();
    test_shared();
    test_short_ones();
    test_long_ones();
    test_two_kinds();
    test_full({});
    test_full({ 384, 4096 });
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed ? 1 : 0;
}
