// An engine whose system has no memory for more keys and values: requests end with what was asked for and what is there,
// and the engine goes on. And context shift, where positions cannot change.

#include "../kvfold_test.h"

#include "kv/memory/host_pages.h"
#include "kv/memory/pages.h"

#include <atomic>
#include <cstring>

using namespace kvfold_test;

struct limited_pages : kvfold::page_driver {
    std::atomic<int64_t> left{ INT64_MAX/2 };

    size_t page_size() const override { return 4096; }

    bool commit(void *, size_t size) override {
        const auto n = (int64_t) (size/page_size());
        if (n > left) {
            return false;
        }
        left -= n;
        return true;
    }

    bool release(void * data, size_t size) override {
        memset(data, 0, size);
        left += (int64_t) (size/page_size());
        return true;
    }
};

static json with(json options, const std::string & name, const json & value) {
    options[name] = value;
    return options;
}

static json small() {
    return { { "model", tiny_model() }, { "ctx-size", 512 }, { "parallel", 2 }, { "threads", 1 }, { "cache-ram", 0 } };
}

static json prompt(int n_tokens, int n_predict) {
    json body = { { "n_predict", n_predict }, { "temperature", 0 }, { "ignore_eos", true }, { "cache_prompt", false } };
    for (int i = 0; i < n_tokens; i++) {
        body["prompt"].push_back(10 + i % 200);
    }
    return body;
}

static void expect_refusal(const answer & a, const char * what) {
    CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_OUT_OF_MEMORY);
    CHECK(a.mentions("the system gives no memory for more keys and values: "));
    CHECK(a.mentions("kv-budget"));
    const json error = a.object();
    if (!error.contains("value") || !error.contains("limit") || error.at("value") <= error.at("limit")) {
        failures++;
        fprintf(stderr, "%s: no bytes in %s\n", what, a.text.c_str());
    }
}

static void a_prompt_without_memory_is_refused_and_the_next_is_not(limited_pages & pages, const json & options) {
    kvfold::set_page_driver(&pages);
    engine e(options);
    CHECK(e.ok());
    const json expected = run(e, "/completion", prompt(300, 8)).at("content");

    CHECK_EQUAL(e.stats().at("bytes_committed").get<int>(), 0);

    answer last;
    pages.left = 3;
    run(e, "/completion", prompt(300, 8), &last);
    expect_refusal(last, "a prompt");
    CHECK_EQUAL(e.stats().at("cells_used").get<int>(), 0);

    answer streamed;
    request(e, "/completion", with(prompt(300, 8), "stream", true)).drain(&streamed);
    expect_refusal(streamed, "a streamed one");

    pages.left = INT64_MAX/2;
    CHECK_EQUAL(run(e, "/completion", prompt(300, 8)).at("content"), expected);

    // more than the context holds is still what it was
    run(e, "/completion", prompt(3000, 8), &last);
    CHECK_EQUAL(last.status, (int) KVFOLD_ERROR_CONTEXT_EXCEEDED);
    kvfold::set_page_driver(nullptr);
}

static void an_answer_without_memory_ends_and_says_so(limited_pages & pages) {
    kvfold::set_page_driver(&pages);
    engine e(small());
    const request r(e, "/completion", with(prompt(20, 480), "stream", true));
    CHECK_EQUAL(r.next().status, (int) KVFOLD_OK);
    pages.left = 1;
    answer last;
    r.drain(&last);
    expect_refusal(last, "an answer");
    pages.left = INT64_MAX/2;
    CHECK(!run(e, "/completion", prompt(20, 4)).is_null());
    kvfold::set_page_driver(nullptr);
}

static void an_evaluation_without_memory_is_refused(limited_pages & pages) {
    kvfold::set_page_driver(&pages);
    const engine               e(small());
    const std::vector<int32_t> tokens(600, 12);
    std::vector<float>         logits;
    CHECK_EQUAL(evaluate(e, tokens, logits).status, (int) KVFOLD_OK);
    pages.left = 2;
    expect_refusal(evaluate(e, tokens, logits), "an evaluation");
    pages.left = INT64_MAX/2;
    CHECK_EQUAL(evaluate(e, tokens, logits).status, (int) KVFOLD_OK);
    kvfold::set_page_driver(nullptr);
}

static void context_shift_needs_positions_that_can_change() {
    for (const char * plan : { "0_1s;window=64;sinks=4", "simlayerkv:0.9", "lighttransfer:1", "streaming:64" }) {
        const engine e(with(with(small(), "kv-plan", plan), "context-shift", true));
        CHECK_EQUAL(e.opened.status, (int) KVFOLD_ERROR_UNSUPPORTED);
        CHECK(e.opened.mentions("context-shift"));
    }
    const engine e(with(with(with(small(), "parallel", 1), "ctx-size", 512), "context-shift", true));
    CHECK(e.ok());
    answer     last;
    const json chunk = run(e, "/completion", prompt(500, 300), &last);
    CHECK_EQUAL(last.text, std::string());
    CHECK_EQUAL(chunk.is_null() ? 0 : chunk.value("tokens_predicted", 0), 300); // over the end of the context
}

int main() {
    limited_pages pages;
    a_prompt_without_memory_is_refused_and_the_next_is_not(pages, small());
    a_prompt_without_memory_is_refused_and_the_next_is_not(pages, with(small(), "kv-plan", "standard;window=64;sinks=4;full=1;queries=8"));
    an_answer_without_memory_ends_and_says_so(pages);
    an_evaluation_without_memory_is_refused(pages);
    context_shift_needs_positions_that_can_change();
    return report();
}
