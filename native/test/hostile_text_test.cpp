// A long run of one kind of character, through every pre-tokenizer of llama.cpp that has asked std::regex, which took no 300,000 of them.
//
//   hostile_text_test [BYTES]   runs of other lengths, such as 4000000, which take minutes

#include "kvfold_test.h"

using namespace kvfold_test;

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
        if (last.status != KVFOLD_DONE || !told.contains("tokens") || told.at("tokens").empty()) {
            fprintf(stderr, "%s: %s\n", pre.c_str(), last.text.substr(0, 300).c_str());
            CHECK(false);
        }
    }
    CHECK(run(e, "/completion", { { "prompt", "a b" }, { "n_predict", 2 } }).contains("content"));
}

int main(int argc, char ** argv) {
    const std::string model = environment("KVFOLD_BPE_MODEL");
    const size_t      bytes = argc > 1 ? (size_t) atoll(argv[1]) : 400'000;
    CHECK(!model.empty());
    for (const char * pre : { "gpt-4o", "tekken", "deepseek-v3", "deepseek-llm", "deepseek-coder", "falcon", "starcoder", "poro-chat", "viking", "chameleon",
                              "granite-embed-multi-97m", "youtu", "minerva-7b", "gpt-2", "llama-bpe", "qwen2", "kimi-k2", "tiny_aya", "superbpe", "default" }) {
        tokenizes_long_runs(model, pre, bytes);
    }
    return report();
}
