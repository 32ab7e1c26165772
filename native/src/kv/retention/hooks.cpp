// What patched code calls about lazy layers, and what a saved state says of them.

#include "hooks/kv-lazy-layers.h"

#include "kv/retention/retention.h"
#include "kv/state/plan_hash.h"

#include "llama-io.h"
#include "llama-kv-cache.h"

#include <memory>
#include <stdexcept>
#include <string>

// ---- saved states: for each sequence its id, whether it is final, n_decisive, and a byte per layer

void kvfold_retention::write(llama_io_write_i & io, llama_seq_id seq_id) const {
    const uint32_t n = seq_id < 0 ? (uint32_t) sequences.size() : 1;
    io.write(&n, sizeof(n));
    for (uint32_t i = 0; i < n; ++i) {
        const sequence & seq = sequences[seq_id < 0 ? (llama_seq_id) i : seq_id];
        const uint32_t final = seq.final;
        io.write(&final, sizeof(final));
        io.write(&seq.n_decisive, sizeof(seq.n_decisive));
        io.write(seq.lazy.data(), seq.lazy.size());
    }
}

void kvfold_retention::read(llama_io_read_i & io, llama_seq_id seq_id) {
    uint32_t n = 0;
    io.read(&n, sizeof(n));
    if (n != (seq_id < 0 ? sequences.size() : 1)) {
        throw std::runtime_error("the saved state has the lazy layers of " + std::to_string(n) + " sequences");
    }
    for (uint32_t i = 0; i < n; ++i) {
        sequence seq;
        seq.lazy.resize(plan.n_layer);
        uint32_t final = 0;
        io.read(&final, sizeof(final));
        io.read(&seq.n_decisive, sizeof(seq.n_decisive));
        io.read(seq.lazy.data(), seq.lazy.size());
        for (uint32_t il = 0; il < plan.n_layer; ++il) {
            if (seq.lazy[il] > plan.candidate[il]) {
                throw std::runtime_error("the saved state says that layer " + std::to_string(il) + " is lazy");
            }
        }
        seq.final = final != 0;
        const std::lock_guard<std::mutex> lock(mutex);
        const llama_seq_id to = seq_id < 0 ? (llama_seq_id) i : seq_id;
        sequences[to] = std::move(seq);
        note_needs(to);
    }
}

// The cells of a state fill both caches. llama.cpp writes what it has read at the end only, so nothing is given back before
// the next batch.
void kvfold_retention::restored() {
    refilled = true;
}

void kvfold_attach_retention(const kvfold_plan & plan, llama_kv_cache & full, llama_kv_cache & window) {
    if (plan.is_automatic()) {
        full.retention = window.retention = std::make_shared<kvfold_retention>(plan, full, window);
    }
}

void kvfold_retention_rm(llama_kv_cache & full, int32_t seq_id, int32_t p0, int32_t p1) {
    if (full.retention) {
        full.retention->remove(seq_id, p0, p1);
    }
}

void kvfold_retention_cp(llama_kv_cache & full, int32_t seq_id_src, int32_t seq_id_dst) {
    if (full.retention) {
        full.retention->copy(seq_id_src, seq_id_dst);
    }
}

void kvfold_retention_keep(llama_kv_cache & full, int32_t seq_id) {
    if (full.retention) {
        full.retention->keep(seq_id);
    }
}

bool kvfold_retention_keeps_all(const llama_kv_cache & full, int32_t seq_id) {
    return full.retention && full.retention->keeps_all(seq_id);
}

void kvfold_retention_write(const llama_kv_cache & full, llama_io_write_i & io, int32_t seq_id) {
    if (full.retention) {
        kvfold_plan_hash_write(full.retention->plan, io);
        full.retention->write(io, seq_id);
    }
}

void kvfold_retention_read(llama_kv_cache & full, llama_io_read_i & io, int32_t seq_id) {
    if (full.retention) {
        kvfold_plan_hash_read(full.retention->plan, io);
        full.retention->read(io, seq_id);
    }
}

void kvfold_retention_restored(llama_kv_cache & full) {
    if (full.retention) {
        full.retention->restored();
    }
}
