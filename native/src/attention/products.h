// The two matrix products of a tile that is in F32, with many rows: queries with keys, weights with values. See kernel.h.
#pragma once

#include "attention/operands.h"
#include "attention/vec.h"

namespace kvfold::attention {
namespace {

// For R rows of a and C vectors of columns: put(r, c, sum over i of a[r][i]*b[i][c]).
template <int R, int C, typename put_sum>
inline __attribute__((always_inline)) void multiply(const float * a, int64_t a_stride, const float * b, int64_t b_stride, int64_t depth, put_sum put) {
    vec sum[R][C];
    for (int r = 0; r < R; r++) {
        for (int c = 0; c < C; c++) {
            sum[r][c] = vec{};
        }
    }
    for (int64_t i = 0; i < depth; i++) {
        vec column[C];
        for (int c = 0; c < C; c++) {
            column[c] = load(b + i*b_stride + c*lanes);
        }
        for (int r = 0; r < R; r++) {
            const vec row = all(a[r*a_stride + i]);
            for (int c = 0; c < C; c++) {
                sum[r][c] += row*column[c];
            }
        }
    }
    for (int r = 0; r < R; r++) {
        for (int c = 0; c < C; c++) {
            put(r, c, sum[r][c]);
        }
    }
}

// The same for n rows and C vectors of columns; put_row(r) gives what `put` does with row r.
template <int C, typename put_sum>
inline void multiply_rows(const float * a, int64_t a_stride, int n, const float * b, int64_t b_stride, int64_t depth, put_sum put) {
    constexpr int R = accumulators/C < 4 ? accumulators/C : 4;
    int r = 0;
    for (; r + R <= n; r += R) {
        multiply<R, C>(a + r*a_stride, a_stride, b, b_stride, depth, [&](int i, int c, vec sum) { put(r + i, c, sum); });
    }
    if constexpr (R > 2) {
        if (n - r == 3) {
            multiply<3, C>(a + r*a_stride, a_stride, b, b_stride, depth, [&](int i, int c, vec sum) { put(r + i, c, sum); });
            return;
        }
    }
    if constexpr (R > 2) {
        if (n - r >= 2) {
            multiply<2, C>(a + r*a_stride, a_stride, b, b_stride, depth, [&](int i, int c, vec sum) { put(r + i, c, sum); });
            r += 2;
        }
    }
    if (r < n) {
        multiply<1, C>(a + r*a_stride, a_stride, b, b_stride, depth, [&](int i, int c, vec sum) { put(r + i, c, sum); });
    }
}

// The same for n rows and `width` columns, a multiple of the lanes. put(r, first column, sum)
template <typename put_sum>
inline void multiply_all(
        const float * a, int64_t a_stride, int n, const float * b, int64_t b_stride, int64_t width, int64_t depth, put_sum put) {
    int64_t d = 0;
    const auto columns = [&](auto vectors) {
        constexpr int C = decltype(vectors)::value;
        for (; d + C*lanes <= width; d += C*lanes) {
            multiply_rows<C>(a, a_stride, n, b + d, b_stride, depth, [&](int r, int c, vec sum) { put(r, d + c*lanes, sum); });
        }
    };
    if (n < 4) {
        columns(std::integral_constant<int, accumulators/2>{}); // few rows need more columns to keep the processor busy
    }
    columns(std::integral_constant<int, accumulators/4>{});
    if constexpr (accumulators/4 > 2) {
        columns(std::integral_constant<int, 2>{});
    }
    columns(std::integral_constant<int, 1>{});
}

inline void transpose_tile(const float * keys, int64_t stride, float * columns) {
    for (int64_t d = 0; d < stride; d += lanes) {
        for (int j = 0; j < tile_keys; j += lanes) {
            vec square[lanes];
            for (int i = 0; i < lanes; i++) {
                square[i] = load(keys + (j + i)*stride + d);
            }
            transpose(square);
            for (int i = 0; i < lanes; i++) {
                store(columns + (d + i)*tile_keys + j, square[i]);
            }
        }
    }
}

} // namespace
} // namespace kvfold::attention
