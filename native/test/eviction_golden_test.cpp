// What is kept of a prompt, and the logits after it, next to those of kvpress. Needs ../shared/golden-eviction and ../shared/models/stories260K.gguf, which are
// not part of the project.

#include "golden_eviction.h"
#include "kvfold_test.h"

#include <algorithm>
#include <cmath>

using namespace kvfold_test;

// In the lowest layer equal tokens have keys of equal norm, so that rounding decides which of them stays.
static bool is_decided_by_rounding(const std::string & name) {
    return name.rfind("knorm", 0) == 0;
}

static constexpr size_t n_layers = 5, n_heads = 4; // of the model, for keys and values

// By layer and head, as the golden results have it.
static std::vector<std::vector<int32_t>> kept_tokens(const engine & e, const std::vector<int32_t> & tokens) {
    std::vector<float> values(n_layers*n_heads*tokens.size());
    const answer       told = call([&](char ** out) {
        return kvfold_observe(e.handle, R"({"what": "kept_tokens"})", tokens.data(), (int32_t) tokens.size(), values.data(), values.size(), out);
    });
    CHECK_EQUAL(told.status, (int) KVFOLD_OK);
    CHECK_EQUAL(told.text, "{\"shape\":[5,4," + std::to_string(tokens.size()) + "]}");
    std::vector<std::vector<int32_t>> kept(n_layers);
    for (size_t i = 0; i < values.size(); i++) {
        CHECK(values[i] == 0 || values[i] == 1);
        if (values[i] == 1) {
            kept[i/(n_heads*tokens.size())].push_back((int32_t) (i % tokens.size()));
        }
    }
    return kept;
}

static std::vector<int32_t> sorted_ids(const std::vector<int32_t> & tokens, const std::vector<int32_t> & positions) {
    std::vector<int32_t> ids;
    for (const int32_t position : positions) {
        ids.push_back(tokens[position]);
    }
    std::sort(ids.begin(), ids.end());
    return ids;
}

// Where rounding decides, it does between equal tokens.
static void compare_kept(const golden_eviction & golden, const std::string & name, const engine & e, const std::vector<int32_t> & tokens) {
    const auto kept = kept_tokens(e, { tokens.begin(), tokens.begin() + golden.n_prompt });
    for (size_t il = 0; il < n_layers; il++) {
        const auto expected = golden.tensor<int32_t>("kept/" + name + "/" + std::to_string(il));
        CHECK(kept[il] == expected ||
              (is_decided_by_rounding(name) && il == 0 && sorted_ids(tokens, kept[il]) == sorted_ids(tokens, expected)));
    }
}

int main() {
    const std::string     path = environment("KVFOLD_TRAINED_MODEL");
    const golden_eviction golden(environment("KVFOLD_GOLDEN_EVICTION"));
    if (!golden.is_there() || read_file(path).empty()) {
        fprintf(stderr, "skipped: no golden results, or no model at '%s'\n", path.c_str());
        return 77;
    }
    int  n_compared = 0;
    auto tokens     = golden.tokens();
    tokens.pop_back(); // the last row of logits is that of the token before it
    for (const std::string & name : golden.cases) {
        const std::string plan = "standard;" + golden_eviction::attributes_of(name);
        for (const bool flash : { true, false }) {
            const engine e({ { "model", path }, { "ctx-size", 512 }, { "parallel", 1 }, { "threads", 2 }, { "kv-plan", plan },
                             { "cache-type-k", "f32" }, { "cache-type-v", "f32" }, { "flash-attn", flash ? "on" : "off" } });
            if (e.opened.status == KVFOLD_ERROR_PLAN_INVALID) {
                printf("%s: %s\n", plan.c_str(), e.opened.message().c_str());
                break;
            }
            n_compared++;
            CHECK(e.ok());
            compare_kept(golden, name, e, tokens);
            std::vector<float> logits;
            CHECK_EQUAL(evaluate(e, tokens, logits, golden.n_prompt - 1).status, (int) KVFOLD_OK);
            const auto expected = golden.tensor<float>("logits/" + name);
            CHECK_EQUAL(logits.size(), expected.size());
            float difference = 0;
            for (size_t i = 0; i < std::min(logits.size(), expected.size()); i++) {
                difference = std::max(difference, std::fabs(logits[i] - expected[i]));
            }
            printf("%s, flash attention %s: logits differ by %g\n", plan.c_str(), flash ? "on" : "off", difference);
            CHECK(difference <= 1e-3f || is_decided_by_rounding(name));
        }
    }
    CHECK(n_compared >= 40);
    return report();
}
