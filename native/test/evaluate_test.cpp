// kvfold_evaluate() and kvfold_quantize().

#include "kvfold_test.h"

#include <algorithm>
#include <cmath>

using namespace kvfold_test;

static const int n_vocab = 320;

// Single precision throughout: then one token at a time and many at once differ by rounding only.
static json small() {
    return { { "model", tiny_model() }, { "ctx-size", 128 }, { "parallel", 1 }, { "threads", 1 }, { "cache-type-k", "f32" }, { "cache-type-v", "f32" }, { "flash-attn", "off" } };
}

static std::vector<int32_t> some_tokens(int n) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < n; i++) {
        tokens.push_back(i == 0 ? 1 : 260 + (i * 7) % 60);
    }
    return tokens;
}

static std::vector<float> evaluate(const engine & e, const std::vector<int32_t> & tokens, int32_t first = 0) {
    std::vector<float> logits;
    const answer       a = evaluate(e, tokens, logits, first);
    CHECK_EQUAL(a.text, std::string());
    CHECK_EQUAL(a.status, (int) KVFOLD_OK);
    return logits;
}

static float largest_difference(const std::vector<float> & a, const std::vector<float> & b) {
    float most = 0;
    for (size_t i = 0; i < a.size(); i++) {
        most = std::max(most, std::isfinite(a[i]) ? std::fabs(a[i] - b[i]) : INFINITY);
    }
    return most;
}

static void gives_logits_of_every_position() {
    const engine e(small());
    const auto   tokens = some_tokens(10);
    const auto   whole  = evaluate(e, tokens);
    for (int n = 1; n <= 10; n++) { // the logits of a position depend on the tokens before it only
        const auto part = evaluate(e, std::vector<int32_t>(tokens.begin(), tokens.begin() + n));
        CHECK(largest_difference(part, std::vector<float>(whole.begin(), whole.begin() + n * n_vocab)) < 1e-4f);
    }
    CHECK(largest_difference(std::vector<float>(whole.begin(), whole.begin() + n_vocab),
                             std::vector<float>(whole.begin() + n_vocab, whole.begin() + 2 * n_vocab)) > 1e-3f);
}

static void is_the_same_for_every_ubatch_size() {
    const auto         tokens = some_tokens(300); // more than the engine's context and batch
    std::vector<float> first;
    for (const int ubatch : { 512, 64, 7, 1 }) {
        json options           = small();
        options["ubatch-size"] = ubatch;
        const auto logits      = evaluate(engine(options), tokens);
        first                  = first.empty() ? logits : first;
        CHECK(largest_difference(logits, first) < 1e-4f);
    }
}

static void hands_out_what_is_asked_for_only() {
    const auto tokens = some_tokens(100);
    for (const int ubatch : { 512, 50, 32 }) {
        json options           = small();
        options["ubatch-size"] = ubatch;
        const engine e(options);
        const auto   whole = evaluate(e, tokens);
        for (const int first : { 0, 1, 50, 64, 99 }) {
            const auto part = evaluate(e, tokens, first);
            CHECK_EQUAL(part.size(), (size_t) (100 - first)*n_vocab);
            CHECK(largest_difference(part, std::vector<float>(whole.begin() + (std::ptrdiff_t) first*n_vocab, whole.end())) < 1e-4f);
        }
    }
}

static void ends_when_its_caller_has_seen_enough() {
    json options           = small();
    options["ubatch-size"] = 10;
    const engine e(options);
    const auto   tokens   = some_tokens(100);
    int          n_calls  = 0;
    const auto   on_third = [](int32_t position, int32_t n, const float *, void * user) {
        CHECK_EQUAL(position, 10 * *static_cast<int *>(user));
        CHECK_EQUAL(n, 10);
        return (int32_t) (++*static_cast<int *>(user) < 3);
    };
    const answer a = call([&](char ** out) { return kvfold_evaluate(e.handle, tokens.data(), 100, 0, on_third, &n_calls, out); });
    CHECK_EQUAL(a.status, (int) KVFOLD_ERROR_CANCELLED);
    CHECK(a.mentions("30 of 100"));
    CHECK_EQUAL(n_calls, 3);
}

// What was chosen of the first half applies to the second, however many tokens a ubatch takes.
static void chooses_lazy_layers_before_what_is_asked_for() {
    const auto         tokens = some_tokens(200);
    std::vector<float> first;
    for (const int ubatch : { 512, 100 }) {
        json options           = small();
        options["ubatch-size"] = ubatch;
        options["kv-plan"]     = "simlayerkv:0;window=16;sinks=4";
        const auto logits      = evaluate(engine(options), tokens, 100);
        first                  = first.empty() ? logits : first;
        CHECK(largest_difference(logits, first) < 1e-4f);
    }
    CHECK(largest_difference(first, evaluate(engine(small()), tokens, 100)) > 1e-3f);
}

static void agrees_with_generation() {
    const engine e(small());
    const json   done   = run(e, "/completion", { { "prompt", "bada bida" }, { "n_predict", 12 }, { "temperature", 0 }, { "return_tokens", true }, { "ignore_eos", false } });
    auto         tokens = run(e, "/tokenize", { { "content", "bada bida" }, { "add_special", true } }).at("tokens").get<std::vector<int32_t>>();
    for (const int32_t generated : done.at("tokens").get<std::vector<int32_t>>()) {
        const auto  logits = evaluate(e, tokens);
        const auto  last   = logits.end() - n_vocab;
        CHECK_EQUAL((int32_t) (std::max_element(last, logits.end()) - last), generated);
        tokens.push_back(generated);
    }
}

static void rejects_bad_arguments() {
    const engine  e(small());
    const int32_t good[] = { 1, 2, 3, 4 }, high[] = { 1, n_vocab }, low[] = { -1 };
    const auto    go_on  = [](int32_t, int32_t, const float *, void *) { return (int32_t) 1; };
    const auto    run    = [&](const int32_t * tokens, int32_t n, int32_t first, kvfold_logits_callback on_logits) {
        return call([&](char ** text) { return kvfold_evaluate(e.handle, tokens, n, first, on_logits, nullptr, text); });
    };
    CHECK_EQUAL(run(good, 4, 0, go_on).status, (int) KVFOLD_OK);
    CHECK_EQUAL(run(good, 0, 0, go_on).status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(run(good, -3, 0, go_on).status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(run(nullptr, 4, 0, go_on).status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(run(good, 4, 0, nullptr).status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    const answer outside = run(high, 2, 0, go_on);
    CHECK_EQUAL(outside.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(outside.object().value("limit", 0), n_vocab);
    CHECK_EQUAL(run(low, 1, 0, go_on).status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    for (const int32_t first : { -1, 4 }) {
        const answer behind = run(good, 4, first, go_on);
        CHECK_EQUAL(behind.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
        CHECK_EQUAL(behind.object().value("value", 0), first);
        CHECK_EQUAL(behind.object().value("limit", 0), 4);
    }
}

static answer quantize(const std::string & in, const std::string & out_path, const json & options) {
    return call([&](char ** out) { return kvfold_quantize(in.c_str(), out_path.c_str(), options.dump().c_str(), out); });
}

static void quantises_a_file() {
    const answer a = quantize(tiny_model(), "small.gguf", { { "type", "q8_0" }, { "threads", 1 } });
    CHECK_EQUAL(a.text, std::string());
    CHECK(read_file("small.gguf").size() < read_file(tiny_model()).size());
    const engine e({ { "model", "small.gguf" }, { "ctx-size", 64 }, { "parallel", 1 }, { "threads", 1 } });
    CHECK(e.ok());
    CHECK_EQUAL(e.opened.object().at("model").at("file_type").get<std::string>(), std::string("Q8_0"));
    CHECK_EQUAL(run(e, "/completion", { { "prompt", "bada" }, { "n_predict", 2 }, { "ignore_eos", true } }).at("tokens_predicted").get<int>(), 2);
    CHECK(quantize("small.gguf", "again.gguf", { { "type", "q4_0" } }).status < 0);
    CHECK(read_file("again.gguf").empty());
    CHECK_EQUAL(quantize("small.gguf", "again.gguf", { { "type", "q4_0" }, { "allow_requantize", true } }).status, (int) KVFOLD_OK);
    remove("small.gguf");
    remove("again.gguf");
}

static void rejects_bad_quantisations() {
    const std::string in = tiny_model();
    CHECK_EQUAL(quantize("no such file", "x.gguf", { { "type", "q8_0" } }).status, (int) KVFOLD_ERROR_MODEL_NOT_FOUND);
    CHECK_EQUAL(quantize(in, in, { { "type", "q8_0" } }).status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(quantize(in, "x.gguf", json::object()).status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    const answer unknown = quantize(in, "x.gguf", { { "type", "q9" } });
    CHECK_EQUAL(unknown.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK(unknown.mentions("q4_k_m"));
    CHECK_EQUAL(quantize(in, "x.gguf", { { "type", "q8_0" }, { "kind", 1 } }).status, (int) KVFOLD_ERROR_UNKNOWN_OPTION);
    CHECK_EQUAL(quantize(in, "x.gguf", { { "type", "q8_0" }, { "threads", "two" } }).status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK(quantize(in, "no such folder/x.gguf", { { "type", "q8_0" } }).status < 0);
    CHECK(read_file("x.gguf").empty());
}

int main() {
    gives_logits_of_every_position();
    is_the_same_for_every_ubatch_size();
    hands_out_what_is_asked_for_only();
    ends_when_its_caller_has_seen_enough();
    chooses_lazy_layers_before_what_is_asked_for();
    agrees_with_generation();
    rejects_bad_arguments();
    quantises_a_file();
    rejects_bad_quantisations();
    return report();
}
