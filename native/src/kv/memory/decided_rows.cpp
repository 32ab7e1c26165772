#include "kv/memory/decided_rows.h"

#include "kv/memory/caches.h"
#include "kv/memory/cell_pages.h"
#include "kv/retention/retention.h"

#include "llama-kv-cache.h"

#include <algorithm>
#include <utility>

namespace kvfold {

stores_rows stored_in(const kvfold_retention & lazy, bool is_window) {
    return [&lazy, is_window](uint32_t il, llama_seq_id seq_id) {
        return !lazy.plan.in_both[il] || lazy.is_in_window(seq_id, (int) il) == is_window;
    };
}

commits_stored_rows::commits_stored_rows(const llama_kv_cache & cache, stores_rows stores) : cache(cache) {
    cache.kv_memory->stores = std::move(stores);
}

commits_stored_rows::~commits_stored_rows() {
    cache.kv_memory->stores = nullptr;
}

static std::vector<const ggml_tensor *> absent_of(const llama_kv_cache & cache, const stores_rows & stores, llama_seq_id seq_id) {
    std::vector<const ggml_tensor *> absent;
    for (const kv_tensors & layer : kv_tensors_of(cache)) {
        if (!stores(layer.il, seq_id)) {
            absent.insert(absent.end(), { layer.k, layer.v });
        }
    }
    return absent;
}

// Of a stream a tensor is a view.
static bool is_among(const std::vector<const ggml_tensor *> & tensors, const ggml_tensor * tensor) {
    return std::find(tensors.begin(), tensors.end(), tensor->view_src ? tensor->view_src : tensor) != tensors.end();
}

stored_rows_writer::stored_rows_writer(llama_io_write_i & to, const llama_kv_cache & cache, const stores_rows & stores, llama_seq_id seq_id)
    : to(to), absent(absent_of(cache, stores, seq_id)) {}

void stored_rows_writer::write_tensor(ggml_tensor * tensor, size_t offset, size_t size) {
    if (!is_among(absent, tensor)) {
        to.write_tensor(tensor, offset, size);
        return;
    }
    zeros.resize(std::max(zeros.size(), size));
    to.write(zeros.data(), size);
}

stored_rows_reader::stored_rows_reader(llama_io_read_i & from, const llama_kv_cache & cache, const stores_rows & stores, llama_seq_id seq_id)
    : from(from), absent(absent_of(cache, stores, seq_id)) {}

void stored_rows_reader::read_tensor(ggml_tensor * tensor, size_t offset, size_t size) {
    if (!is_among(absent, tensor)) {
        from.read_tensor(tensor, offset, size);
        return;
    }
    ignored.resize(std::max(ignored.size(), size));
    from.read(ignored.data(), size);
}

} // namespace kvfold
