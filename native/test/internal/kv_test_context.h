// A context over a small model, for tests of the memory of its caches; and how they count what holds.
#pragma once

#include "kv_test_model.h"

#include "hooks/cpu-attention.h"
#include "kv/memory/caches.h"
#include "kv/memory/host_pages.h"
#include "kv/memory/memory.h"

#include "llama-cpp.h"
#include "llama-kv-cache.h"
#include "llama.h"

#include <cstdio>
#include <cmath>
#include <filesystem>

using namespace kvfold;

static int n_checks = 0;
static int n_failed = 0;

static void check(bool ok, const std::string & what) {
    n_checks++;
    if (!ok) {
        n_failed++;
        fprintf(stderr, "FAILED: %s\n", what.c_str());
    }
}

struct context_options {
    uint32_t n_seq      = 1;
    bool     unified    = true;
    bool     flash_attn = true;

    const char * kv_plan = nullptr; // in place of the model's
    ggml_type    type    = GGML_TYPE_F32;

    kvfold_cpu_attention cpu_attention = KVFOLD_CPU_ATTENTION_FUSED;

    uint32_t n_batch  = 256;
    uint32_t n_ubatch = 64;
    bool     swa_full = true; // windows forget nothing

    ggml_backend_sched_eval_callback cb_eval = nullptr; // shown what graphs compute
    void *                           cb_user = nullptr;

    uint32_t  n_ctx  = 2048; // of a sequence
    ggml_type type_v = GGML_TYPE_COUNT; // that of keys
};

struct tested {
    llama_model_ptr   model;
    llama_context_ptr context;
    uint32_t          n_vocab = 0;

    tested(const kv_test_model & spec, const context_options & o) : tested(model_of(spec, o.kv_plan), o) {}

    tested(llama_model_ptr of, const context_options & o) : model(std::move(of)), n_vocab((uint32_t) llama_vocab_n_tokens(llama_model_get_vocab(model.get()))) {
        llama_context_params p = llama_context_default_params();
        p.n_ctx           = o.n_ctx*(o.unified ? 1 : o.n_seq);
        p.n_batch         = o.n_batch;
        p.n_ubatch        = o.n_ubatch;
        p.swa_full        = o.swa_full;
        p.n_seq_max       = o.n_seq;
        p.kv_unified      = o.unified;
        p.type_k          = o.type;
        p.type_v          = o.type_v == GGML_TYPE_COUNT ? o.type : o.type_v;
        p.flash_attn_type = o.flash_attn ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
        p.n_threads       = 1;
        p.n_threads_batch = 1;
        p.cpu_attention   = o.cpu_attention;
        p.cb_eval           = o.cb_eval;
        p.cb_eval_user_data = o.cb_user;
        context.reset(llama_init_from_model(model.get(), p));
    }

    static llama_model_ptr model_of(const kv_test_model & spec, const char * kv_plan) {
        const auto path = std::filesystem::temp_directory_path() / ("kvfold-memory-" + std::to_string(std::random_device{}()) + ".gguf");
        spec.write(path.string());
        llama_model_params of_model = llama_model_default_params();
        of_model.kv_plan = kv_plan;
        llama_model_ptr model(llama_model_load_from_file(path.string().c_str(), of_model));
        std::filesystem::remove(path);
        return model;
    }

    llama_memory_t memory() const { return llama_get_memory(context.get()); }

    // The logits of the last token.
    std::vector<float> prompt(uint32_t n, llama_seq_id seq, uint32_t seed, uint32_t at_once = 256) {
        uint32_t done = 0;
        for (; n - done > at_once; done += at_once) {
            decode(at_once, (llama_pos) done, seq, seed, false);
        }
        return decode(n - done, (llama_pos) done, seq, seed);
    }

    std::vector<float> decode(uint32_t n, llama_pos pos, llama_seq_id seq, uint32_t seed, bool output = true) {
        std::mt19937             rng(seed + (uint32_t) pos);
        std::vector<llama_token> tokens(n);
        for (llama_token & token : tokens) {
            token = (llama_token) (rng() % n_vocab);
        }
        return decode_tokens(tokens, pos, seq, output);
    }

    // Some tokens of several sequences, each part ending with an output.
    struct part {
        llama_seq_id seq;
        llama_pos    first;
        uint32_t     n;
        uint32_t     seed;
    };

    bool decode_together(const std::vector<part> & parts) {
        llama_batch batch = llama_batch_init(512, 0, 1);
        for (const part & each : parts) {
            std::mt19937 rng(each.seed + (uint32_t) each.first);
            for (uint32_t i = 0; i < each.n; ++i) {
                const int32_t at    = batch.n_tokens++;
                batch.token[at]     = (llama_token) (rng() % n_vocab);
                batch.pos[at]       = each.first + (llama_pos) i;
                batch.n_seq_id[at]  = 1;
                batch.seq_id[at][0] = each.seq;
                batch.logits[at]    = i + 1 == each.n;
            }
        }
        const bool ok = llama_decode(context.get(), batch) == 0;
        llama_batch_free(batch);
        return ok;
    }

    std::vector<float> decode_tokens(const std::vector<llama_token> & tokens, llama_pos pos, llama_seq_id seq, bool output = true) {
        const auto  n     = (uint32_t) tokens.size();
        llama_batch batch = llama_batch_init((int32_t) n, 0, 1);
        for (uint32_t i = 0; i < n; ++i) {
            batch.token[i]     = tokens[i];
            batch.pos[i]       = pos + (llama_pos) i;
            batch.n_seq_id[i]  = 1;
            batch.seq_id[i][0] = seq;
            batch.logits[i]    = output && i + 1 == n;
        }
        batch.n_tokens = (int32_t) n;
        const bool ok = llama_decode(context.get(), batch) == 0;
        llama_batch_free(batch);
        const float * l = ok && output ? llama_get_logits_ith(context.get(), -1) : nullptr;
        return l ? std::vector<float>(l, l + n_vocab) : std::vector<float>();
    }

    // Of all tensors, or of those with cells for a window only.
    uint64_t committed() const {
        uint64_t bytes = 0;
        each([&](const llama_kv_cache &, const ggml_tensor * t) { bytes += committed_bytes(t); });
        return bytes;
    }

    // Bytes that the cells in use take, and a page of each tensor that they fill in part.
    std::pair<uint64_t, uint64_t> bounds() const {
        uint64_t low = 0, high = 0;
        each([&](const llama_kv_cache & cache, const ggml_tensor * t) {
            const uint64_t used = cells_in_use(cache)*t->nb[1];
            low  += used;
            high += used + (used > 0 ? 2*4096*cache.get_n_stream() : 0);
        });
        return { low, high };
    }

    bool follows_use() const {
        const auto [low, high] = bounds();
        return committed() >= low && committed() <= high;
    }

    template <typename F> void each(F && what) const {
        for (const llama_kv_cache * cache : kv_caches_of(llama_get_memory(context.get()))) {
            for (const kv_tensors & layer : kv_tensors_of(*cache)) {
                what(*cache, layer.k);
                what(*cache, layer.v);
            }
        }
    }
};

static bool close_to(const std::vector<float> & a, const std::vector<float> & b, float gap) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](float x, float y) { return std::abs(x - y) <= gap; });
}

static kv_test_model wide_model(const char * plan = "") {
    kv_test_model spec;
    spec.n_layer = 4;
    spec.n_embd  = 256; // heads of 64: a row of 256 bytes is 16 cells to a page
    spec.n_head_kv = 1;
    spec.kv_plan = plan;
    return spec;
}
