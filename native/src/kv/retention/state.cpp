// What a saved state says of lazy layers: for each sequence whether it is final, n_decisive, and a byte per layer.

#include "kv/retention/retention.h"

#include "llama-io.h"

#include <stdexcept>
#include <string>

void kvfold_retention::write(llama_io_write_i & io, llama_seq_id seq_id) const {
    const uint32_t n = seq_id < 0 ? (uint32_t) sequences.size() : 1;
    io.write(&n, sizeof(n));
    for (uint32_t i = 0; i < n; ++i) {
        const sequence & seq = sequences[seq_id < 0 ? (llama_seq_id) i : seq_id];
        if (!is_settled(seq_id < 0 ? (llama_seq_id) i : seq_id)) {
            throw std::runtime_error("there is no memory for the windows of its lazy layers");
        }
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
        seq.in_window.resize(plan.n_layer);
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
        for (uint32_t il = 0; il < plan.n_layer; ++il) {
            seq.in_window[il] = is_to_move(seq, (int) il);
        }
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
