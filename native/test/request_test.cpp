// Requests: their answers, their errors, and how they end early.

#include "kvfold_test.h"

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

using namespace kvfold_test;

static json small() {
    return { { "model", tiny_model() }, { "ctx-size", 512 }, { "parallel", 1 }, { "threads", 1 } };
}

static json prompt(const std::string & text, int n_predict) {
    return { { "prompt", text }, { "n_predict", n_predict }, { "temperature", 0 }, { "ignore_eos", true }, { "cache_prompt", false } };
}

static json streamed(json body) {
    body["stream"] = true;
    return body;
}

static double seconds_of(const std::function<void()> & work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

static void answers_in_one_chunk(const engine & e) {
    answer     last;
    const json chunk = run(e, "/completion", prompt("bada bida", 8), &last);
    CHECK_EQUAL(last.status, (int) KVFOLD_DONE);
    CHECK(last.text.empty());
    CHECK_EQUAL(chunk.at("tokens_predicted").get<int>(), 8);
    CHECK_EQUAL(chunk.at("model").get<std::string>(), std::string("tiny"));
}

static void streams_the_same_text(const engine & e) {
    const std::string whole = run(e, "/completion", prompt("bada bida", 24)).at("content").get<std::string>();
    std::string       pieces;
    answer            last;
    const auto        chunks = request(e, "/completion", streamed(prompt("bada bida", 24))).drain(&last);
    for (const auto & chunk : chunks) {
        pieces += chunk.at("content").get<std::string>();
    }
    CHECK_EQUAL(last.status, (int) KVFOLD_DONE);
    CHECK_EQUAL(pieces, whole);
    CHECK(chunks.size() > 8);
    CHECK_EQUAL(chunks.back().at("stop").get<bool>(), true);
}

static void streams_several_prompts(const engine & e) {
    const std::vector<std::string> prompts = { "bada bida", "kada", "bida bada kada" };
    std::vector<std::string>       pieces(prompts.size());
    json                           body = prompt("", 12);
    body["prompt"]                      = prompts;
    body["grammar"]                     = "root ::= [a-z ]+"; // broken UTF-8 would be held back
    for (const auto & chunk : request(e, "/completion", streamed(body)).drain()) {
        CHECK(chunk.is_object());
        pieces.at(chunk.at("index").get<size_t>()) += chunk.at("content").get<std::string>();
    }
    for (size_t i = 0; i < prompts.size(); i++) {
        body["prompt"] = prompts[i];
        CHECK_EQUAL(pieces[i], run(e, "/completion", body).at("content").get<std::string>());
    }
}

static void says_done_for_ever_after_the_last_chunk(const engine & e) {
    const request r(e, "/completion", prompt("bada", 2));
    CHECK_EQUAL(r.next().status, (int) KVFOLD_OK);
    for (int i = 0; i < 3; i++) {
        CHECK_EQUAL(r.next().status, (int) KVFOLD_DONE);
    }
}

static void chats(const engine & e) {
    // random weights prefer broken UTF-8, which a stream holds back; the grammar asks for letters
    const json body = { { "messages", { { { "role", "user" }, { "content", "bada" } } } },
                        { "max_tokens", 6 },
                        { "temperature", 0 },
                        { "grammar", "root ::= [a-z ]+" } };
    const json whole = run(e, "/v1/chat/completions", body);
    CHECK_EQUAL(whole.at("object").get<std::string>(), std::string("chat.completion"));
    CHECK_EQUAL(whole.at("usage").at("completion_tokens").get<int>() <= 6, true);

    json stream                 = streamed(body);
    stream["stream_options"]    = { { "include_usage", true } };
    const auto  chunks          = request(e, "/v1/chat/completions", stream).drain();
    std::string text, finish;
    bool        usage = false;
    for (const auto & chunk : chunks) {
        CHECK_EQUAL(chunk.at("object").get<std::string>(), std::string("chat.completion.chunk"));
        usage = usage || chunk.contains("usage");
        for (const auto & choice : chunk.at("choices")) {
            text += choice.at("delta").value("content", json("")).is_string() ? choice.at("delta").value("content", "") : "";
            finish = choice.at("finish_reason").is_string() ? choice.at("finish_reason").get<std::string>() : finish;
        }
    }
    CHECK(usage);
    CHECK_EQUAL(text, whole.at("choices").at(0).at("message").at("content").get<std::string>());
    CHECK_EQUAL(finish, whole.at("choices").at(0).at("finish_reason").get<std::string>());
}

static void keeps_utf8_whole(const engine & e) {
    // outside the vocabulary, so every byte is a token of its own
    const std::string text   = "\xC3\xA4\xE2\x82\xAC\xF0\x9F\xA6\x99 bada";
    const json        tokens = run(e, "/tokenize", { { "content", text } }).at("tokens");
    CHECK(tokens.size() >= 9);
    CHECK_EQUAL(run(e, "/detokenize", { { "tokens", tokens } }).at("content").get<std::string>(), " " + text);

    const json       template_body = { { "messages", { { { "role", "user" }, { "content", text } } } } };
    const std::string rendered     = run(e, "/apply-template", template_body).at("prompt").get<std::string>();
    CHECK(rendered.find(text) != std::string::npos);

    // a grammar that allows nothing else makes the answer the text itself, one byte after the other
    json body       = streamed(prompt("bada", 64));
    body["grammar"] = "root ::= \"\xC3\xA4\xE2\x82\xAC\xF0\x9F\xA6\x99\"";
    body.erase("ignore_eos");
    std::string answered;
    for (const auto & chunk : request(e, "/completion", body).drain()) {
        answered += chunk.at("content").get<std::string>();
    }
    CHECK(answered.find("\xC3\xA4\xE2\x82\xAC\xF0\x9F\xA6\x99") != std::string::npos);
}

static void answers_every_route(const engine & e) {
    const json chat = { { "messages", { { { "role", "user" }, { "content", "bada" } } } } };
    CHECK(run(e, "/v1/chat/completions/input_tokens", chat).at("input_tokens").get<int>() > 3);
    CHECK(run(e, "/props", json::object()).contains("chat_template"));
    CHECK_EQUAL(run(e, "/slots", json::object()).size(), (size_t) 1);
    const auto metrics = run(e, "/metrics", json::object()).get<std::string>();
    for (const char * line : { "llamacpp:prompt_tokens_total ", "\nkvfold:kv_committed_bytes ", "\nkvfold:kv_held_bytes{type=\"checkpoints\"} ",
                               "\nkvfold:requests_suspended 0\n", "\nkvfold:preemptions_total 0\n", "\nkvfold:tokens_recomputed_total 0\n",
                               "\nkvfold:prefix_hits_total ", "\nkvfold:prefixes_kept " }) {
        CHECK(metrics.find(line) != std::string::npos);
    }
    answer last;
    run(e, "/v1/embeddings", { { "input", "bada" } }, &last);
    CHECK_EQUAL(last.status, (int) KVFOLD_ERROR_UNSUPPORTED);
    run(e, "/v1/rerank", { { "query", "bada" }, { "documents", { "a", "b" } } }, &last);
    CHECK_EQUAL(last.status, (int) KVFOLD_ERROR_UNSUPPORTED);
}

static void embeds() {
    json options            = small();
    options["embeddings"]   = true;
    options["pooling"]      = "mean";
    options["ubatch-size"]  = 32;
    const engine e(options);
    CHECK(e.ok());
    const json found = run(e, "/v1/embeddings", { { "input", { "bada bida", "kada" } } });
    CHECK_EQUAL(found.at("data").size(), (size_t) 2);
    CHECK_EQUAL(found.at("data").at(0).at("embedding").size(), (size_t) 32);
    std::string input;
    for (int i = 0; i < 100; i++) {
        input += "bada ";
    }
    answer last;
    run(e, "/v1/embeddings", { { "input", input } }, &last);
    CHECK_EQUAL(last.status, (int) KVFOLD_ERROR_CONTEXT_EXCEEDED);
    CHECK_EQUAL(last.object().value("limit", 0), 32);
}

static void embeds_in_any_number_of_slots() {
    json options          = small();
    options["embeddings"] = true;
    options["pooling"]    = "mean";
    for (const int slots : { 3, 5, 6, 7 }) {
        options["parallel"] = slots;
        const engine e(options);
        CHECK(e.ok());
        CHECK_EQUAL(run(e, "/v1/embeddings", { { "input", { "bada bida", "kada" } } }).at("data").size(), (size_t) 2);
    }
    options["ubatch-size"] = 32;
    const engine e(options);
    CHECK_EQUAL(e.opened.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK(e.opened.mentions("a multiple of their number, as 35"));
    CHECK_EQUAL(e.opened.object().value("limit", 0), 35);
}

static void rejects_bad_requests(const engine & e) {
    CHECK_EQUAL(request(e, "/nowhere", json::object()).opened.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(request(e, "/completion", json::array()).opened.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    for (const char * body : { "", "{", "nonsense", "3" }) {
        kvfold_request * handle = nullptr;
        CHECK_EQUAL(kvfold_request_open(e.handle, "/completion", body, &handle, nullptr), (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    }
    const std::pair<const char *, json> bad[] = {
        { "/completion", json::object() },
        { "/completion", { { "prompt", json::array() } } },
        { "/completion", { { "prompt", { 1, 999999 } } } },
        { "/completion", { { "prompt", { 1, -7 } } } },
        { "/completion", { { "prompt", "a" }, { "n", 100 } } },
        { "/completion", { { "prompt", "a" }, { "grammar", "root ::= nothing" } } },
        { "/completion", { { "prompt", "a" }, { "json_schema", { { "type", "no such type" } } } } },
        { "/v1/chat/completions", json::object() },
        { "/v1/chat/completions", { { "messages", "text" } } },
        { "/v1/chat/completions", { { "messages", { 1, 2 } } } },
        { "/v1/chat/completions", { { "messages", { { { "role", "user" } } } } } },
        { "/detokenize", { { "tokens", { 1, 999999 } } } },
        { "/detokenize", { { "tokens", "text" } } },
        { "/tokenize", { { "content", { { "a", 1 } } } } },
    };
    for (const bool stream : { false, true }) {
        for (auto [route, body] : bad) {
            if (stream) {
                body["stream"] = true;
            }
            answer last;
            request(e, route, body).drain(&last);
            if (last.status != KVFOLD_ERROR_INVALID_ARGUMENT) {
                fprintf(stderr, "%s %s: %d %s\n", route, body.dump().c_str(), last.status, last.text.c_str());
            }
            CHECK_EQUAL(last.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
        }
    }
    CHECK_EQUAL(run(e, "/completion", prompt("bada", 2)).at("tokens_predicted").get<int>(), 2); // still well
}

static void refuses_a_prompt_that_does_not_fit(const engine & e) {
    std::string text;
    for (int i = 0; i < 2000; i++) {
        text += " bada";
    }
    for (const bool stream : { false, true }) {
        json body      = prompt(text, 4);
        body["stream"] = stream;
        answer last;
        CHECK(request(e, "/completion", body).drain(&last).empty());
        CHECK_EQUAL(last.status, (int) KVFOLD_ERROR_CONTEXT_EXCEEDED);
        CHECK(last.object().value("value", 0) > 512);
        CHECK_EQUAL(last.object().value("limit", 0), 512);
        CHECK(last.message().find("512") != std::string::npos);
    }
}

static void refuses_more_requests_than_may_wait() {
    json options          = small();
    options["max-queue"]  = 2;
    const engine         e(options);
    std::vector<request> running;
    for (int i = 0; i < 3; i++) {
        running.emplace_back(e, "/completion", streamed(prompt("bada", 400)));
        CHECK_EQUAL(running.back().opened.status, (int) KVFOLD_OK);
    }
    const answer a = request(e, "/completion", prompt("bada", 1)).opened;
    CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_QUEUE_FULL);
    CHECK_EQUAL(a.object().value("value", -1), 2);
    CHECK_EQUAL(a.object().value("limit", -1), 2);
    CHECK_EQUAL(e.stats().at("requests_waiting").get<int>(), 2);
    CHECK(run(e, "/tokenize", { { "content", "bada" } }).contains("tokens")); // needs no slot
    running.clear();
    CHECK_EQUAL(run(e, "/completion", prompt("bada", 2)).at("tokens_predicted").get<int>(), 2);
    CHECK_EQUAL(e.stats().at("requests_waiting").get<int>(), 0);
}

static void cancels_a_waiting_reader_at_once(const engine & e) {
    const request     r(e, "/completion", streamed(prompt("bada", 500)));
    CHECK_EQUAL(r.next().status, (int) KVFOLD_OK);
    std::thread canceller([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        r.cancel();
    });
    answer a;
    const double waited = seconds_of([&] {
        do {
            a = r.next();
        } while (a.status == KVFOLD_OK);
    });
    canceller.join();
    CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_CANCELLED);
    CHECK(waited < 0.9);
    CHECK_EQUAL(r.next().status, (int) KVFOLD_DONE);
}

static void cancels_while_others_wait_for_the_slot(const engine & e) {
    const request running(e, "/completion", streamed(prompt("bada", 500)));
    CHECK_EQUAL(running.next().status, (int) KVFOLD_OK);
    const request waiting(e, "/completion", prompt("bida", 2));
    std::thread   canceller([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        waiting.cancel();
    });
    answer       a;
    const double waited = seconds_of([&] { a = waiting.next(); });
    canceller.join();
    CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_CANCELLED);
    CHECK(waited < 0.9);
    running.cancel();
    const request after(e, "/completion", prompt("kada", 2));
    CHECK_EQUAL(after.next().status, (int) KVFOLD_OK);
}

static void cancelling_twice_or_late_does_nothing(const engine & e) {
    const request r(e, "/completion", prompt("bada", 2));
    CHECK_EQUAL(r.next().status, (int) KVFOLD_OK);
    CHECK_EQUAL(r.next().status, (int) KVFOLD_DONE);
    r.cancel();
    r.cancel();
    CHECK_EQUAL(r.next().status, (int) KVFOLD_DONE);
    request early(e, "/completion", prompt("bada", 400));
    early.cancel();
    early.cancel();
    CHECK_EQUAL(early.next().status, (int) KVFOLD_ERROR_CANCELLED);
    early.close();
}

static void stops_a_prefill_within_one_ubatch() {
    json options           = small();
    options["ctx-size"]    = 512;
    options["ubatch-size"] = 16;
    const engine e(options);
    std::string  text;
    for (int i = 0; i < 60; i++) {
        text += " bada";
    }
    json body               = streamed(prompt(text, 4));
    body["return_progress"] = true;
    const request r(e, "/completion", body);
    const answer  first = r.next();
    CHECK_EQUAL(first.status, (int) KVFOLD_OK);
    CHECK(first.object().contains("prompt_progress"));
    r.cancel();
    CHECK_EQUAL(r.next().status, (int) KVFOLD_ERROR_CANCELLED);
    CHECK_EQUAL(run(e, "/completion", prompt("bada", 2)).at("tokens_predicted").get<int>(), 2);
    CHECK_EQUAL(e.stats().at("slots_busy").get<int>(), 0);
}

static void frees_the_slot_when_a_request_is_closed_early(const engine & e) {
    for (int i = 0; i < 20; i++) {
        request r(e, "/completion", streamed(prompt("bada", 500)));
        if (i % 2) {
            CHECK_EQUAL(r.next().status, (int) KVFOLD_OK);
        }
    }
    CHECK_EQUAL(run(e, "/completion", prompt("bada", 2)).at("tokens_predicted").get<int>(), 2);
}

static void embeds_token_by_token_without_pooling() {
    json options         = small();
    options["embedding"] = true;
    options["pooling"]   = "none";
    const engine e(options);
    const json   rows = run(e, "/embeddings", { { "content", "bada" } }).at(0).at("embedding");
    CHECK_EQUAL(rows.size(), run(e, "/tokenize", { { "content", "bada" }, { "add_special", true } }).at("tokens").size());
    CHECK_EQUAL(rows.at(0).size(), (size_t) 32);
}

static void counts_what_was_computed() {
    const engine e(small());
    auto         count = [&](const char * name) {
        return call([&](char ** out) { return kvfold_token_stats(e.handle, out); }).object().at(name).get<int>();
    };
    CHECK_EQUAL(count("prompt_tokens") + count("generated_tokens"), 0);
    auto cached = [](json body) {
        body["cache_prompt"] = true;
        return body;
    };
    const json first = run(e, "/completion", cached(prompt("bada bada", 4)));
    run(e, "/completion", cached(prompt("bada bada", 3)));
    const int tokens = first.at("tokens_evaluated").get<int>();
    CHECK_EQUAL(count("prompt_tokens") + count("prompt_tokens_cached"), 2 * tokens);
    CHECK(count("prompt_tokens_cached") > 0);
    CHECK_EQUAL(count("generated_tokens"), 7);
}

static void refuses_to_fill_in_without_tokens_for_it(const engine & e) {
    answer last;
    run(e, "/infill", { { "input_prefix", "ba" }, { "input_suffix", "da" } }, &last);
    CHECK_EQUAL(last.status, (int) KVFOLD_ERROR_UNSUPPORTED);
}

// What is left of an answer was computed after the tokens that it lost.
static void what_lost_older_tokens_is_no_beginning() {
    constexpr size_t n_ctx = 256, n_left_at_least = 40;
    json             options = small();
    options["ctx-size"]      = n_ctx;
    options["context-shift"] = true;
    for (const int i : { 0, 1, 2, 3 }) {
        const int  n_keep  = i % 2 == 0 ? 0 : 20;
        const bool windows = i >= 2; // which have gone on
        options["kv-plan"] = windows ? "yoco:64" : "standard";
        const engine e(options);
        json         body     = prompt("bada bida kada bida bada", 2*n_ctx);
        body["n_keep"]        = n_keep;
        body["return_tokens"] = true;
        body["cache_prompt"]  = true;
        json held             = run(e, "/tokenize", { { "content", body.at("prompt") }, { "add_special", true } }).at("tokens");
        const json made       = run(e, "/completion", body).at("tokens");
        for (const auto & token : made) {
            if (held.size() + 1 >= n_ctx) {
                const size_t n_first = (size_t) n_keep + 1, n_gone = (held.size() - n_first)/2;
                held.erase(held.begin() + (ptrdiff_t) n_first, held.begin() + (ptrdiff_t) (n_first + n_gone));
            }
            held.push_back(token);
        }
        CHECK(held.size() > n_left_at_least + (size_t) n_keep);
        held.erase(held.begin() + (ptrdiff_t) n_left_at_least, held.end());
        json next          = prompt("", 8);
        next["prompt"]     = held;
        next["cache_prompt"] = true;
        const json answer  = run(e, "/completion", next);
        CHECK(answer.at("timings").at("cache_n").get<int>() <= n_keep + 1);
        CHECK_EQUAL(answer.at("timings").at("cache_n").get<int>() > 1, n_keep > 0 && !windows);
        CHECK_EQUAL(answer.at("content").get<std::string>(), run(engine(options), "/completion", next).at("content").get<std::string>());
    }
}

// Keys that cannot be rotated for other positions: as it is opened, and not when the first answer comes to the end of its context.
static void refuses_to_shift_keys_that_cannot_be_rotated() {
    json options             = small();
    options["ctx-size"]      = 256;
    options["context-shift"] = true;
    for (const char * type : { "f32", "f16", "bf16" }) {
        options["cache-type-k"] = type;
        const bool   can        = type[0] == 'f';
        const engine e(options);
        CHECK_EQUAL(e.opened.status, (int) (can ? KVFOLD_OK : KVFOLD_ERROR_UNSUPPORTED));
        if (can) {
            CHECK_EQUAL(run(e, "/completion", prompt("bada bida", 300)).at("tokens_predicted").get<int>(), 300);
            continue;
        }
        CHECK_EQUAL(e.opened.object().value("option", ""), std::string("context-shift"));
        CHECK(e.opened.mentions(std::string("keys of type ") + type));
    }
    options["cache-type-k"] = "bf16";
    options.erase("context-shift");
    const engine e(options);
    json         body = prompt("", 4);
    body["prompt"]    = { 1, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24 };
    body["cache_prompt"]  = true;
    body["n_cache_reuse"] = 4;
    run(e, "/completion", body);
    body["prompt"] = { 1, 15, 16, 17, 18, 19, 20, 21, 22, 23 }; // what comes later in the other
    answer last;
    run(e, "/completion", body, &last);
    CHECK_EQUAL(last.status, (int) KVFOLD_DONE);
}

// A slot that holds more of the prompt may hold nothing that it can go on after: lazy layers were decided on behind that.
static void a_state_is_used_as_often_as_it_is_loaded() {
    const std::string path = "loaded.kvstate";
    for (const char * plan : { "standard", "streaming:32", "lighttransfer:1;window=32;decide=end" }) {
        json options       = small();
        options["kv-plan"] = plan;
        const engine e(options);
        json         body = prompt("", 100);
        body["prompt"]    = json::array();
        for (int i = 0; i < 120; i++) {
            body["prompt"].push_back(10 + (i*i + i) % 40);
        }
        body["cache_prompt"]  = true;
        body["return_tokens"] = true;
        const auto answer     = [&](const json & state) {
            const auto chunks = request(e, "/completion", body, state).drain();
            return chunks.size() == 1 ? chunks.front() : json::object();
        };
        const json made = answer({ { "save", path }, { "strict", true } }).value("tokens", json::array());
        CHECK_EQUAL(made.size(), (size_t) 100);
        body["prompt"].insert(body["prompt"].end(), made.begin(), made.end());
        body["prompt"].push_back(10);
        for (int i = 0; i < 6; i++) {
            body["n_predict"] = i == 3 ? 60 : 12;
            const json loaded = answer({ { "load", path }, { "strict", true } });
            CHECK(loaded.value("timings", json::object()).value("cache_n", 0) >= 219);
        }
    }
    std::filesystem::remove(path);
}

static void refuses_blocks_that_do_not_divide_a_head() {
    for (const char * flash : { "off", "on", "auto" }) {
        for (const char * option : { "cache-type-k", "cache-type-v" }) {
            if (option == std::string("cache-type-v") && flash == std::string("off")) {
                continue; // where values cannot be quantised at all
            }
            json options          = small();
            options["flash-attn"] = flash;
            options[option]       = "q8_0";
            const engine e(options);
            CHECK_EQUAL(e.opened.status, (int) KVFOLD_ERROR_UNSUPPORTED);
            CHECK_EQUAL(e.opened.object().value("option", ""), std::string(option));
            CHECK_EQUAL(e.opened.object().value("value", 0), 8);
            CHECK_EQUAL(e.opened.object().value("limit", 0), 32);
        }
    }
}

// They share the cells of their prompt, which do not move.
static void several_answers_end_where_their_context_does() {
    json options             = small();
    options["ctx-size"]      = 256;
    options["parallel"]      = 2;
    options["context-shift"] = true;
    const engine e(options);
    json         body = prompt("bada bida", 300);
    body["n"]         = 2;
    answer     last;
    const json both = run(e, "/completion", body, &last);
    CHECK_EQUAL(last.status, (int) KVFOLD_DONE);
    CHECK_EQUAL(both.size(), (size_t) 2);
    for (const auto & each : both) {
        CHECK_EQUAL(each.value("stop_type", ""), std::string("limit"));
        CHECK_EQUAL(each.value("tokens_evaluated", 0) + each.value("tokens_predicted", 0), 256);
    }
    CHECK_EQUAL(run(e, "/completion", prompt("bada bida", 300)).at("tokens_predicted").get<int>(), 300);
}

#if defined(__linux__)
// Files that nobody else finds.
static int cut_swap_files() {
    int n = 0;
    for (const auto & each : std::filesystem::directory_iterator("/proc/self/fd")) {
        std::error_code   code;
        const std::string target = std::filesystem::read_symlink(each.path(), code).string();
        if (target.find("kvfold-") != std::string::npos && target.find(".swap") != std::string::npos) {
            std::ofstream(each.path(), std::ios::trunc);
            n++;
        }
    }
    return n;
}

// A reader that waits for the next part is told the same as one that asks later.
static void a_failure_in_mid_stream_keeps_its_type() {
    json options             = small();
    options["ctx-size"]      = 256;
    options["parallel"]      = 2;
    options["context-shift"] = true;
    options["swap-dir"]      = std::filesystem::temp_directory_path().u8string();
    options["kv-budget"]     = 40000; // for one of them
    const engine  e(options);
    const request older(e, "/completion", streamed(prompt("bada bida", 3000)));
    for (int i = 0; i < 300; i++) { // until it has lost tokens
        CHECK_EQUAL(older.next().status, (int) KVFOLD_OK);
    }
    std::thread other([&e] { run(e, "/completion", prompt("kada bida", 3000)); });
    const auto  is_suspended = [&] { return e.stats().at("requests_suspended").get<int>() == 1; };
    for (int i = 0; i < 5000 && !is_suspended(); i++) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    CHECK_EQUAL(cut_swap_files(), 1);
    answer last;
    older.drain(&last);
    other.join();
    CHECK_EQUAL(last.status, (int) KVFOLD_ERROR_STATE);
    CHECK_EQUAL(last.object().value("option", ""), std::string("swap-dir"));
}
#endif

int main() {
    {
        const engine e(small());
        CHECK(e.ok());
        answers_in_one_chunk(e);
        streams_the_same_text(e);
        streams_several_prompts(e);
        says_done_for_ever_after_the_last_chunk(e);
        chats(e);
        keeps_utf8_whole(e);
        answers_every_route(e);
        rejects_bad_requests(e);
        refuses_a_prompt_that_does_not_fit(e);
        cancels_a_waiting_reader_at_once(e);
        cancels_while_others_wait_for_the_slot(e);
        cancelling_twice_or_late_does_nothing(e);
        frees_the_slot_when_a_request_is_closed_early(e);
        refuses_to_fill_in_without_tokens_for_it(e);
    }
    embeds();
    embeds_in_any_number_of_slots();
    embeds_token_by_token_without_pooling();
    counts_what_was_computed();
    refuses_more_requests_than_may_wait();
    stops_a_prefill_within_one_ubatch();
    what_lost_older_tokens_is_no_beginning();
    refuses_to_shift_keys_that_cannot_be_rotated();
    a_state_is_used_as_often_as_it_is_loaded();
    refuses_blocks_that_do_not_divide_a_head();
    several_answers_end_where_their_context_does();
#if defined(__linux__)
    a_failure_in_mid_stream_keeps_its_type();
#endif
    return report();
}
