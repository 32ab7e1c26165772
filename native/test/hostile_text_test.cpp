// A long run of one kind of character, through every pre-tokenizer of llama.cpp. Many have asked std::regex, which took no 300,000 of them.
//
//   hostile_text_test LLAMA_VOCAB_CPP [BYTES]   runs of other lengths, such as 4000000, which take minutes

#include "kvfold_test.h"

#include <map>
#include <regex>
#include <set>

using namespace kvfold_test;

// What they make of a text are no bytes, so that a byte-level vocabulary has no tokens for it.
static const std::set<std::string> of_other_vocabularies = { "granite-embed-multi-311m", "sarvam-moe", "whitespace" };

// Of a model with a byte-level vocabulary, option "override-kv" chooses how it splits text.
static void tokenizes_long_runs(const std::string & model, const std::string & pre, size_t bytes) {
    const json   options = { { "model", model }, { "ctx-size", 256 }, { "parallel", 1 }, { "threads", 1 }, { "override-kv", "tokenizer.ggml.pre=str:" + pre } };
    const engine e(options);
    CHECK(e.ok());
    for (const char * part : { "a", "A", " ", "\n", "7", "!", "\xC3\xA9", "\xE4\xB8\x80" }) {
        std::string text;
        while (text.size() < bytes) {
            text += part;
        }
        answer     last;
        const json told = run(e, "/tokenize", { { "content", text }, { "add_special", false } }, &last);
        if (pre == "superbpe" && part[0] == '7' && last.mentions("takes too long")) {
            continue; // it counts digits from the end of a number, once for each of them
        }
        if (of_other_vocabularies.count(pre)) {
            continue; // any answer, as long as the engine goes on
        }
        if (last.status != KVFOLD_DONE || !told.contains("tokens") || told.at("tokens").empty()) {
            fprintf(stderr, "%s: %s\n", pre.c_str(), last.text.substr(0, 300).c_str());
            CHECK(false);
        }
    }
    CHECK(run(e, "/completion", { { "prompt", "a b" }, { "n_predict", 2 } }).contains("content"));
}

// One name for each of llama.cpp's ways to split, out of the source that knows the names.
static std::vector<std::string> pre_tokenizers(const std::string & source) {
    static const std::regex            known(R"RE(tokenizer_pre == "([^"]+)"|pre_type = (LLAMA_VOCAB_PRE_TYPE_\w+);)RE");
    std::map<std::string, std::string> names; // by type
    std::string                        name;
    for (auto it = std::sregex_iterator(source.begin(), source.end(), known); it != std::sregex_iterator(); ++it) {
        if ((*it)[1].matched) {
            name = (*it)[1].str();
        } else if (!name.empty()) {
            names.emplace((*it)[2].str(), name);
        }
    }
    std::vector<std::string> all;
    for (const auto & [type, one] : names) {
        all.push_back(one);
    }
    return all;
}

int main(int argc, char ** argv) {
    const std::string model = environment("KVFOLD_BPE_MODEL");
    const size_t      bytes = argc > 2 ? (size_t) atoll(argv[2]) : 400'000;
    const auto        names = pre_tokenizers(argc > 1 ? read_file(argv[1]) : "");
    CHECK(!model.empty());
    CHECK(names.size() > 40);
    for (const auto & pre : names) {
        tokenizes_long_runs(model, pre, bytes);
    }
    return report();
}
