// Files of KV state that were damaged or made on purpose: each is refused or does no harm, and the engine goes on.

#include "kvfold_test.h"

#define XXH_INLINE_ALL
#include "hash/xxhash/xxhash.h"

#include <cstring>
#include <limits>
#include <random>

using namespace kvfold_test;

static const std::string path = "hostile.kvstate";

static const int rounds = 1500;

// As head, fit and tokens lie in the file, see kv/state/file.cpp.
static constexpr size_t head_bytes = 32;

static uint32_t number_at(const std::string & file, size_t at) {
    uint32_t number;
    memcpy(&number, file.data() + at, sizeof(number));
    return number;
}

static void set_number(std::string & file, size_t at, uint32_t number) {
    memcpy(&file[at], &number, sizeof(number));
}

static size_t tokens_at(const std::string & file) {
    return head_bytes + number_at(file, 12);
}

static size_t cells_at(const std::string & file) {
    return tokens_at(file) + 4 * (size_t) number_at(file, 16);
}

// With a good checksum, as somebody who means harm would make it.
static void write_sealed(std::string file) {
    const uint64_t checksum = XXH3_64bits(file.data(), file.size() - sizeof(uint64_t));
    memcpy(&file[file.size() - sizeof(checksum)], &checksum, sizeof(checksum));
    write_file(path, file);
}

static const char * const story = "the quick brown fox jumps over the lazy dog and the dog does not mind, because it is as lazy as "
                                  "it was yesterday and will be tomorrow";

static answer ask(const engine & e, const json & state, const char * prompt = story) {
    const json       body   = { { "prompt", prompt }, { "n_predict", 3 }, { "temperature", 0 } };
    kvfold_request * handle = nullptr;
    answer           a      = call([&](char ** out) {
        return kvfold_request_open_state(e.handle, "/completion", body.dump().c_str(), state.dump().c_str(), &handle, out);
    });
    answer           last   = a;
    while (a.status == KVFOLD_OK) {
        a = call([&](char ** out) { return kvfold_request_next(handle, out); });
        if (a.status != KVFOLD_DONE) {
            last = a;
        }
    }
    kvfold_request_close(handle);
    return last;
}

static json strictly_loading() {
    return { { "load", path }, { "strict", true } };
}

static void refuses(const engine & e, const std::string & file, const std::string & why) {
    write_sealed(file);
    const answer a = ask(e, strictly_loading());
    CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_STATE);
    if (!a.mentions(why)) {
        failures++;
        fprintf(stderr, "expected \"%s\" in %s\n", why.c_str(), a.text.c_str());
    }
}

// With automatic retention, between the slot and the cells: hash of the plan, sequences, whether it is decided, tokens that
// decided, a byte for each of the two layers.
static constexpr size_t retention_bytes = 8 + 4 + 4 + 4 + 2;

static void refuses_lazy_layers_that_cannot_be(const engine & e, const std::string & good, bool none_may_be) {
    const size_t at   = cells_at(good) + 8 + 8;
    const auto   with = [&](size_t where, uint32_t number) {
        std::string file = good;
        set_number(file, where, number);
        return file;
    };
    const uint32_t decided = number_at(good, at + 8);
    CHECK_EQUAL(number_at(good, at), 1u);
    CHECK(decided > 0 && good[at + 12] + good[at + 13] > 0);
    refuses(e, with(at, 0), "0 sequences with lazy layers");
    refuses(e, with(at, 0xffffffff), "sequences with lazy layers");
    refuses(e, with(at + 4, 2), "neither that its lazy layers are decided");
    refuses(e, with(at + 8, 0), "0 tokens decided");
    refuses(e, with(at + 8, (uint32_t) -1), "-1 tokens decided");
    refuses(e, with(at + 8, number_at(good, 16) + 1), "tokens decided its lazy layers");
    for (const size_t layer : { 0, 1 }) {
        std::string file = good;
        file[at + 12 + layer] = 2;
        refuses(e, file, ("layer " + std::to_string(layer) + " is lazy").c_str());
    }
    std::string none = none_may_be ? with(at + 4, 0) : good; // by a threshold none may be lazy in the end
    none[at + 12] = none[at + 13] = 0;
    refuses(e, none, "tokens decided its lazy layers");
}

static void refuses_what_does_not_add_up(const engine & e, const std::string & good, bool has_plan, size_t retention) {
    const size_t tokens = tokens_at(good), cells = cells_at(good);
    const auto   with = [&](size_t at, uint32_t number) {
        std::string file = good;
        set_number(file, at, number);
        return file;
    };
    const uint32_t n = number_at(good, 16);

    refuses(e, with(0, 0), "no saved KV state");
    refuses(e, with(8, 2), "version 2");
    refuses(e, with(12, 0xffffffff), "damaged");
    refuses(e, with(16, 0xffffffff), "tokens but a slot holds");
    refuses(e, with(16, n + 1), "");
    refuses(e, with(20, 0xffffffff), "cut off");
    refuses(e, with(24, 0xffffffff), "cut off");
    refuses(e, with(28, 0xffffffff), "cut off");
    refuses(e, with(tokens, (uint32_t) -1), "token -1");
    refuses(e, with(tokens, 0x7fffffff), "token 2147483647");

    // magic, slot; hash of the plan; streams, cells; then position, sequences and sequence of each cell
    const size_t first = cells + 8 + retention + (has_plan ? 8 : 0) + 8;
    CHECK_EQUAL(number_at(good, first - 4), n);
    refuses(e, with(first - 8, 7), "7 streams");
    refuses(e, with(first - 4, 0), "");
    refuses(e, with(first - 4, 0xffffffff), "cells for");
    refuses(e, with(first - 4, n - 1), "cells for");
    refuses(e, with(first, n), "position");
    refuses(e, with(first, (uint32_t) -5), "position");
    refuses(e, with(first + 12, number_at(good, first)), "position"); // twice the same
    refuses(e, with(first + 4, 0), "0 sequences");
    refuses(e, with(first + 4, 0xffffffff), "sequences");

    const size_t layers = first + 12 * n + 4;
    refuses(e, with(layers, 0xffffffff), "layers");
    if (number_at(good, layers) > 0) { // else the other cache has them all
        refuses(e, with(layers + 4, 2), "type of a layer");
        refuses(e, with(layers + 8, 0xffffffff), "bytes in a row");
        refuses(e, with(layers + 12, 0xffffffff), "bytes in a row");
    }
    if (has_plan) {
        refuses(e, with(cells + 8, 1), "KV plan");
    }
}

// Whatever is changed, with a good checksum: an error or an answer.
static void survives_random_changes(const engine & e, const std::string & good) {
    std::mt19937 random(1);
    int          used = 0;
    for (int i = 0; i < rounds; i++) {
        std::string  file  = good;
        const size_t from  = i % 3 == 0 ? 0 : cells_at(good);
        const size_t range = i % 3 == 2 ? file.size() - 8 - from : std::min<size_t>(file.size() - 8 - from, 800);
        for (int n = 1 + random() % 3; n > 0; n--) {
            const size_t at = from + random() % range;
            switch (random() % 3) {
                case 0:  file[at] ^= (char) (1 << random() % 8); break;
                case 1:  file[at] = (char) 0xff; break;
                default: file[at] = 0; break;
            }
        }
        write_sealed(file);
        const answer a = ask(e, strictly_loading());
        CHECK(a.status == KVFOLD_OK || a.status == KVFOLD_ERROR_STATE);
        used += a.status == KVFOLD_OK;
        if (i % 50 == 0) {
            CHECK_EQUAL(ask(e, json::object(), "another prompt").status, (int) KVFOLD_OK);
        }
    }
    CHECK(used > 0 && used < rounds);
}

// Nothing forbids a cache that holds no numbers; what comes of it is no sense, and no crash.
static void survives_cells_that_are_no_numbers(const engine & e, const std::string & good) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (const size_t stride : { 4, 64, 4096 }) {
        std::string file = good;
        for (size_t at = cells_at(good) + file.size() % 64 + 600; at + 16 < file.size(); at += stride) {
            memcpy(&file[at], &nan, sizeof(nan));
        }
        write_sealed(file);
        const answer a = ask(e, strictly_loading());
        CHECK(a.status == KVFOLD_OK || a.status == KVFOLD_ERROR_STATE);
    }
}

// `decisive`: the whole prompt told which layers are lazy, so that the same prompt, of which one token is computed again,
// begins anew.
static void test_plan(const json & plan, bool windowed, bool automatic = false, bool decisive = false, size_t evicted_bytes = 0) {
    remove(path.c_str());
    const engine e({ { "model", tiny_model() }, { "ctx-size", 256 }, { "parallel", 1 }, { "threads", 1 }, { "kv-plan", plan } });
    CHECK(e.ok());
    const answer fresh = ask(e, { { "load", path }, { "save", path }, { "strict", true } });
    CHECK_EQUAL(fresh.status, (int) KVFOLD_OK);
    const std::string good = read_file(path);
    CHECK(good.size() > 500);

    ask(e, json::object(), "something else entirely");
    const answer again = ask(e, strictly_loading());
    CHECK_EQUAL(again.status, (int) KVFOLD_OK);
    CHECK_EQUAL(again.object().value("content", ""), fresh.object().value("content", "-"));
    CHECK_EQUAL(again.object()["timings"].value("cache_n", 0) > 50, !decisive);
    CHECK_EQUAL(number_at(good, 20) > 0, windowed && !decisive); // checkpoints

    refuses_what_does_not_add_up(e, good, !plan.is_null(), automatic ? retention_bytes : evicted_bytes);
    if (automatic) {
        refuses_lazy_layers_that_cannot_be(e, good, plan.get<std::string>().find("lazy=") != std::string::npos);
    }
    survives_random_changes(e, good);
    survives_cells_that_are_no_numbers(e, good);
    CHECK_EQUAL(ask(e, json::object()).object().value("content", ""), fresh.object().value("content", "-"));
}

// Between the slot and the cells: hash of the plan, how often tokens were evicted, the tokens that there were each time and where that
// prompt began, the cells that are left of them and rows in each of the two layers.
static void test_eviction() {
    remove(path.c_str());
    const engine e({ { "model", tiny_model() }, { "ctx-size", 256 }, { "parallel", 1 }, { "threads", 1 }, { "kv-plan", "standard;evict=knorm:20" } });
    const answer fresh = ask(e, { { "load", path }, { "save", path }, { "strict", true } });
    CHECK_EQUAL(fresh.status, (int) KVFOLD_OK);
    const std::string good = read_file(path);
    const size_t      at   = cells_at(good) + 8 + 8;
    const auto        with = [&](size_t where, uint32_t number) {
        std::string file = good;
        set_number(file, where, number);
        return file;
    };
    const uint32_t n_tokens = number_at(good, 16), n_prompt = number_at(good, at + 4);
    CHECK_EQUAL(number_at(good, at), 1u);
    CHECK(n_prompt > 50 && n_prompt <= n_tokens);
    for (const size_t number : { 12, 16, 20 }) {
        CHECK_EQUAL(number_at(good, at + number), 20u);
    }
    refuses(e, with(at, 0), "");
    refuses(e, with(at, 2), "");
    refuses(e, with(at, 0xffffffff), "");
    refuses(e, with(at + 4, 0), "evicted at 0 tokens");
    refuses(e, with(at + 4, 0xffffffff), "evicted at 4294967295 tokens");
    refuses(e, with(at + 4, n_tokens + 1), "evicted at " + std::to_string(n_tokens + 1) + " of " + std::to_string(n_tokens));
    refuses(e, with(at + 4, n_prompt - 1), "cells for");
    refuses(e, with(at + 8, n_prompt), "from " + std::to_string(n_prompt) + " on");
    refuses(e, with(at + 8, 0xffffffff), "from 4294967295 on");
    refuses(e, with(at + 12, 0), "0 cells are left");
    refuses(e, with(at + 12, 21), "21 cells are left");
    refuses(e, with(at + 16, 21), "20 cells are left");
    refuses(e, with(at + 16, 0xffffffff), "20 cells are left");
    survives_random_changes(e, good);
    survives_cells_that_are_no_numbers(e, good);
    CHECK_EQUAL(ask(e, json::object()).object().value("content", ""), fresh.object().value("content", "-"));
}

static void checks_its_arguments(const engine & e) {
    const auto open = [&](const char * route, const char * state) {
        kvfold_request * handle = nullptr;
        const answer     a      = call([&](char ** out) { return kvfold_request_open_state(e.handle, route, "{}", state, &handle, out); });
        CHECK(handle == nullptr);
        return a;
    };
    CHECK(open("/completion", "{\"file\": \"x\"}").mentions("no \\\"file\\\""));
    CHECK(open("/completion", "{\"load\": 3}").mentions("cannot be 3"));
    CHECK(open("/completion", "[]").status == KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK(open("/completion", nullptr).mentions("state is NULL"));
    CHECK(open("/tokenize", "{\"load\": \"x\"}").mentions("/tokenize"));
}

static void says_what_cannot_be_written(const engine & e) {
    const answer a = ask(e, { { "save", "no/such/folder/state" }, { "strict", true } });
    CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_STATE);
    CHECK(a.mentions("no/such/folder/state"));
    CHECK_EQUAL(ask(e, { { "save", "no/such/folder/state" } }).status, (int) KVFOLD_OK);
    write_file("is-no-file", "");
    CHECK(ask(e, { { "load", "." }, { "strict", true } }).mentions("cannot be read"));
}

// Behind the number of cells and the rows of each layer: the number of layers with votes, of heads, of rows.
static void test_votes() {
    remove(path.c_str());
    const engine e({ { "model", tiny_model() }, { "ctx-size", 256 }, { "parallel", 1 }, { "threads", 1 }, { "kv-plan", "standard;evict=h2o:20;answer=8" } });
    const answer fresh = ask(e, { { "load", path }, { "save", path }, { "strict", true } });
    CHECK_EQUAL(fresh.status, (int) KVFOLD_OK);
    const std::string good = read_file(path);
    const size_t      from = cells_at(good) + 8 + 8;
    const uint32_t    n    = number_at(good, from); // points
    CHECK(n > 1);
    size_t at = from + 4 + 8*n + 4;
    while (number_at(good, at) == 20) {
        at += 4; // a layer
    }
    const auto with = [&](size_t where, uint32_t number) {
        std::string file = good;
        set_number(file, where, number);
        return file;
    };
    const size_t n_layers = (at - from - 4 - 8*n - 4)/4;
    CHECK_EQUAL((size_t) number_at(good, at), n_layers);
    refuses(e, with(at, (uint32_t) n_layers + 1), "layers with votes");
    refuses(e, with(at, 0xffffffff), "layers with votes");
    refuses(e, with(at + 4, 0), "");
    refuses(e, with(at + 4, 0xffffffff), "");
    refuses(e, with(at + 8, 0xffffffff), "votes for 4294967295 rows");
    survives_random_changes(e, good);
    survives_cells_that_are_no_numbers(e, good);
    CHECK_EQUAL(ask(e, json::object()).object().value("content", ""), fresh.object().value("content", "-"));
}

// Of marks, or beside the ends of prompts.
static void test_other_votes(const char * plan) {
    remove(path.c_str());
    const engine e({ { "model", tiny_model() }, { "ctx-size", 256 }, { "parallel", 1 }, { "threads", 1 }, { "kv-plan", plan } });
    const answer fresh = ask(e, { { "load", path }, { "save", path }, { "strict", true } });
    CHECK_EQUAL(fresh.status, (int) KVFOLD_OK);
    survives_random_changes(e, read_file(path));
    survives_cells_that_are_no_numbers(e, read_file(path));
    CHECK_EQUAL(ask(e, json::object()).object().value("content", ""), fresh.object().value("content", "-"));
}

int main() {
    test_plan(nullptr, false);
    test_plan("1_1", false);           // layer 0 reads upward
    test_plan("0s_1;window=32", true); // one layer forgets
    test_plan("0s_1;window=32;sinks=4", true);
    test_plan("0s_1s;window=32;sinks=4", true); // every layer forgets
    for (const char * decide : { "early", "end", "decode" }) {
        test_plan(std::string("standard;window=32;sinks=4;full=1;queries=8;decide=") + decide, true, true, decide[1] != 'a');
    }
    test_plan("0_0;window=32;sinks=4;lazy=0", true, true);
    test_plan("standard;evict=knorm:200", false, false, false, 8 + 4); // more than there are
    test_eviction();
    test_votes();
    test_other_votes("standard;evict=keyformer:20;answer=8");
    test_other_votes("standard;evict=corm:30;queries=8;newest=8;answer=8");
    const engine e({ { "model", tiny_model() }, { "ctx-size", 256 }, { "parallel", 1 }, { "threads", 1 } });
    checks_its_arguments(e);
    says_what_cannot_be_written(e);
    return report();
}
