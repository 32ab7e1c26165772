// A small model with seeded random weights, written as a GGUF file: what the tests of the KV cache run on.
#pragma once

#include "ggml-cpp.h"
#include "ggml.h"
#include "gguf.h"

#include "hooks/kv-plan.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

struct kv_test_model {
    std::string arch = "llama"; // or one with the same tensors: qwen2, qwen3, gemma, gemma2, internlm2, xverse
    uint32_t n_layer   = 8;
    uint32_t n_embd    = 64;
    uint32_t n_head    = 4;
    uint32_t n_head_kv = 2;
    uint32_t n_ff      = 96;
    uint32_t n_vocab   = 128;
    uint32_t n_ctx     = 512;
    uint32_t seed      = 1;
    std::string kv_plan; // empty: no metadata, all layers have key and value weights

    // keys that replace or add to those of the plan, for files that are wrong on purpose
    void (*edit)(gguf_context *) = nullptr;

    uint32_t n_embd_head() const { return n_embd/n_head; }

    void write(const std::string & path) const {
        std::mt19937 rng(seed);
        std::normal_distribution<float> normal(0.0f, 1.0f);

        ggml_init_params params = { size_t(64) << 20, nullptr, false };
        ggml_context_ptr ctx { ggml_init(params) };
        gguf_context_ptr gguf { gguf_init_empty() };
        gguf_context * g = gguf.get();

        const auto key = [&](const char * name) { return arch + "." + name; };
        gguf_set_val_str(g, "general.architecture", arch.c_str());
        gguf_set_val_u32(g, key("context_length").c_str(), n_ctx);
        gguf_set_val_u32(g, key("embedding_length").c_str(), n_embd);
        gguf_set_val_u32(g, key("block_count").c_str(), n_layer);
        gguf_set_val_u32(g, key("feed_forward_length").c_str(), n_ff);
        gguf_set_val_u32(g, key("attention.head_count").c_str(), n_head);
        gguf_set_val_u32(g, key("attention.head_count_kv").c_str(), n_head_kv);
        gguf_set_val_f32(g, key("attention.layer_norm_rms_epsilon").c_str(), 1e-5f);
        gguf_set_val_u32(g, key("rope.dimension_count").c_str(), n_embd_head());
        gguf_set_val_f32(g, key("rope.freq_base").c_str(), 10000.0f);
        gguf_set_val_u32(g, key("vocab_size").c_str(), n_vocab);
        gguf_set_val_str(g, "tokenizer.ggml.model", "none");

        kvfold_plan plan;
        if (!kv_plan.empty()) {
            plan = kvfold_plan_parse(kv_plan, n_layer);
            set_plan(g, plan);
        }
        if (edit) {
            edit(g);
        }

        const auto tensor = [&](const std::string & name, std::vector<int64_t> ne, float mean, float scale) {
            ggml_tensor * t = ggml_new_tensor(ctx.get(), GGML_TYPE_F32, (int) ne.size(), ne.data());
            ggml_set_name(t, name.c_str());
            float * data = (float *) t->data;
            for (int64_t i = 0; i < ggml_nelements(t); ++i) {
                data[i] = mean + scale*normal(rng);
            }
            gguf_add_tensor(g, t);
        };
        const auto matrix = [&](const std::string & name, int64_t n_in, int64_t n_out) {
            tensor(name, { n_in, n_out }, 0.0f, 0.9f/std::sqrt((float) n_in));
        };

        matrix("token_embd.weight", n_embd, n_vocab);
        tensor("output_norm.weight", { n_embd }, 1.0f, 0.1f);
        if (arch != "gemma" && arch != "gemma2") { // whose output is the token embedding
            matrix("output.weight", n_embd, n_vocab);
        }

        const int64_t n_embd_kv = (int64_t) n_embd_head()*n_head_kv;
        for (uint32_t il = 0; il < n_layer; ++il) {
            const std::string p = "blk." + std::to_string(il) + ".";
            tensor(p + "attn_norm.weight", { n_embd }, 1.0f, 0.1f);
            tensor(p + "ffn_norm.weight", { n_embd }, 1.0f, 0.1f);
            matrix(p + "attn_q.weight", n_embd, n_embd);
            if (plan.is_producer(il)) {
                matrix(p + "attn_k.weight", n_embd, n_embd_kv);
                matrix(p + "attn_v.weight", n_embd, n_embd_kv);
            }
            matrix(p + "attn_output.weight", n_embd, n_embd);
            matrix(p + "ffn_gate.weight", n_embd, n_ff);
            matrix(p + "ffn_up.weight", n_embd, n_ff);
            matrix(p + "ffn_down.weight", n_ff, n_embd);
            if (arch == "gemma2") {
                tensor(p + "post_attention_norm.weight", { n_embd }, 1.0f, 0.1f);
                tensor(p + "post_ffw_norm.weight", { n_embd }, 1.0f, 0.1f);
            }
            if (arch == "qwen2") {
                tensor(p + "attn_q.bias", { n_embd }, 0.0f, 0.1f);
                if (plan.is_producer(il)) {
                    tensor(p + "attn_k.bias", { n_embd_kv }, 0.0f, 0.1f);
                    tensor(p + "attn_v.bias", { n_embd_kv }, 0.0f, 0.1f);
                }
            }
            if (arch == "qwen3") {
                tensor(p + "attn_q_norm.weight", { n_embd_head() }, 1.0f, 0.1f);
                if (plan.is_producer(il)) {
                    tensor(p + "attn_k_norm.weight", { n_embd_head() }, 1.0f, 0.1f);
                }
            }
        }
        gguf_write_to_file(g, path.c_str(), false);
    }

    void set_plan(gguf_context * g, const kvfold_plan & plan) const {
        const auto name = [&](const char * key) {
            char text[256];
            snprintf(text, sizeof(text), key, arch.c_str());
            return std::string(text);
        };
        std::vector<int32_t> map(plan.kv.begin(), plan.kv.begin() + n_layer);
        gguf_set_arr_data(g, name(KVFOLD_KEY_LAYER_MAP).c_str(), GGUF_TYPE_INT32, map.data(), n_layer);
        if (plan.strict) {
            gguf_set_val_bool(g, name(KVFOLD_KEY_STRICT_DIAGONAL).c_str(), true);
        }
        if (plan.passes_given) {
            gguf_set_val_u32(g, name(KVFOLD_KEY_PREFILL_PASSES).c_str(), plan.n_passes);
        }
        if (plan.n_swa) {
            gguf_set_arr_data(g, name(KVFOLD_KEY_WINDOW_LAYERS).c_str(), GGUF_TYPE_BOOL, plan.window.data(), n_layer);
            gguf_set_val_u32(g, name(KVFOLD_KEY_WINDOW).c_str(), plan.n_swa);
        }
        if (plan.n_sinks) {
            gguf_set_val_u32(g, name(KVFOLD_KEY_WINDOW_SINKS).c_str(), plan.n_sinks);
        }
    }
};
