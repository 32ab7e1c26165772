// A process that may map few addresses (RLIMIT_AS) serves its requests one after the other: each needs a thread with a large stack.

#include "kvfold_test.h"

#include <chrono>
#include <thread>

#include <sys/resource.h>
#include <unistd.h>

using namespace kvfold_test;

static constexpr uint64_t MiB = uint64_t(1) << 20;

// Lets the process map that many more MiB while it lives.
struct few_addresses {
    rlimit before;

    explicit few_addresses(uint64_t more) {
        getrlimit(RLIMIT_AS, &before);
        uint64_t pages = 0;
        std::ifstream("/proc/self/statm") >> pages;
        rlimit limit   = before;
        limit.rlim_cur = pages*(uint64_t) sysconf(_SC_PAGESIZE) + more*MiB;
        setrlimit(RLIMIT_AS, &limit);
    }

    ~few_addresses() { setrlimit(RLIMIT_AS, &before); }
};

static json prompt(int n_predict) {
    return { { "prompt", "bada" }, { "n_predict", n_predict }, { "ignore_eos", true } };
}

static void requests_wait_for_a_thread(const engine & e, uint64_t more) {
    const few_addresses  limited(more);
    std::vector<request> together;
    for (int i = 0; i < 24; i++) {
        together.emplace_back(e, "/completion", prompt(20 + i));
        CHECK_EQUAL(together.back().opened.status, (int) KVFOLD_OK);
    }
    for (int i = 23; i >= 0; i--) { // those that wait first
        answer     last;
        const auto chunks = together[i].drain(&last);
        CHECK_EQUAL(last.status, (int) KVFOLD_DONE);
        CHECK(chunks.size() == 1 && chunks.front().at("tokens_predicted").get<int>() == 20 + i);
    }
}

static void one_that_waits_is_cancelled_at_once(const engine & e) {
    const few_addresses  limited(400);
    const request        running(e, "/completion", prompt(8000));
    const request        waiting(e, "/completion", prompt(2)), after(e, "/completion", prompt(2));
    std::thread          canceller([&] { waiting.cancel(); });
    const answer         a = waiting.next();
    canceller.join();
    CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_CANCELLED);
    CHECK_EQUAL(waiting.next().status, (int) KVFOLD_DONE);
    running.cancel();
    CHECK_EQUAL(after.next().status, (int) KVFOLD_OK);
    CHECK_EQUAL(e.stats().at("requests_waiting").get<int>(), 0);
}

static void an_engine_closes_while_requests_wait(json options) {
    engine               e(options);
    const few_addresses  limited(400);
    std::vector<request> together;
    for (int i = 0; i < 8; i++) {
        together.emplace_back(e, "/completion", prompt(8000));
    }
    const auto begin = std::chrono::steady_clock::now();
    e.close();
    CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(2));
    for (const request & each : together) {
        CHECK_EQUAL(each.next().status, (int) KVFOLD_ERROR_CLOSED);
    }
}

static void one_thread_that_cannot_be_had_is_an_error_with_both_numbers(const engine & e) {
    answer a;
    {
        const few_addresses limited(100);
        a = request(e, "/completion", prompt(2)).opened;
    }
    CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_OUT_OF_MEMORY);
    CHECK_EQUAL(a.object().value("value", uint64_t(0)), 256*MiB);
    const uint64_t limit = a.object().value("limit", uint64_t(0));
    CHECK(limit > 0 && limit <= 100*MiB);
    answer last;
    CHECK_EQUAL(request(e, "/completion", prompt(2)).drain(&last).size(), (size_t) 1); // and nothing of it stays
    CHECK_EQUAL(e.stats().at("requests_waiting").get<int>(), 0);
}

// The larger one that a graph needs; what there was is freed once.
static void memory_of_a_graph_that_cannot_be_had_fails_its_request_alone(json options) {
    options["flash-attn"]  = "off"; // up to 128 MiB for 2,048 tokens at a time
    options["ubatch-size"] = 2048;
    options["kv-budget"]   = 16384*MiB; // of which masks and products may take a twentieth
    options["parallel"]    = 1;
    engine     e(options);
    const json long_prompt = { { "prompt", std::vector<int>(8000, 5) }, { "n_predict", 1 } };
    CHECK(e.ok());
    answer last;
    {
        const few_addresses limited(300);
        request(e, "/completion", long_prompt).drain(&last);
    }
    CHECK(last.status < 0);
    CHECK_EQUAL(request(e, "/completion", long_prompt).drain(&last).size(), (size_t) 1);
    {
        engine            other(options);
        const few_addresses limited(300);
        request(other, "/completion", long_prompt).drain(&last);
        CHECK(last.status < 0);
    }
}

int main() {
    const json   options = { { "model", tiny_model() }, { "override-kv", "llama.context_length=int:8192" }, { "ctx-size", 8192 },
                             { "parallel", 4 }, { "threads", 1 } };
    const engine e(options);
    CHECK(e.ok());
    for (const uint64_t more : { 350, 900, 2000 }) {
        requests_wait_for_a_thread(e, more);
    }
    one_that_waits_is_cancelled_at_once(e);
    an_engine_closes_while_requests_wait(options);
    one_thread_that_cannot_be_had_is_an_error_with_both_numbers(e);
    memory_of_a_graph_that_cannot_be_had_fails_its_request_alone(options);
    return report();
}
