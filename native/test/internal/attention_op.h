// One flash_attn_ext with operands of its own, laid out as llama.cpp lays them out, on ggml's CPU backend.
#pragma once

#include "attention/attention.h"

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

struct attention_shape {
    int64_t   d_k        = 64;
    int64_t   d_v        = 64;
    int64_t   n_heads    = 8;
    int64_t   n_kv_heads = 2;
    int64_t   n_tokens   = 1;
    int64_t   n_kv       = 256;
    int64_t   n_streams  = 1;
    int64_t   n_masks    = 1;
    int64_t   n_mask_streams = 0; // 0: n_streams
    ggml_type type_k     = GGML_TYPE_F16;
    ggml_type type_v     = GGML_TYPE_F16;
    bool      masked     = true;
    bool      sinks      = false;
    float     softcap    = 0.0f;
    float     max_bias   = 0.0f;
    float     scale      = 0.125f;

    int64_t mask_streams() const { return n_mask_streams > 0 ? n_mask_streams : n_streams; }

    std::string text() const {
        return std::to_string(n_heads) + " heads, " + std::to_string(n_kv_heads) + " KV heads of " + std::to_string(d_k) + "/" +
               std::to_string(d_v) + ", " + std::to_string(n_tokens) + " tokens, " + std::to_string(n_kv) + " keys, " +
               std::to_string(n_streams) + " streams, " + std::to_string(n_masks) + " x " + std::to_string(mask_streams()) + " masks, " + ggml_type_name(type_k) + "/" +
               ggml_type_name(type_v) + (masked ? ", masked" : "") + (sinks ? ", sinks" : "") +
               (softcap != 0 ? ", softcap " + std::to_string(softcap) : "") + (max_bias != 0 ? ", ALiBi " + std::to_string(max_bias) : "");
    }
};

// `n_layers` such ops in one graph, each with keys and values of its own; the rest they share.
struct attention_op {
    attention_shape       shape;
    ggml_context_ptr      context;
    ggml_backend_t        backend; // not owned
    ggml_backend_buffer_ptr buffer;
    ggml_cgraph *         graph = nullptr;
    ggml_tensor *         q     = nullptr; // F32 [d_k, n_heads, n_tokens, n_streams]
    ggml_tensor *         mask  = nullptr; // F16 [n_kv, n_tokens, n_masks, n_mask_streams]
    ggml_tensor *         sinks = nullptr; // F32 [n_heads]
    std::vector<ggml_tensor *> k;          // type_k [d_k, n_kv_heads, n_kv, n_streams]
    std::vector<ggml_tensor *> v;          // type_v [d_v, n_kv_heads, n_kv, n_streams]
    std::vector<ggml_tensor *> out;        // F32 [d_v, n_heads, n_tokens, n_streams]

    attention_op(const attention_shape & s, ggml_backend_t backend, int n_layers = 1) : shape(s), backend(backend) {
        context.reset(ggml_init({ ggml_tensor_overhead()*(8 + 6*(size_t) n_layers) + ggml_graph_overhead(), nullptr, true }));
        ggml_context * ctx = context.get();
        q = ggml_new_tensor_4d(ctx, GGML_TYPE_F32, s.d_k, s.n_heads, s.n_tokens, s.n_streams);
        mask  = s.masked ? ggml_new_tensor_4d(ctx, GGML_TYPE_F16, s.n_kv, s.n_tokens, s.n_masks, s.mask_streams()) : nullptr;
        sinks = s.sinks ? ggml_new_tensor_1d(ctx, GGML_TYPE_F32, s.n_heads) : nullptr;
        graph = ggml_new_graph(ctx);
        for (int i = 0; i < n_layers; i++) {
            k.push_back(ggml_new_tensor_4d(ctx, s.type_k, s.d_k, s.n_kv_heads, s.n_kv, s.n_streams));
            v.push_back(ggml_new_tensor_4d(ctx, s.type_v, s.d_v, s.n_kv_heads, s.n_kv, s.n_streams));
            out.push_back(ggml_flash_attn_ext(ctx, ggml_permute(ctx, q, 0, 2, 1, 3), ggml_permute(ctx, k[i], 0, 2, 1, 3),
                    ggml_permute(ctx, v[i], 0, 2, 1, 3), mask, s.scale, s.max_bias, s.softcap));
            ggml_flash_attn_ext_add_sinks(out[i], sinks);
            ggml_prec_set_acc(out[i], GGML_PREC_F32);
            ggml_build_forward_expand(graph, out[i]);
        }
        buffer.reset(ggml_backend_alloc_ctx_tensors(ctx, backend));
    }

    // With ggml's kernel, if `kernel` is null.
    void compute(const kvfold::attention::kernel * kernel) const {
        for (ggml_tensor * t : out) {
            kvfold::attention::mark(*t, kernel != nullptr);
        }
        if (kernel) {
            kvfold::attention::choose_kernel(kernel);
        }
        ggml_backend_graph_compute(backend, graph);
    }

    std::vector<float> result(int layer = 0) const {
        std::vector<float> values(ggml_nelements(out[layer]));
        ggml_backend_tensor_get(out[layer], values.data(), 0, values.size()*sizeof(float));
        return values;
    }
};

// Writes values in the tensor's own type.
inline void set_values(ggml_tensor * t, const std::vector<float> & values) {
    std::vector<uint8_t> bytes(ggml_nbytes(t));
    if (t->type == GGML_TYPE_F32) {
        ggml_backend_tensor_set(t, values.data(), 0, bytes.size());
        return;
    }
    ggml_quantize_chunk(t->type, values.data(), bytes.data(), 0, ggml_nrows(t), t->ne[0], nullptr);
    ggml_backend_tensor_set(t, bytes.data(), 0, bytes.size());
}

// What a tensor holds, as its type rounded it.
inline std::vector<float> get_values(const ggml_tensor * t) {
    std::vector<float>   values(ggml_nelements(t));
    std::vector<uint8_t> bytes(ggml_nbytes(t));
    ggml_backend_tensor_get(t, bytes.data(), 0, bytes.size());
    if (t->type == GGML_TYPE_F32) {
        memcpy(values.data(), bytes.data(), bytes.size());
    } else {
        ggml_get_type_traits(t->type)->to_float(bytes.data(), values.data(), (int64_t) values.size());
    }
    return values;
}
