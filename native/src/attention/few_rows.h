// The two products of a tile with a few rows, as in decode: keys and values are brought into F32 in registers, for all rows,
// and never written. See kernel.h.
#pragma once

#include "attention/codecs.h"
#include "attention/operands.h"
#include "attention/vec.h"

#define KVFOLD_INLINED __attribute__((always_inline)) // of a lambda: a call would put the vectors into memory

namespace kvfold::attention {
namespace {

constexpr int vectors_of_part = 16/lanes;

// Rows for which there are registers.
constexpr int few_rows = smaller(accumulators/vectors_of_part, 8);

constexpr int power_of_two_up_to(int n) { return n < 2 ? 1 : 2*power_of_two_up_to(n/2); }

template <int n> using constant = std::integral_constant<int, n>;

// f(0), f(1), ... f(n - 1), with constants
template <typename function, int... index> KVFOLD_ALWAYS_INLINE void for_each_of(std::integer_sequence<int, index...>, function f) {
    (f(constant<index>{}), ...);
}
template <int n, typename function> KVFOLD_ALWAYS_INLINE void for_each(function f) { for_each_of(std::make_integer_sequence<int, n>{}, f); }

// Rows of keys or values of one head, and as many bytes for each of them that are needed next.
struct stored_rows {
    const char * data;
    size_t       stride;
    int          n;
    const char * ahead;
    size_t       ahead_stride;

    static stored_rows one(const char * data) { return { data, 0, 1, data, 0 }; }

    const char * row(int j) const { return data + j*stride; }

    void fetch_ahead(int j, size_t bytes) const {
        constexpr size_t   page = 4096; // looking up where one is takes as long as some lines, so the next one is asked for with it
        const char * const next = ahead + j*ahead_stride;
        if ((uintptr_t) next%page < bytes) {
            __builtin_prefetch(next + page, 0, 2);
        }
        for (size_t i = 0; i < bytes; i += 64) {
            __builtin_prefetch(next + i, 0, 2);
        }
    }
};

// scores[r][j] of R rows and all keys of a tile; those behind the last key are of some other key.
template <typename codec, int R> void score_few(const float * q, int64_t stride, const stored_rows & keys, int64_t d_k, float * scores) {
    constexpr int keys_at_once = power_of_two_up_to(accumulators/R);
    constexpr int n_sums       = (R*keys_at_once + lanes - 1)/lanes*lanes;
    for (int j = 0; j < tile_keys; j += keys_at_once) {
        const char * blocks[keys_at_once];
        for (int c = 0; c < keys_at_once; c++) {
            const int key = j + c < keys.n ? j + c : keys.n - 1;
            blocks[c] = keys.row(key);
            keys.fetch_ahead(key, codec::size(d_k));
        }
        vec sum[n_sums] = {}; // [R][keys_at_once]
        for (const float * query = q; query < q + d_k; query += 16*codec::parts) {
            for_each<codec::parts>([&](auto part) KVFOLD_INLINED {
                sixteen key[keys_at_once];
                for (int c = 0; c < keys_at_once; c++) {
                    codec::template decode<part.value>(blocks[c], key[c]);
                }
                for (int r = 0; r < R; r++) {
                    for (int i = 0; i < vectors_of_part; i++) {
                        const vec x = load(query + r*stride + 16*part.value + i*lanes);
                        for (int c = 0; c < keys_at_once; c++) {
                            sum[r*keys_at_once + c] += x*key[c][i];
                        }
                    }
                }
            });
            for (int c = 0; c < keys_at_once; c++) {
                blocks[c] += codec::block_bytes;
            }
        }
        float flat[n_sums];
        for (int i = 0; i < n_sums; i += lanes) {
            store(flat + i, sums(sum + i));
        }
        for (int r = 0; r < R; r++) {
            memcpy(scores + r*tile_keys + j, flat + r*keys_at_once, keys_at_once*sizeof(float));
        }
    }
}

// For P parts of values, from part `first` of the block at byte `from` of a row on: put(r, vector, sum over j of
// weights[r][j]*values[j]). Asks for `fetched` bytes of rows that come next.
template <typename codec, int R, int first, int P, typename put_sum>
KVFOLD_ALWAYS_INLINE void weigh_parts(const float * weights, const stored_rows & values, size_t from, size_t fetched, put_sum put) {
    vec sum[R][P][vectors_of_part] = {};
    for (int j = 0; j < values.n; j++) {
        const char * const block = values.row(j) + from;
        values.fetch_ahead(j, fetched);
        for_each<P>([&](auto p) KVFOLD_INLINED {
            constexpr int part = first + p.value;
            sixteen value;
            codec::template decode<part%codec::parts>(block + part/codec::parts*codec::block_bytes, value);
            for (int r = 0; r < R; r++) {
                const vec weight = all(weights[r*tile_keys + j]);
                for (int i = 0; i < vectors_of_part; i++) {
                    sum[r][p.value][i] += weight*value[i];
                }
            }
        });
    }
    for (int r = 0; r < R; r++) {
        for (int p = 0; p < P; p++) {
            for (int i = 0; i < vectors_of_part; i++) {
                put(r, p*vectors_of_part + i, sum[r][p][i]);
            }
        }
    }
}

// acc[r][d] = acc[r][d]*shrink[r] + sum over j of weights[r][j]*values[j][d], for n of R rows
template <typename codec, int R>
void weigh_few(const float * weights, int n, const stored_rows & values, int64_t d_v, const float * shrink, float * acc, int64_t stride) {
    constexpr int parts_at_once = smaller(power_of_two_up_to(accumulators/(R*vectors_of_part)), 4);
    const int64_t n_parts       = d_v/16;
    const auto    pass          = [&](auto first, auto parts, int64_t at) {
        const size_t  from = at/codec::parts*codec::block_bytes;
        float * const to   = acc + at*16;
        weigh_parts<codec, R, first.value, parts.value>(weights, values, from, at == 0 ? codec::size(d_v) : 0, [&](int r, int i, vec sum) {
            if (r < n) {
                float * const v = to + r*stride + i*lanes;
                store(v, load(v)*shrink[r] + sum);
            }
        });
    };
    int64_t at = 0;
    if constexpr (parts_at_once >= codec::parts) {
        for (; at + parts_at_once <= n_parts; at += parts_at_once) {
            pass(constant<0>{}, constant<parts_at_once>{}, at);
        }
        for (; at < n_parts; at += codec::parts) {
            pass(constant<0>{}, constant<codec::parts>{}, at);
        }
    } else {
        for (; at < n_parts; at += 2) { // a half of each block at a time
            pass(constant<0>{}, constant<1>{}, at);
            pass(constant<1>{}, constant<1>{}, at + 1);
        }
    }
}

} // namespace
} // namespace kvfold::attention

#undef KVFOLD_INLINED
