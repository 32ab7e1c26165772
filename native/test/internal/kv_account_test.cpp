// What an engine's keys and values take: the cap of the budget, context checkpoints, a shift of the context, defaults.

#include "../kvfold_test.h"
#include "kv_test_model.h"

#include "kv/memory/host_pages.h"
#include "kv/memory/pages.h"

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include <sys/resource.h>
#include <unistd.h>

using namespace kvfold_test;

struct counted_pages : kvfold::page_driver {
    std::atomic<int64_t> now{ 0 }, most{ 0 };

    size_t page_size() const override { return 4096; }

    bool commit(void *, size_t size) override {
        now += (int64_t) (size/page_size());
        most = std::max(most.load(), now.load());
        return true;
    }

    bool release(void * data, size_t size) override {
        memset(data, 0, size);
        now -= (int64_t) (size/page_size());
        return true;
    }
};

struct model_file {
    std::string path = (std::filesystem::temp_directory_path() / ("kvfold-account-" + std::to_string(std::random_device{}()) + ".gguf")).string();

    explicit model_file(const kv_test_model & spec) { spec.write(path); }
    ~model_file() { std::filesystem::remove(path); }
};

static json with(json options, const std::string & name, const json & value) {
    options[name] = value;
    return options;
}

static json prompt(int n_tokens, int n_predict, int seed = 0) {
    json body = { { "n_predict", n_predict }, { "temperature", 0 }, { "ignore_eos", true } };
    for (int i = 0; i < n_tokens; i++) {
        body["prompt"].push_back(10 + (i + seed) % 100);
    }
    return body;
}

static int64_t total(const json & stats) {
    int64_t bytes = 0;
    for (const auto & [_, each] : stats.at("ledger").items()) {
        bytes += each.get<int64_t>();
    }
    return bytes;
}

static void a_shift_rewrites_the_used_cells_only() {
    counted_pages pages;
    kvfold::set_page_driver(&pages);
    {
        // a pool of 8192 cells, 256 pages, of which a request may use 512
        engine e({ { "model", tiny_model() }, { "ctx-size", 8192 }, { "kv-unified-per-slot", 512 }, { "parallel", 1 }, { "threads", 1 }, { "context-shift", true } });
        CHECK(e.ok());
        answer     last;
        const json chunk = run(e, "/completion", prompt(500, 300), &last);
        CHECK_EQUAL(last.text, std::string());
        CHECK_EQUAL(chunk.is_null() ? 0 : chunk.value("tokens_predicted", 0), 300);
        CHECK(pages.most > 8 && pages.most < 40);
    }
    kvfold::set_page_driver(nullptr);
}

static void a_shift_of_quantised_keys_that_are_not_rotated() {
    kv_test_model spec;
    spec.n_layer = 2, spec.n_embd = 192, spec.n_head = spec.n_head_kv = 2; // heads of 96, no multiple of 64
    const model_file file(spec);
    const engine     e({ { "model", file.path }, { "ctx-size", 256 }, { "parallel", 1 }, { "threads", 1 }, { "context-shift", true },
                         { "cache-type-k", "q8_0" }, { "flash-attn", "on" } });
    CHECK(e.ok());
    answer     last;
    const json chunk = run(e, "/completion", prompt(200, 200), &last);
    CHECK_EQUAL(last.text, std::string());
    CHECK_EQUAL(chunk.is_null() ? 0 : chunk.value("tokens_predicted", 0), 200);
}

static json windows() {
    return { { "model", tiny_model() }, { "parallel", 2 }, { "threads", 1 }, { "kv-plan", "streaming:64" }, { "ubatch-size", 64 } };
}

static void checkpoints_are_two_for_each_slot_and_count() {
    engine e(windows());
    CHECK(e.ok());
    int64_t of_one = 0;
    for (int turn = 0; turn < 12; turn++) {
        CHECK(!run(e, "/completion", with(prompt(100 + 30*turn, 4), "id_slot", 0)).is_null());
        const json    stats = e.stats();
        const int64_t bytes = stats.at("ledger").at("checkpoints");
        of_one = std::max(of_one, turn == 0 ? bytes : of_one);
        CHECK(bytes > 0);
        CHECK(bytes <= 4*of_one); // two of a full window each
        CHECK_EQUAL(stats.at("ledger").at("pages").get<int64_t>(), stats.at("bytes_committed").get<int64_t>());
    }
    // an answer to a prompt that keeps nothing has none
    const json last = prompt(100, 4);
    run(e, "/completion", with(with(last, "id_slot", 0), "cache_prompt", false));
    CHECK_EQUAL(e.stats().at("ledger").at("checkpoints").get<int64_t>(), (int64_t) 0);
    CHECK_EQUAL(total(e.stats()), (int64_t) 0);

    engine without(with(windows(), "ctx-checkpoints", 0));
    run(without, "/completion", prompt(300, 4));
    CHECK_EQUAL(without.stats().at("ledger").at("checkpoints").get<int64_t>(), (int64_t) 0);
}

static void further_answers_have_no_checkpoints_of_their_own() {
    engine e(windows());
    run(e, "/completion", prompt(300, 4));
    const int64_t of_one = e.stats().at("ledger").at("checkpoints");
    CHECK(of_one > 0);
    engine two(windows());
    CHECK(!run(two, "/completion", with(prompt(300, 4), "n_cmpl", 2)).is_null());
    CHECK(two.stats().at("ledger").at("checkpoints").get<int64_t>() <= of_one);
}

// They are made where there is room, and go before cells lack memory.
static void checkpoints_give_way_to_cells() {
    engine free(with(windows(), "parallel", 1));
    const json expected = run(free, "/completion", prompt(400, 40)).at("content");
    const json stats    = free.stats();
    const auto pages    = stats.at("ledger").at("pages").get<int64_t>();
    CHECK(stats.at("ledger").at("checkpoints").get<int64_t>() > 0);

    engine tight(with(with(windows(), "parallel", 1), "kv-budget", pages + 4096));
    CHECK(tight.ok());
    answer     last;
    const json chunk = run(tight, "/completion", prompt(400, 40), &last);
    CHECK_EQUAL(last.text, std::string());
    CHECK_EQUAL(chunk.is_null() ? json() : chunk.at("content"), expected);
    CHECK(total(tight.stats()) <= pages + 4096);
}

static int64_t resident() {
    std::ifstream statm("/proc/self/statm");
    int64_t       all = 0, resident = 0;
    statm >> all >> resident;
    return resident*sysconf(_SC_PAGESIZE);
}

// Thirty turns of one chat, each with all that was said before: what the process grows by is in the ledger.
static void a_chat_takes_what_the_ledger_says() {
    kv_test_model spec; // 16 KiB for each token
    spec.n_layer = 8, spec.n_embd = 512, spec.n_head = spec.n_head_kv = 8, spec.n_ctx = 8192;
    const model_file file(spec);
    const engine     e({ { "model", file.path }, { "parallel", 1 }, { "threads", 2 }, { "kv-plan", "streaming:256" } });
    CHECK(e.ok());
    int64_t first_rss = 0, first_total = 0;
    for (int turn = 1; turn <= 30; turn++) {
        CHECK(!run(e, "/completion", prompt(80*turn, 16)).is_null());
        const int64_t rss = resident(), held = total(e.stats());
        if (turn == 5) { // compute buffers have been used, and the window is full
            first_rss   = rss;
            first_total = held;
        }
        if (turn == 30) {
            const int64_t beside = (rss - first_rss) - (held - first_total);
            printf("30 turns under streaming:256: ledger %.1f MiB (checkpoints %.1f), grown beside it by %.1f MiB since the fifth\n",
                   held/1048576.0, e.stats().at("ledger").at("checkpoints").get<double>()/1048576.0, beside/1048576.0);
            CHECK(beside < 8 << 20);
        }
    }
}

// Four requests of which the pool holds one: with a budget they wait for each other, also where it is larger than the pool.
static void a_budget_beyond_the_pool_still_makes_requests_wait() {
    const engine e({ { "model", tiny_model() }, { "ctx-size", 512 }, { "kv-unified-per-slot", 512 }, { "parallel", 4 }, { "threads", 1 }, { "kv-budget", 1 << 30 } });
    CHECK(e.ok());
    std::vector<request> all;
    for (int i = 0; i < 4; i++) {
        all.emplace_back(e, "/completion", prompt(100, 220, i));
    }
    for (const request & each : all) {
        answer     last;
        const auto chunks = each.drain(&last);
        CHECK_EQUAL(last.text, std::string());
        CHECK_EQUAL(chunks.empty() ? 0 : chunks.back().value("tokens_predicted", 0), 220);
    }
}

// Nothing estimates what an evaluation takes, so this is the cap alone.
static void the_budget_is_a_cap() {
    engine               e({ { "model", tiny_model() }, { "parallel", 1 }, { "threads", 1 }, { "kv-budget", 32768 } });
    std::vector<int32_t> tokens(500, 12);
    std::vector<float>   logits(tokens.size()*320);
    const auto           evaluate = [&](int n) {
        return call([&](char ** out) { return kvfold_evaluate(e.handle, tokens.data(), n, logits.data(), logits.size(), out); });
    };
    CHECK_EQUAL(evaluate(100).status, (int) KVFOLD_OK);
    const answer a = evaluate(500);
    CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_BUDGET_EXCEEDED);
    CHECK(a.mentions("kv-budget"));
    CHECK_EQUAL(a.object().value("limit", (int64_t) 0), (int64_t) 32768);
    CHECK(a.object().value("value", (int64_t) 0) > 32768);
    CHECK_EQUAL(total(e.stats()), (int64_t) 0);
}

static void opens_a_long_context_without_an_option() {
    kv_test_model spec;
    spec.n_layer = 4, spec.n_embd = 256, spec.n_head = spec.n_head_kv = 8, spec.n_ctx = 131072;
    const model_file file(spec);
    const engine     e({ { "model", file.path }, { "threads", 1 } });
    CHECK(e.ok());
    const json context = e.opened.object().at("context");
    CHECK_EQUAL(context.at("kv_unified").get<bool>(), true);
    CHECK_EQUAL(context.at("slots").get<int>(), 4);
    CHECK_EQUAL(context.at("size_per_slot").get<int>(), 131072);
    CHECK(e.stats().at("bytes_budget").get<int64_t>() > 0);
    CHECK(!run(e, "/completion", prompt(20, 4)).is_null());
}

static void contexts_are_of_one_request() {
    for (const bool unified : { true, false }) {
        const engine e({ { "model", tiny_model() }, { "threads", 1 }, { "ctx-size", 300 }, { "parallel", 3 }, { "kv-unified", unified } });
        CHECK(e.ok());
        const json context = e.opened.object().at("context");
        CHECK_EQUAL(context.at("size_per_slot").get<int>(), 300);
        CHECK_EQUAL(context.at("size").get<int>(), unified ? 1024 : 3*512);
        answer last;
        run(e, "/completion", prompt(301, 1), &last);
        CHECK_EQUAL(last.status, (int) KVFOLD_ERROR_CONTEXT_EXCEEDED);
        CHECK_EQUAL(last.object().value("limit", 0), 300);
        CHECK_EQUAL(run(e, "/completion", prompt(200, 90)).value("tokens_predicted", 0), 90);
    }
}

// More addresses than this process may have are never asked for, and a budget for three requests serves forty.
static int limited_child() {
    std::ifstream statm("/proc/self/statm");
    uint64_t      n_pages = 0;
    statm >> n_pages;
    rlimit limit{};
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = n_pages*(uint64_t) sysconf(_SC_PAGESIZE) + (uint64_t(600) << 20);
    setrlimit(RLIMIT_AS, &limit);

    const engine e({ { "model", tiny_model() }, { "threads", 1 }, { "memory-reserve", 32 << 20 }, { "kv-budget", 1 << 17 } });
    CHECK(e.ok());
    std::atomic<int>         n_whole{ 0 };
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; t++) {
        threads.emplace_back([&, t] {
            for (int i = 0; i < 5; i++) {
                n_whole += run(e, "/completion", prompt(50 + 10*t, 100, t*5 + i)).value("tokens_predicted", 0) == 100;
            }
        });
    }
    for (auto & thread : threads) {
        thread.join();
    }
    CHECK_EQUAL(n_whole.load(), 40);
    CHECK(total(e.stats()) <= 1 << 17);
    return report();
}

static void lives_within_a_limit(const std::string & self) {
    CHECK_EQUAL(std::system((self + " --limited").c_str()), 0);
}

int main(int argc, char ** argv) {
    if (argc > 1 && argv[1] == std::string("--limited")) {
        return limited_child();
    }
    lives_within_a_limit(argv[0]);
    a_shift_rewrites_the_used_cells_only();
    a_shift_of_quantised_keys_that_are_not_rotated();
    checkpoints_are_two_for_each_slot_and_count();
    further_answers_have_no_checkpoints_of_their_own();
    checkpoints_give_way_to_cells();
    a_chat_takes_what_the_ledger_says();
    a_budget_beyond_the_pool_still_makes_requests_wait();
    the_budget_is_a_cap();
    opens_a_long_context_without_an_option();
    contexts_are_of_one_request();
    return report();
}
