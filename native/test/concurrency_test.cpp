// Several threads, several engines, and closing while all of it runs.

#include "kvfold_test.h"

#include <atomic>
#include <filesystem>
#include <thread>

using namespace kvfold_test;

static json options(int slots) {
    return { { "model", tiny_model() }, { "ctx-size", 512 }, { "parallel", slots }, { "threads", 1 } };
}

static json prompt(int i, int n_predict) {
    return { { "prompt", "bada bida " + std::to_string(i) }, { "n_predict", n_predict }, { "temperature", 0 }, { "ignore_eos", true } };
}

static void in_threads(int n, const std::function<void(int)> & work) {
    std::vector<std::thread> threads;
    for (int i = 0; i < n; i++) {
        threads.emplace_back(work, i);
    }
    for (auto & thread : threads) {
        thread.join();
    }
}

static void answers_many_requests_through_few_slots() {
    std::vector<std::string> alone(16), together(16);
    {
        const engine e(options(1));
        for (int i = 0; i < 16; i++) {
            alone[i] = run(e, "/completion", prompt(i, 12)).at("content").get<std::string>();
        }
    }
    const engine e(options(4));
    in_threads(16, [&](int i) { together[i] = run(e, "/completion", prompt(i, 12)).at("content").get<std::string>(); });
    for (int i = 0; i < 16; i++) {
        CHECK_EQUAL(together[i], alone[i]);
    }
}

static void posts_every_request_when_it_is_opened() {
    const engine         e(options(2));
    std::vector<request> opened;
    for (int i = 0; i < 6; i++) {
        opened.emplace_back(e, "/completion", prompt(i, 6));
    }
    for (auto r = opened.rbegin(); r != opened.rend(); ++r) { // in the other order
        CHECK_EQUAL(r->next().status, (int) KVFOLD_OK);
        CHECK_EQUAL(r->next().status, (int) KVFOLD_DONE);
    }
}

static void runs_two_engines_side_by_side() {
    const engine a(options(1)), b(options(2));
    std::string  answers[2];
    in_threads(2, [&](int i) { answers[i] = run(i == 0 ? a : b, "/completion", prompt(7, 30)).at("content").get<std::string>(); });
    CHECK(!answers[0].empty());
    CHECK_EQUAL(answers[0], answers[1]);
}

static void opens_and_closes_engines_in_several_threads() {
    std::atomic<int> answered{ 0 };
    in_threads(4, [&](int i) {
        for (int n = 0; n < 5; n++) {
            const engine e(options(1 + i % 2));
            CHECK(e.ok());
            answered += run(e, "/completion", prompt(i, 3)).value("tokens_predicted", 0) == 3;
        }
    });
    CHECK_EQUAL(answered.load(), 20);
}

static void evaluates_while_requests_run() {
    const engine               e(options(2));
    const std::vector<int32_t> tokens = { 1, 300, 301, 302, 303 };
    std::vector<float>         alone;
    CHECK_EQUAL(evaluate(e, tokens, alone).status, (int) KVFOLD_OK);
    std::atomic<int>           equal{ 0 };
    in_threads(4, [&](int i) {
        if (i < 2) {
            CHECK_EQUAL(run(e, "/completion", prompt(i, 60)).at("tokens_predicted").get<int>(), 60);
            return;
        }
        for (int n = 0; n < 5; n++) {
            std::vector<float> again;
            equal += evaluate(e, tokens, again).status == KVFOLD_OK && again == alone;
        }
    });
    CHECK_EQUAL(equal.load(), 10);
}

static void closes_while_eight_threads_generate(int round) {
    engine           e(options(2));
    std::atomic<int> started{ 0 }, ended{ 0 };
    std::vector<std::thread> threads;
    kvfold_engine *  handle = e.handle;
    for (int i = 0; i < 8; i++) {
        threads.emplace_back([&, i] {
            json body      = prompt(i, 450);
            body["stream"] = i % 2 == 0;
            kvfold_request * r = nullptr;
            CHECK_EQUAL(kvfold_request_open(handle, "/completion", body.dump().c_str(), &r, nullptr), (int) KVFOLD_OK);
            started++;
            answer a;
            do {
                a = call([&](char ** out) { return kvfold_request_next(r, out); });
            } while (a.status == KVFOLD_OK);
            CHECK(a.status == KVFOLD_ERROR_CLOSED || a.status == KVFOLD_DONE);
            ended++;
            CHECK_EQUAL(kvfold_request_next(r, nullptr), (int) KVFOLD_DONE);
            kvfold_request_cancel(r);
            kvfold_request_close(r); // after the engine, or while it closes
        });
    }
    while (started < 8) {
        std::this_thread::yield();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(round % 8));
    e.close();
    for (auto & thread : threads) {
        thread.join();
    }
    CHECK_EQUAL(ended.load(), 8);
}

static void keeps_requests_valid_after_their_engine() {
    engine        e(options(1));
    const request untouched(e, "/completion", prompt(1, 400));
    const request half_read(e, "/completion", [] { json b = prompt(2, 400); b["stream"] = true; return b; }());
    const request direct(e, "/slots", json::object());
    e.close();
    CHECK_EQUAL(untouched.next().status, (int) KVFOLD_ERROR_CLOSED);
    CHECK_EQUAL(half_read.next().status, (int) KVFOLD_ERROR_CLOSED);
    CHECK_EQUAL(direct.next().status, (int) KVFOLD_ERROR_CLOSED);
    half_read.cancel();
    CHECK_EQUAL(half_read.next().status, (int) KVFOLD_DONE);
}

static size_t resident_bytes() {
    std::ifstream file("/proc/self/statm");
    size_t        total = 0, resident = 0;
    file >> total >> resident;
    return resident * 4096;
}

static void holds_memory_flat_over_many_engines() {
    size_t settled = 0;
    for (int i = 0; i < 200; i++) {
        const engine e(options(2));
        run(e, "/completion", prompt(i, 2));
        if (i == 20) {
            settled = resident_bytes();
        }
    }
    const size_t last = resident_bytes();
    fprintf(stderr, "resident after 20 engines: %zu KiB, after 200: %zu KiB\n", settled / 1024, last / 1024);
    CHECK(last <= settled + settled / 20);
}

// A strict save finds room beside a request that ends in the same step: that one runs no more, and is not idle yet.
static void makes_room_for_a_copy_where_another_ends(const std::string & plan) {
    const auto ids = [](int n) {
        json all = json::array();
        for (int i = 0; i < n; i++) {
            all.push_back(10 + (i*i + n) % 40);
        }
        return all;
    };
    const std::string path  = "copied.kvstate";
    json              given = options(2);
    given["kv-plan"]        = plan;
    const auto saves        = [&](const engine & e) {
        json body          = prompt(0, 1);
        body["prompt"]     = ids(119);
        const json   state = { { "save", path }, { "strict", true } };
        request      r(e, "/completion", body, state);
        answer       last;
        r.drain(&last);
        return last.status == KVFOLD_DONE;
    };
    int64_t too_few = 0, least = 1 << 20; // bytes for one that is alone
    while (least - too_few > 512) {
        given["kv-budget"] = (too_few + least)/2;
        const engine e(given);
        (e.ok() && saves(e) ? least : too_few) = (too_few + least)/2;
    }
    for (int i = 0; i < 16; i++) {
        given["kv-budget"] = least + 512*i;
        const engine e(given);
        in_threads(2, [&](int k) {
            json body      = prompt(0, 2);
            body["prompt"] = ids(23);
            if (k == 0) {
                CHECK_EQUAL(run(e, "/completion", body).value("tokens_predicted", 0), 2);
            } else {
                CHECK(saves(e));
            }
        });
    }
    std::filesystem::remove(path);
}

int main() {
    answers_many_requests_through_few_slots();
    posts_every_request_when_it_is_opened();
    runs_two_engines_side_by_side();
    opens_and_closes_engines_in_several_threads();
    evaluates_while_requests_run();
    for (int round = 0; round < 24; round++) {
        closes_while_eight_threads_generate(round);
    }
    keeps_requests_valid_after_their_engine();
    holds_memory_flat_over_many_engines();
    for (const char * plan : { "standard", "cla:2", "lighttransfer:1;window=32;decide=end" }) {
        makes_room_for_a_copy_where_another_ends(plan);
    }
    return report();
}
