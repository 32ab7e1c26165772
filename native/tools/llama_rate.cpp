// What llama.cpp itself makes of the prompt and the answer that the peers of benchmarks/ are measured with: upstream's
// API alone, so that it also compiles against an unpatched llama.cpp (benchmarks/unpatched.sh).
//
//   llama_rate MODEL.gguf PROMPT_WORDS TOKENS THREADS
//
// Prints "rates PREFILL DECODE": words of the prompt per second until the first token, and tokens per second of a second
// answer to the same prompt, which is then in the KV cache.

#include "llama-cpp.h"
#include "llama.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

static double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

static llama_token next_token(llama_context * context, llama_sampler * sampler, llama_token * tokens, int n) {
    if (llama_decode(context, llama_batch_get_one(tokens, n)) != 0) {
        throw std::runtime_error("llama_decode failed");
    }
    return llama_sampler_sample(sampler, context, -1);
}

static std::vector<llama_token> words(const llama_vocab * vocab, int n_words) {
    std::string text;
    for (int i = 0; i < n_words/4; i++) {
        text += "once upon a time ";
    }
    std::vector<llama_token> tokens(text.size() + 8);
    tokens.resize(llama_tokenize(vocab, text.data(), (int) text.size(), tokens.data(), (int) tokens.size(), true, true));
    return tokens;
}

// Seconds that an answer takes; of a prompt in the KV cache only the last token is computed, as the servers do.
static double answer(llama_context * context, llama_sampler * sampler, std::vector<llama_token> & prompt, int n_cached,
        int n_tokens) {
    const llama_vocab * vocab = llama_model_get_vocab(llama_get_model(context));
    llama_memory_seq_rm(llama_get_memory(context), 0, n_cached, -1);
    const double start = seconds();
    llama_token  token = next_token(context, sampler, prompt.data() + n_cached, (int) prompt.size() - n_cached);
    for (int i = 1; i < n_tokens; i++) {
        token = next_token(context, sampler, &token, 1);
        char piece[64];
        llama_token_to_piece(vocab, token, piece, sizeof(piece), 0, true);
    }
    return seconds() - start;
}

int main(int argc, char ** argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: llama_rate MODEL.gguf PROMPT_WORDS TOKENS THREADS\n");
        return 2;
    }
    try {
        const int n_words = atoi(argv[2]), n_tokens = atoi(argv[3]), n_threads = atoi(argv[4]);
        llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
        llama_backend_init();
        llama_model_ptr model(llama_model_load_from_file(argv[1], llama_model_default_params()));
        if (!model) {
            throw std::runtime_error(std::string("cannot load ") + argv[1]);
        }
        llama_context_params params = llama_context_default_params();
        params.n_ctx           = 8*(n_words + n_tokens) + 256;
        params.n_batch         = params.n_ctx;
        params.n_threads       = n_threads;
        params.n_threads_batch = n_threads;
        llama_context_ptr context(llama_init_from_model(model.get(), params));
        llama_sampler_ptr sampler(llama_sampler_chain_init(llama_sampler_chain_default_params()));
        llama_sampler_chain_add(sampler.get(), llama_sampler_init_greedy());
        if (!context) {
            throw std::runtime_error("no context");
        }
        const llama_vocab *      vocab  = llama_model_get_vocab(model.get());
        std::vector<llama_token> warmup = words(vocab, 4);
        std::vector<llama_token> prompt = words(vocab, n_words);
        answer(context.get(), sampler.get(), warmup, 0, 64);
        const double prefill = answer(context.get(), sampler.get(), prompt, 0, 1);
        const double decode  = answer(context.get(), sampler.get(), prompt, (int) prompt.size() - 1, n_tokens);
        printf("rates %f %f\n", n_words/prefill, n_tokens/decode);
        return 0;
    } catch (const std::exception & e) {
        fprintf(stderr, "llama_rate: %s\n", e.what());
        return 1;
    }
}
