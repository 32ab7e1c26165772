// Fills a KV cache for benchmarks: what keys and values hold does not change how long it takes to attend to them.
#pragma once

#ifndef KVFOLD_UNPATCHED
#    include "kv/memory/caches.h"
#    include "kv/memory/layout.h"

#    include "llama-kv-cache.h"
#endif

#include "llama-batch.h"
#include "llama-memory.h"
#include "llama.h"

#include "ggml-backend.h"

#include <algorithm>
#include <stdexcept>
#include <string>

// Marks cells as positions [0, n) of sequences [0, n_seq) without computing them, in a memory that is empty before, and fills
// all of it with one small number, so that it is there to be read.
inline void fill_cache(llama_context * context, int n_seq, int n) {
    llama_memory_t memory = llama_get_memory(context);
    const llama_model * model = llama_get_model(context);
    llama_memory_clear(memory, false);
    for (int from = 0; from < n; from += 512) {
        const int   to    = std::min(from + 512, n);
        llama_batch batch = llama_batch_init(n_seq*(to - from), 0, 1);
        for (int seq = 0; seq < n_seq; seq++) {
            for (int pos = from; pos < to; pos++) {
                const int t        = batch.n_tokens++;
                batch.token[t]     = 0;
                batch.pos[t]       = pos;
                batch.n_seq_id[t]  = 1;
                batch.seq_id[t][0] = seq;
                batch.logits[t]    = pos == to - 1;
            }
        }
        llama_batch_allocr split(1);
        const bool valid = split.init(batch, *llama_model_get_vocab(model), memory, llama_model_n_embd(model), LLAMA_MAX_SEQ, false);
        const auto cells = valid ? memory->init_batch(split, llama_n_ubatch(context), false) : nullptr;
        llama_batch_free(batch);
        if (!cells || cells->get_status() != LLAMA_MEMORY_STATUS_SUCCESS) {
            throw std::runtime_error("no room for " + std::to_string(n_seq) + " x " + std::to_string(n) + " tokens");
        }
        do {
            cells->apply();
        } while (cells->next());
    }
#ifndef KVFOLD_UNPATCHED
    for (const llama_kv_cache * cache : kvfold::kv_caches_of(memory)) {
        for (const kvfold::kv_tensors & layer : kvfold::kv_tensors_of(*cache)) {
            ggml_backend_tensor_memset(const_cast<ggml_tensor *>(layer.k), 0x11, 0, ggml_nbytes(layer.k));
            ggml_backend_tensor_memset(const_cast<ggml_tensor *>(layer.v), 0x11, 0, ggml_nbytes(layer.v));
        }
    }
#endif
}
