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

static std::vector<float> evaluate(const engine & e, const std::vector<int32_t> & tokens) {
    std::vector<float> logits(tokens.size() * n_vocab);
    const answer       a = call([&](char ** out) {
        return kvfold_evaluate(e.handle, tokens.data(), (int32_t) tokens.size(), logits.data(), logits.size(), out);
    });
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
    const engine       e(small());
    std::vector<float> logits(4 * n_vocab);
    const int32_t      good[] = { 1, 2, 3, 4 }, high[] = { 1, n_vocab }, low[] = { -1 };
    auto status = [&](const int32_t * tokens, int32_t n, float * out, size_t room) {
        return call([&](char ** text) { return kvfold_evaluate(e.handle, tokens, n, out, room, text); });
    };
    CHECK_EQUAL(status(good, 4, logits.data(), logits.size()).status, (int) KVFOLD_OK);
    CHECK_EQUAL(status(good, 0, logits.data(), logits.size()).status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(status(good, -3, logits.data(), logits.size()).status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(status(nullptr, 4, logits.data(), logits.size()).status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(status(good, 4, nullptr, logits.size()).status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    const answer outside = status(high, 2, logits.data(), logits.size());
    CHECK_EQUAL(outside.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(outside.object().value("limit", 0), n_vocab);
    CHECK_EQUAL(status(low, 1, logits.data(), logits.size()).status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    const answer room = status(good, 4, logits.data(), logits.size() - 1);
    CHECK_EQUAL(room.status, (int) KVFOLD_ERROR_INVALID_ARGUMENT);
    CHECK_EQUAL(room.object().value("limit", 0), 4 * n_vocab);
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
    agrees_with_generation();
    rejects_bad_arguments();
    quantises_a_file();
    rejects_bad_quantisations();
    return report();
}
