// What a context's KV cache consists of. Read once after loading; the tensors do not move while the engine is open.
#pragma once

#include "kv/memory/caches.h"

#include <cstdint>
#include <map>
#include <set>
#include <vector>

struct ggml_backend_buffer;
struct kvfold_plan;
struct kvfold_retention;
struct llama_context;

namespace kvfold {

class evictor;

struct kv_layout {
    struct cache {
        const llama_kv_cache *  cells;
        uint64_t                cells_per_stream;
        uint64_t                cells_of_sequence; // at most when a batch begins
        std::vector<kv_tensors> layers;
    };

    uint64_t cells               = 0; // tokens that fit, all streams together
    uint64_t layers_with_storage = 0;
    uint64_t bytes_per_token     = 0; // one K row and one V row of every layer with storage
    uint64_t bytes_allocated     = 0; // all K and V tensors; address space where memory is committed as it fills
    uint64_t bytes_whole         = 0; // of these, what is not committed as it fills
    uint64_t bytes_paged         = 0; // what can be committed at all: whole buffers

    uint64_t window          = 0; // tokens of a sequence that the layers of the second cache keep, sinks included

    uint64_t n_batch             = 1; // tokens of a batch
    uint64_t tokens_at_once      = 1; // of a sequence in a batch after its prompt: more than one where some are drafted

    const kvfold_retention * retention = nullptr; // where sequences decide which layers are lazy
    const evictor *          evicts    = nullptr; // where they lose tokens
    const kvfold_plan *      plan      = nullptr; // by which they do

    std::vector<cache>                       caches;  // none where only the total size is known
    std::vector<const ggml_backend_buffer *> buffers; // that hold these tensors
    std::map<const ggml_tensor *, uint64_t>  ahead;   // bytes of a tensor on a page that counts for the one before it

    // How many of the layers in both caches turn out lazy whatever the prompt.
    uint64_t lazy_at_least() const;

    // What n_tokens of one sequence commit at most, in whole pages, if they are computed n_at_once at a time. Layers with cells
    // for a window only count these; a layer that may turn out lazy counts in the cache where it takes more.
    uint64_t bytes_for(uint64_t n_tokens, uint64_t n_at_once) const;

    // What a sequence commits at most until it has n_tokens, the first n_prompt of which are a prompt; 0: none is known.
    //
    // With automatic retention this is the larger of two moments. While the prompt is computed layers that may turn out lazy are in the
    // full cache. Once the sequence has decided, at the end of its prompt or with the first token after it, those that are lazy
    // are in the other one: by threshold this may be none, by number all but as many as the plan says. A prompt too short to decide
    // on leaves them in the full one to the end. Where tokens are evicted
    // the two moments are the end of the prompt, when all of it is there, or of the chunk with the most tokens, and when the answer has
    // the most, which is its end unless tokens are evicted from it, too.
    uint64_t peak_for(uint64_t n_prompt, uint64_t n_tokens, uint64_t n_at_once) const;

    // Of a pool with cells for whatever a budget holds; what this one cuts short may be more there.
    kv_layout without_bounds() const;

    // Cells that a prompt takes at most while it is computed, and an answer of n_answer tokens with what is left of it.
    uint64_t cells_for_prompt(uint64_t n_prompt) const;
    uint64_t cells_for_answer(uint64_t n_prompt, uint64_t n_answer) const;

    // The most tokens of one sequence whose peak is no more than this.
    uint64_t tokens_for(uint64_t bytes, uint64_t n_prompt, uint64_t n_at_once) const;

    // Rows of layer il in so many cells of a cache, which are those of a sequence, or of all (-1). For any thread.
    uint64_t n_rows_of(const cache & in, int il, uint64_t n_cells, int32_t seq_id) const;

    // What the cells of a sequence hold now, for the layers that it keeps in each cache.
    uint64_t bytes_held(int32_t seq_id) const;

    // As much of n_cells[c] cells in each cache, which belong to this sequence.
    uint64_t bytes_held(int32_t seq_id, const std::vector<uint64_t> & n_cells) const;

    // What cells hold that none of these sequences has. On the thread that decodes.
    uint64_t bytes_held_without(const std::set<int32_t> & seq_ids) const;
};

kv_layout read_kv_layout(const llama_context * context);

struct kv_usage {
    struct layer {
        uint32_t il          = 0;
        uint64_t bytes_row   = 0;
        uint64_t window      = 0; // tokens; 0: all
        bool     may_be_lazy = false;
        uint64_t allocated   = 0;
        uint64_t committed   = 0; // what of that takes memory
        uint64_t in_use      = 0; // rows that some sequence keeps in cells with a token
    };

    std::vector<layer> layers; // with storage

    // Sums over the layers. Where none is known: what there is as a whole.
    uint64_t allocated = 0;
    uint64_t committed = 0;
    uint64_t in_use    = 0;

    std::vector<uint64_t> in_use_by_seq; // rows that several sequences share are in each
};

// What all of it takes now, and the first n_seqs sequences. May be called while another thread computes.
kv_usage usage_now(const kv_layout & layout, uint32_t n_seqs);

} // namespace kvfold
