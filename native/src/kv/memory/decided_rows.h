// Which rows there are where a layer may turn out lazy: of each sequence in one of two caches.
#pragma once

#include "llama-io.h"
#include "llama.h"

#include <cstdint>
#include <functional>
#include <vector>

class  llama_kv_cache;
struct ggml_tensor;
struct kvfold_retention;

namespace kvfold {

// Whether tokens of a sequence have rows of layer il in a cache.
using stores_rows = std::function<bool(uint32_t il, llama_seq_id seq_id)>;

stores_rows stored_in(const kvfold_retention & lazy, bool is_window);

// As long as it lives, cells of a cache are committed for what is stored there alone.
class commits_stored_rows {
public:
    commits_stored_rows(const llama_kv_cache & cache, stores_rows stores);
    ~commits_stored_rows();

    commits_stored_rows(const commits_stored_rows &)             = delete;
    commits_stored_rows & operator=(const commits_stored_rows &) = delete;

private:
    const llama_kv_cache & cache;
};

// A state has rows of all layers of a cache; these have zeros for those that are not stored there, and do not read them.
class stored_rows_writer : public llama_io_write_i {
public:
    stored_rows_writer(llama_io_write_i & to, const llama_kv_cache & cache, const stores_rows & stores, llama_seq_id seq_id);

    void   write(const void * src, size_t size) override { to.write(src, size); }
    void   write_tensor(ggml_tensor * tensor, size_t offset, size_t size) override;
    size_t n_bytes() override { return to.n_bytes(); }

private:
    llama_io_write_i &               to;
    std::vector<const ggml_tensor *> absent;
    std::vector<uint8_t>             zeros;
};

class stored_rows_reader : public llama_io_read_i {
public:
    stored_rows_reader(llama_io_read_i & from, const llama_kv_cache & cache, const stores_rows & stores, llama_seq_id seq_id);

    void   read(void * dst, size_t size) override { from.read(dst, size); }
    void   read_tensor(ggml_tensor * tensor, size_t offset, size_t size) override;
    size_t n_bytes() override { return from.n_bytes(); }

private:
    llama_io_read_i &                from;
    std::vector<const ggml_tensor *> absent;
    std::vector<uint8_t>             ignored;
};

} // namespace kvfold
