#include "kv/eviction/rows.h"

#include "ggml-backend.h"
#include "ggml.h"

#include <cmath>
#include <cstring>

namespace kvfold {

cell_rows::cell_rows(
        const ggml_tensor * tensor, bool transposed, uint32_t stream, std::vector<uint32_t> own, uint32_t n_heads, uint32_t n_embd) :
    tensor(tensor), transposed(transposed), stream(stream), n_heads(n_heads), n_embd(n_embd),
    head_bytes(ggml_row_size(tensor->type, n_embd)), row_bytes(ggml_row_size(tensor->type, tensor->ne[0])), cells(std::move(own)),
    bytes(cells.size()*row_bytes) {
    const size_t         element = ggml_type_size(tensor->type);
    std::vector<uint8_t> column;
    for_each_piece(cells, [&](size_t first, size_t n, size_t at, size_t e) {
        if (!transposed) {
            ggml_backend_tensor_get(tensor, &bytes[first*row_bytes], at, n*row_bytes);
            return;
        }
        column.resize(n*element);
        ggml_backend_tensor_get(tensor, column.data(), at, column.size());
        for (size_t i = 0; i < n; ++i) {
            std::memcpy(&bytes[(first + i)*row_bytes + e*element], &column[i*element], element);
        }
    });
}

// Calls what(first, n, at, e) for each run of cells that lie one after the other: the first of them, how many, where they lie in
// the tensor; and that for each element e where it is transposed.
template <typename F> void cell_rows::for_each_piece(const std::vector<uint32_t> & cells, F && what) const {
    const size_t element = ggml_type_size(tensor->type);
    for (size_t first = 0, n; first < cells.size(); first += n) {
        n = 1;
        while (first + n < cells.size() && cells[first + n] == cells[first] + n) {
            ++n;
        }
        if (!transposed) {
            what(first, n, stream*tensor->nb[2] + cells[first]*tensor->nb[1], 0);
            continue;
        }
        for (size_t e = 0; e < (size_t) tensor->ne[0]; ++e) {
            what(first, n, stream*tensor->nb[2] + (e*tensor->ne[1] + cells[first])*element, e);
        }
    }
}

// Walsh and Hadamard's, orthonormal and its own inverse.
static void rotate(float * x, uint32_t n) {
    for (uint32_t half = 1; half < n; half *= 2) {
        for (uint32_t i = 0; i < n; i += 2*half) {
            for (uint32_t j = i; j < i + half; ++j) {
                const float a = x[j], b = x[j + half];
                x[j]        = a + b;
                x[j + half] = a - b;
            }
        }
    }
    const float scale = 1/std::sqrt((float) n);
    for (uint32_t i = 0; i < n; ++i) {
        x[i] *= scale;
    }
}

std::vector<float> cell_rows::head(uint32_t h, uint32_t n_rotated) const {
    const auto         to_float = ggml_get_type_traits(tensor->type)->to_float; // null: it is F32
    std::vector<float> values(cells.size()*n_embd);
    for (size_t i = 0; i < cells.size(); ++i) {
        const uint8_t * from = &bytes[i*row_bytes + h*head_bytes];
        float *         to   = &values[i*n_embd];
        if (to_float) {
            to_float(from, to, n_embd);
        } else {
            std::memcpy(to, from, head_bytes);
        }
        for (uint32_t at = 0; n_rotated > 0 && at < n_embd; at += n_rotated) {
            rotate(to + at, n_rotated);
        }
    }
    return values;
}

void cell_rows::write(const std::vector<std::vector<uint32_t>> & chosen, const std::vector<uint32_t> & to) const {
    const size_t         n       = chosen[0].size();
    const size_t         element = ggml_type_size(tensor->type);
    std::vector<uint8_t> kept(n*row_bytes);
    std::vector<uint8_t> column;
    for (size_t i = 0; i < n; ++i) {
        for (uint32_t h = 0; h < n_heads; ++h) {
            std::memcpy(&kept[i*row_bytes + h*head_bytes], &bytes[chosen[h][i]*row_bytes + h*head_bytes], head_bytes);
        }
    }
    for_each_piece({ to.begin(), to.begin() + (ptrdiff_t) n }, [&](size_t first, size_t n_cells, size_t at, size_t e) {
        const uint8_t * from = &kept[first*row_bytes];
        if (!transposed) {
            ggml_backend_tensor_set(const_cast<ggml_tensor *>(tensor), from, at, n_cells*row_bytes);
            return;
        }
        column.resize(n_cells*element);
        for (size_t i = 0; i < n_cells; ++i) {
            std::memcpy(&column[i*element], from + i*row_bytes + e*element, element);
        }
        ggml_backend_tensor_set(const_cast<ggml_tensor *>(tensor), column.data(), at, column.size());
    });
}

} // namespace kvfold
