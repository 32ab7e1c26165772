// A trained model answers as unpatched llama.cpp does. Needs ../shared/models/stories260K.gguf, which is not part of the project.

#include "kvfold_test.h"

#include <algorithm>

using namespace kvfold_test;

// Greedy continuation of "Once upon a time" by unpatched llama.cpp v0.5.0: argmax of llama_get_logits_ith(), 512 cells, f16.
static const std::vector<int32_t> expected = {
    432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337, 410, 408, 419, 292, 411, 322, 265,
    282, 295, 433, 426, 385, 328, 432, 358, 394, 261, 370, 432, 352, 266, 268, 388, 426, 338, 391, 266, 267, 337, 335,
    312, 432, 398, 312, 286, 267, 414, 270, 333, 415, 426, 13, 438, 310, 439, 419, 357, 336, 432, 313, 438, 310, 432,
    278, 316, 439, 419, 298, 414, 267, 265, 282, 295, 433, 426, 436, 317, 286, 296, 418, 269, 279, 292, 416, 439, 413,
    409, 416, 327, 263, 415, 294, 267, 400, 426, 338, 336, 432, 313, 442, 391, 267, 337, 335, 364, 420, 268, 388, 432,
    398, 359, 280, 303, 439, 413, 272, 417, 264, 312, 426, 436, 13, 438, 310, 286, 296, 418, 269, 279, 292, 416, 439,
    413, 409, 416, 327, 263, 415, 294, 267, 400, 426, 338, 336, 432, 313, 442, 439, 423, 262, 304, 420, 422, 432, 317,
    426, 359, 279, 292, 416, 439, 413, 409, 416, 327, 263, 415, 294, 267, 400, 426, 436, 13, 438, 310, 279, 292, 416,
    439, 413, 391, 267, 281, 421, 427, 311, 357, 432, 384, 358, 336, 432, 313, 442,
};

int main() {
    const std::string path = environment("KVFOLD_TRAINED_MODEL");
    if (path.empty() || read_file(path).empty()) {
        fprintf(stderr, "skipped: no trained model at '%s'\n", path.c_str());
        return 77;
    }
    for (const bool stream : { false, true }) {
        const engine e({ { "model", path }, { "ctx-size", 512 }, { "parallel", 1 }, { "threads", 2 } });
        CHECK(e.ok());
        std::vector<int32_t> tokens;
        const json           body = { { "prompt", "Once upon a time" }, { "n_predict", 200 }, { "temperature", 0 },
                                      { "return_tokens", true },        { "stream", stream } };
        for (const auto & chunk : request(e, "/completion", body).drain()) {
            const auto more = chunk.at("tokens").get<std::vector<int32_t>>();
            tokens.insert(tokens.end(), more.begin(), more.end());
        }
        CHECK_EQUAL(tokens, expected);
    }

    // every position's logits have the same largest entry as generation had
    const engine e({ { "model", path }, { "ctx-size", 512 }, { "parallel", 1 }, { "threads", 2 } });
    const int    n_vocab  = e.opened.object().at("model").at("vocabulary_size").get<int>();
    auto         tokens   = run(e, "/tokenize", { { "content", "Once upon a time" }, { "add_special", true } }).at("tokens").get<std::vector<int32_t>>();
    const size_t n_prompt = tokens.size();
    tokens.insert(tokens.end(), expected.begin(), expected.end());
    std::vector<float> logits;
    CHECK_EQUAL(evaluate(e, tokens, logits).status, (int) KVFOLD_OK);
    size_t agreeing = 0;
    for (size_t i = 0; i < expected.size(); i++) {
        const auto row = logits.begin() + (std::ptrdiff_t) ((n_prompt - 1 + i) * n_vocab);
        agreeing += std::max_element(row, row + n_vocab) - row == expected[i];
    }
    CHECK(agreeing >= expected.size() - 2); // a batch rounds differently from single tokens; near ties may swap
    return report();
}
