// The memory of a model whose layers do not all keep the same tokens: a cache of llama.cpp for each class of layers.
#pragma once

#include "llama-kv-cache.h"
#include "llama-memory.h"

#include <map>
#include <memory>
#include <vector>

struct kvfold_retention;
struct llama_cparams;
struct llama_model;

namespace kvfold {

class evictor;

// Layers that keep the same tokens of a sequence: all of them, or its first ones and those of a window. A layer that may turn
// out lazy is in a class of either kind, and its keys and values of one sequence in one of them.
struct layer_class {
    bool                            is_window;
    std::unique_ptr<llama_kv_cache> cells;
    uint32_t                        n_of_sequence; // cells that one sequence has at most when a batch begins
};

class folded_memory : public llama_memory_i {
public:
    folded_memory(const llama_model & model, const llama_memory_params & params, const llama_cparams & cparams);
    ~folded_memory() override;

    // The first one keeps every token. There is a second one if some layer keeps a window.
    const std::vector<layer_class> & classes() const { return by_class; }

    // Sequences that have room for a window beside those that batches are made of.
    uint32_t n_kept() const { return n_more; }

    // Null under a plan that says itself which layers read through a window.
    kvfold_retention * retention() const { return lazy.get(); }

    // Null under a plan that evicts nothing.
    kvfold::evictor * evictor() const { return evicts.get(); }

    // As seq_cp() does it with the first n_tokens for a sequence that has none, but where tokens are evicted no cells are shared of which
    // some might go. False if there is no room for that.
    bool copy_beginning(llama_seq_id from, llama_seq_id to, llama_pos n_tokens);

    // What is decided about tokens, but not done yet: evictor::settle() and kvfold_retention::settle().
    void settle(llama_seq_id seq_id = -1);

    // Whether what a token at `next` sees of the sequence's windows is there.
    bool has_window(llama_seq_id seq_id, llama_pos next) const;

    llama_memory_context_ptr init_batch(llama_batch_allocr & balloc, uint32_t n_ubatch, bool embd_all) override;
    llama_memory_context_ptr init_full() override;
    llama_memory_context_ptr init_update(llama_context * lctx, bool optimize) override;

    bool get_can_shift() const override;

    void clear(bool data) override;

    bool seq_rm  (llama_seq_id seq_id, llama_pos p0, llama_pos p1) override;
    void seq_cp  (llama_seq_id seq_id_src, llama_seq_id seq_id_dst, llama_pos p0, llama_pos p1) override;
    void seq_keep(llama_seq_id seq_id) override;
    void seq_add (llama_seq_id seq_id, llama_pos p0, llama_pos p1, llama_pos shift) override;
    void seq_div (llama_seq_id seq_id, llama_pos p0, llama_pos p1, int d) override;

    llama_pos seq_pos_min(llama_seq_id seq_id) const override;
    llama_pos seq_pos_max(llama_seq_id seq_id) const override;

    std::map<ggml_backend_buffer_type_t, size_t> memory_breakdown() const override;

    void state_write(llama_io_write_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) const override;
    void state_read (llama_io_read_i & io, llama_seq_id seq_id, llama_state_seq_flags flags) override;

private:
    void add_class(
            const llama_model & model, const llama_memory_params & params, const llama_cparams & cparams, bool is_window, uint32_t n_cells,
            uint32_t n_of_sequence);

    // Leaves a sequence, or each (-1), the cells of a window class that a later token may see.
    void forget(llama_seq_id seq_id = -1);

    // The class that says which positions of a sequence are there.
    const layer_class & narrowest(llama_seq_id seq_id) const;

    bool is_in_state(const layer_class & each, llama_state_seq_flags flags) const;

    const llama_hparams &             hparams;
    const bool                        unified;
    const bool                        forgets;
    const uint32_t                    n_more;
    std::vector<layer_class>          by_class;
    std::unique_ptr<kvfold_retention> lazy;
    std::unique_ptr<kvfold::evictor>  evicts; // from the first class
};

class folded_context : public llama_memory_context_i {
public:
    explicit folded_context(llama_memory_status failed);

    // `parts`: one of each class.
    folded_context(const folded_memory & memory, std::vector<llama_memory_context_ptr> parts, std::vector<llama_ubatch> ubatches = {});

    bool next() override;
    bool apply() override;

    const llama_ubatch & get_ubatch() const override { return ubatches[i_next]; }
    llama_memory_status  get_status() const override { return status; }

    const llama_kv_cache_context * full() const { return part(0); }
    const llama_kv_cache_context * window() const { return parts.size() > 1 ? part(1) : nullptr; } // null: no layer keeps one

    kvfold_retention * retention() const { return memory->retention(); }
    kvfold::evictor *  evictor() const { return memory->evictor(); }

private:
    const llama_kv_cache_context * part(size_t i) const { return static_cast<const llama_kv_cache_context *>(parts[i].get()); }

    const folded_memory * const                 memory = nullptr;
    const std::vector<llama_memory_context_ptr> parts;
    const std::vector<llama_ubatch>             ubatches;
    size_t                                      i_next = 0;
    const llama_memory_status                   status;
};

// Null of a memory without lazy layers.
kvfold_retention * retention_of(const llama_memory_i * memory);

// Null of a memory that evicts nothing.
evictor * evictor_of(const llama_memory_i * memory);

// The first tokens of a sequence that decided what is there of it: which layers are lazy, what was evicted. 0: none did.
llama_pos decisive_tokens(const llama_memory_i * memory, llama_seq_id seq_id);

// Whether a prompt may go on after n tokens of a sequence of which the first ones have decided something: not where these end, unless it
// goes on with the answer to them.
inline bool goes_on_after(llama_pos n_decisive, llama_pos n) {
    return n_decisive == 0 || n > n_decisive;
}

// Whether a prompt of n_prompt tokens that goes on after the first n ones of a sequence decides as it does alone. restored: from a
// checkpoint, which has no queries.
bool may_go_on(const llama_memory_i * memory, llama_seq_id seq_id, llama_pos n, llama_pos n_prompt, bool restored);

// As folded_memory::has_window(), of any memory; llama.cpp's own goes on with a sequence if it has two tokens before the window of the
// next one, and with one that is no longer than a window from a checkpoint only.
bool has_window(const llama_memory_i * memory, const llama_model & model, llama_seq_id seq_id, llama_pos next);

// As kvfold_retention::is_settled(); true of any other memory.
bool is_settled(const llama_memory_i * memory, llama_seq_id seq_id);

// As folded_memory::settle() and copy_beginning(), of any memory.
void settle_memory(llama_memory_i * memory, llama_seq_id seq_id = -1);
bool copy_beginning(llama_memory_i * memory, llama_seq_id from, llama_seq_id to, llama_pos n_tokens);

} // namespace kvfold
