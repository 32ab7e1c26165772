// What patched code tells about the memory of a KV cache: which cells are about to be written and which became empty.
// Implemented in kv/memory.
#ifndef KVFOLD_KV_MEMORY_H
#define KVFOLD_KV_MEMORY_H

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

struct ggml_backend_buffer_type;
struct llama_context;
struct llama_memory_i;
class  llama_kv_cache;

struct kvfold_cell_range {
    uint32_t first = UINT32_MAX;
    uint32_t last  = 0; // excluded

    bool empty() const { return first >= last; }
};

// The indices of used cells, which remembers between which of them some were erased.
class kvfold_cell_set : public std::set<uint32_t> {
public:
    void erase(uint32_t i) {
        note(i, i + 1);
        std::set<uint32_t>::erase(i);
    }

    void clear() {
        if (!empty()) {
            note(*begin(), *rbegin() + 1);
        }
        std::set<uint32_t>::clear();
    }

    // What was erased since the last call, and perhaps inserted again.
    kvfold_cell_range take_erased() const {
        const kvfold_cell_range range = erased;
        erased = {};
        return range;
    }

private:
    void note(uint32_t first, uint32_t last) {
        erased.first = std::min(erased.first, first);
        erased.last  = std::max(erased.last, last);
    }

    mutable kvfold_cell_range erased;
};

// The buffer type for keys and values in place of `buft`: host memory or memory of a CUDA device that is committed as it
// fills, where the system can do that; else `buft` itself.
ggml_backend_buffer_type * kvfold_kv_buffer_type(ggml_backend_buffer_type * buft);

// What is known about the memory of a cache's tensors; made when they are allocated.
struct kvfold_kv_memory;
std::shared_ptr<kvfold_kv_memory> kvfold_make_kv_memory(const llama_kv_cache & cache);

// Keys and values are about to be written to these cells: idxs[s] of stream strm[s]. False if there is no memory for them.
bool kvfold_commit_cells(const llama_kv_cache & cache, const std::vector<int32_t> & strm, const std::vector<std::vector<uint32_t>> & idxs);

// Cells have been assigned to a ubatch.
void kvfold_cells_assigned(const llama_kv_cache & cache);

// Copies the keys and values of the cells that one stream uses to another. False, and nothing is copied, if there is no memory for them.
bool kvfold_copy_cells(const llama_kv_cache & cache, uint32_t from, uint32_t to);

// Whether every cache of the context has cells of the sequence, which those lack whose copy was refused.
bool kvfold_has_cells(const llama_context * context, int32_t seq_id);

// How to wait until nothing computes with the caches of a memory any more; called as long as its context lives.
void kvfold_synchronize_with(llama_memory_i * memory, const std::function<void()> & wait);

// The error of a batch for which llama.cpp found no cells, after kvfold_commit_cells() has found no memory for them.
void kvfold_explain_full_cache(llama_context * context, std::string & error);

// Gives the memory of cells that became empty back to the system, at the end of its scope.
class kvfold_release_unused {
public:
    explicit kvfold_release_unused(llama_memory_i * memory) : memory(memory) {}
    ~kvfold_release_unused();

    kvfold_release_unused(const kvfold_release_unused &) = delete;
    kvfold_release_unused & operator=(const kvfold_release_unused &) = delete;

private:
    llama_memory_i * memory;
};

#endif
