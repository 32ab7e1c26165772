// Attention of some query rows to the keys and values of a cache, with each tile of them brought into F32 once for all rows
// that see it: online softmax (https://arxiv.org/abs/1805.02867) over tiles, with the tiles of decode divided between
// threads (flash decoding) and merged. Compiled once per instruction set by kernel_*.cpp.
//
// Per tile and KV head, with rows of queries r, keys j of the tile and dimensions d:
//   scores[r][j] = sum over d of q[r][d]*k[j][d]     few rows: lanes are dimensions, summed up at the end (few_rows.h)
//                                                    many rows: lanes are keys, of a tile that is transposed first (products.h)
//   weights      = e^(scores - maximum), in place
//   acc[r][d]    = acc[r][d]*e^(former maximum - maximum) + sum over j of weights[r][j]*v[j][d]      lanes are dimensions
#pragma once

#include "attention/codecs.h"
#include "attention/few_rows.h"
#include "attention/operands.h"
#include "attention/products.h"
#include "attention/vec.h"

#include <math.h> // not <cmath>, whose functions are inline: see vec.h

namespace kvfold::attention {
namespace {

// Rows whose scores are kept at a time; they and a tile fit the first-level cache at the head sizes that models have.
constexpr int block_rows = 32;

// What is done with the rows of one storage type. Functions of few rows are at the number of rows they are for.
struct codec_functions {
    void (*decode)(const stored_rows & from, float * to, int64_t width, int64_t stride_to);
    void (*score[few_rows + 1])(const float * q, int64_t stride, const stored_rows & keys, int64_t d_k, float * scores);
    void (*weigh[few_rows + 1])(const float * weights, int n, const stored_rows & values, int64_t d_v, const float * shrink, float * acc, int64_t stride);
};

// Brings rows into F32.
template <typename codec> void decode_tile(const stored_rows & from, float * to, int64_t width, int64_t stride_to) {
    for (int j = 0; j < from.n; j++, to += stride_to) {
        from.fetch_ahead(j, codec::size(width));
        const char * block = from.row(j);
        int64_t      d     = 0;
        for (; d + 16*codec::parts <= width; d += 16*codec::parts, block += codec::block_bytes) {
            for_each<codec::parts>([&](auto part) {
                sixteen values;
                codec::template decode<part.value>(block, values);
                memcpy(to + d + 16*part.value, &values, sizeof(values));
            });
        }
        if constexpr (codec::parts == 1) {
            for (; d < width; d++, block += codec::size(1)) {
                to[d] = codec::decode_one(block);
            }
        }
    }
}

// Fewer functions than numbers of rows: there are nine types and up to three instruction sets.
constexpr int rows_compiled_for(int n) { return n == 5 || n == 7 ? n + 1 : n; }

template <typename codec, int... n> constexpr codec_functions functions_of(std::integer_sequence<int, n...>) {
    return { decode_tile<codec>, { nullptr, score_few<codec, rows_compiled_for(n + 1)>... }, { nullptr, weigh_few<codec, rows_compiled_for(n + 1)>... } };
}
template <typename codec> constexpr codec_functions functions_of() { return functions_of<codec>(std::make_integer_sequence<int, few_rows>{}); }

constexpr codec_functions codecs[] = { // in the order of `storage`
    functions_of<f32_codec>(),  functions_of<f16_codec>(),  functions_of<bf16_codec>(), functions_of<q8_0_codec>(),   functions_of<q5_1_codec>(),
    functions_of<q5_0_codec>(), functions_of<q4_1_codec>(), functions_of<q4_0_codec>(), functions_of<iq4_nl_codec>(),
};

inline int64_t padded(int64_t n) { return (n + 15)/16*16; }

// ---- softmax

// Makes weights of the scores of a row; `maximum` and `sum` are the row's so far. Returns what its former values shrink by.
inline float make_weights(float * scores, const float * mask, float slope, float softcap, float & maximum, float & sum_of_weights) {
    constexpr int n = tile_keys/lanes;
    vec s[n];
    vec top = all(-INFINITY);
    for (int c = 0; c < n; c++) {
        s[c] = load(scores + c*lanes);
        if (softcap != 0.0f) {
            s[c] = hyperbolic_tangent(s[c])*softcap;
        }
        if (mask) {
            const vec m = load(mask + c*lanes);
            s[c] = m == -INFINITY ? m : s[c] + m*slope;
        }
        top = larger(s[c], top);
    }
    const float former = maximum;
    const float now    = largest(top);
    if (now > maximum) {
        maximum = now;
    }
    vec total = {};
    for (int c = 0; c < n; c++) {
        // nothing seen yet: no weights, and not e^(inf - inf)
        s[c] = maximum == -INFINITY ? (s[c] == s[c] ? vec{} : s[c]) : exponential(s[c] - maximum);
        store(scores + c*lanes, s[c]);
        total += s[c];
    }
    const float shrink = former == maximum || former == -INFINITY ? 1.0f : expf(former - maximum);
    sum_of_weights = sum_of_weights*shrink + sum(total);
    return shrink;
}

// ---- one item

enum class visible : int32_t { nothing, some, everything };

inline visible look_at(const char * mask) {
    uint64_t any = 0, all_hidden = ~(uint64_t) 0, any_shown = 0;
    constexpr uint64_t hidden = 0xfc00fc00fc00fc00u; // four times -inf
    for (int i = 0; i < tile_keys*2; i += 8) {
        const uint64_t bits = load_as<uint64_t>(mask + i);
        any |= bits;
        all_hidden &= bits;
        any_shown |= bits ^ hidden;
    }
    return any == 0 ? visible::everything : any_shown == 0 && all_hidden == hidden ? visible::nothing : visible::some;
}

// The scratch of an item, and how its rows lie: [kv head][token][head of the group], rows of queries padded with zeros.
struct desk {
    const operands & op;
    const item &     what;

    int64_t   width_k, width_v; // padded
    int64_t   n_rows;           // of a KV head
    float *   keys;             // [tile_keys][width_k]
    float *   columns;          // [width_k][tile_keys]: keys transposed
    float *   values;           // [tile_keys][width_v]
    float *   scores;           // [block_rows][tile_keys]
    float *   mask;             // [n_tokens][n_masks][tile_keys]
    visible * seen;             // [n_tokens][n_masks]
    float *   queries;          // [n_kv_heads][n_rows][width_k]
    float *   acc;              // [n_kv_heads][n_rows][width_v]
    float *   maxima;           // [n_kv_heads][n_rows]
    float *   weights;          // [n_kv_heads][n_rows]: sums of them
    size_t    size = 0;         // floats

    desk(const operands & op, const item & what, float * scratch)
        : op(op), what(what), width_k(padded(op.d_k)), width_v(padded(op.d_v)), n_rows(what.n_tokens*op.group()) {
        const auto take = [&](int64_t n) {
            float * const at = scratch ? scratch + size : nullptr;
            size += padded(n);
            return at;
        };
        const int64_t n_rows_all = what.n_kv_heads*n_rows;
        keys    = take(tile_keys*width_k);
        columns = take(tile_keys*width_k);
        values  = take(tile_keys*width_v);
        scores  = take(block_rows*tile_keys);
        mask    = take(what.n_tokens*op.n_masks*tile_keys);
        seen    = (visible *) take(what.n_tokens*op.n_masks);
        queries = take((n_rows_all + 1)*width_k); // scores of few rows may be computed of one more
        acc     = take(n_rows_all*width_v);
        maxima  = take(n_rows_all);
        weights = take(n_rows_all);
    }

    int64_t token(int64_t row) const { return row/op.group(); }
    int64_t head(int64_t kv_head, int64_t row) const { return (what.first_kv_head + kv_head)*op.group() + row%op.group(); }
    int64_t mask_of(int64_t kv_head, int64_t row) const {
        return op.n_masks == 1 ? token(row) : token(row)*op.n_masks + head(kv_head, row)%op.n_masks;
    }

    const char * mask_row(int64_t token, int64_t mask_head) const {
        return op.mask.at(what.first_token + token, mask_head, what.stream%op.n_mask_streams);
    }

    void start() {
        if (width_k != op.d_k) {
            memset(keys, 0, tile_keys*width_k*sizeof(float));
            memset(queries, 0, what.n_kv_heads*n_rows*width_k*sizeof(float));
        }
        memset(acc, 0, what.n_kv_heads*n_rows*width_v*sizeof(float));
        for (int64_t i = 0; i < what.n_kv_heads; i++) {
            for (int64_t r = 0; r < n_rows; r++) {
                const float * from = (const float *) op.q.at(what.first_token + token(r), head(i, r), what.stream);
                float *       to   = queries + (i*n_rows + r)*width_k;
                for (int64_t d = 0; d < op.d_k; d++) {
                    to[d] = from[d]*(op.softcap != 0.0f ? op.scale/op.softcap : op.scale);
                }
                maxima[i*n_rows + r]  = -INFINITY;
                weights[i*n_rows + r] = 0.0f;
            }
        }
    }

    // Which rows see which keys of the tile; false if none does.
    bool look(int64_t first_key, int n_keys) {
        bool any = false;
        for (int64_t i = 0; i < what.n_tokens*op.n_masks; i++) {
            seen[i] = visible::everything;
            float * const to = mask + i*tile_keys;
            if (op.mask.data) {
                const char * const from = mask_row(i/op.n_masks, i%op.n_masks) + first_key*sizeof(uint16_t);
                seen[i] = n_keys == tile_keys ? look_at(from) : visible::some;
                if (seen[i] == visible::some) {
                    decode_tile<f16_codec>(stored_rows::one(from), to, n_keys, 0);
                }
            } else if (n_keys < tile_keys) {
                seen[i] = visible::some;
                memset(to, 0, n_keys*sizeof(float));
            }
            for (int j = n_keys; j < tile_keys; j++) {
                to[j] = -INFINITY;
            }
            any = any || seen[i] != visible::nothing;
        }
        return any;
    }

    // How many rows from `row` on see the tile, or, if `hidden`, do not; at most `limit`.
    int64_t count(int64_t kv_head, int64_t row, bool hidden, int64_t limit) const {
        int64_t n = 0;
        while (n < limit && row + n < n_rows && (seen[mask_of(kv_head, row + n)] == visible::nothing) == hidden) {
            n++;
        }
        return n;
    }

    // The tile that comes next is asked for in the order in which its bytes lie, a part of it with each head, where they are all needed.
    stored_rows stored(const rows & from, int64_t kv_head, int64_t first_key, int n_keys, int64_t keys_ahead) const {
        const int64_t head     = what.first_kv_head + kv_head;
        const bool    in_order = from.row_bytes == what.n_kv_heads*from.head_bytes;
        return { from.at(first_key, head, what.stream), from.row_bytes, n_keys,
                 in_order ? from.at(first_key + keys_ahead, what.first_kv_head, what.stream) + kv_head*tile_keys*from.head_bytes
                          : from.at(first_key + keys_ahead, head, what.stream),
                 in_order ? from.head_bytes : from.row_bytes };
    }

    void attend(int64_t kv_head, int64_t first_key, int n_keys, int64_t keys_ahead) {
        int64_t n_seeing = 0;
        for (int64_t r = 0; r < n_rows; r++) {
            n_seeing += seen[mask_of(kv_head, r)] != visible::nothing;
        }
        if (n_seeing == 0) {
            return;
        }
        const stored_rows k    = stored(op.k, kv_head, first_key, n_keys, keys_ahead);
        const stored_rows v    = stored(op.v, kv_head, first_key, n_keys, keys_ahead);
        const auto &      of_k = codecs[(int) op.k_type];
        const auto &      of_v = codecs[(int) op.v_type];
        const int64_t     top  = count(kv_head, 0, true, n_rows);
        if (n_seeing <= few_rows && op.d_k%16 == 0 && op.d_v%16 == 0 && count(kv_head, top, false, n_seeing) == n_seeing) {
            const int64_t at = kv_head*n_rows + top;
            float         shrink[few_rows];
            of_k.score[n_seeing](queries + at*width_k, width_k, k, op.d_k, scores);
            make_weights(kv_head, top, (int) n_seeing, shrink);
            of_v.weigh[n_seeing](scores, (int) n_seeing, v, op.d_v, shrink, acc + at*width_v, width_v);
            return;
        }
        of_k.decode(k, keys, op.d_k, width_k);
        of_v.decode(v, values, op.d_v, width_v);
        transpose_tile(keys, width_k, columns);
        for (int64_t r = top; r < n_rows;) {
            r += count(kv_head, r, true, n_rows);
            const int n = (int) count(kv_head, r, false, block_rows);
            if (n > 0) {
                attend_rows(kv_head, r, n, n_keys);
            }
            r += n;
        }
    }

    void make_weights(int64_t kv_head, int64_t first, int n, float * shrink) {
        const int64_t at = kv_head*n_rows + first;
        for (int r = 0; r < n; r++) {
            const int64_t m     = mask_of(kv_head, first + r);
            const float   slope = op.max_bias > 0.0f ? op.slope(head(kv_head, first + r)) : 1.0f;
            shrink[r] = attention::make_weights(scores + r*tile_keys, seen[m] == visible::some ? mask + m*tile_keys : nullptr, slope, op.softcap,
                    maxima[at + r], weights[at + r]);
        }
    }

    void attend_rows(int64_t kv_head, int64_t first, int n, int n_keys) {
        const int64_t at = kv_head*n_rows + first;
        // keys that are not rounded themselves are worth more than one sum, which rounds with each dimension
        const int64_t at_once = op.k_type == storage::f32 ? 32 : op.d_k;
        for (int64_t d = 0; d < op.d_k; d += at_once) {
            multiply_all(queries + at*width_k + d, width_k, n, columns + d*tile_keys, tile_keys, tile_keys, smaller(at_once, op.d_k - d),
                    [&](int r, int64_t j, vec sum) {
                        float * const s = scores + r*tile_keys + j;
                        store(s, d == 0 ? sum : load(s) + sum);
                    });
        }
        float shrink[block_rows];
        make_weights(kv_head, first, n, shrink);
        float * const to = acc + at*width_v;
        multiply_all(scores, tile_keys, n, values, width_v, width_v, n_keys, [&](int r, int64_t d, vec sum) {
            float * const v = to + r*width_v + d;
            store(v, load(v)*shrink[r] + sum);
        });
    }
};

// ---- results

// A row as ggml computes it, key by key: for rows in which something is not finite, where it matters that a key that the
// mask hides is never looked at.
inline void attend_plainly(const operands & op, int64_t token, int64_t head, int64_t stream, float * scratch, float * out) {
    const float * const q     = (const float *) op.q.at(token, head, stream);
    const char * const  mask  = op.mask.data ? op.mask.at(token, head%op.n_masks, stream%op.n_mask_streams) : nullptr;
    const float         slope = op.max_bias > 0.0f ? op.slope(head) : 1.0f;
    float * const       key   = scratch;
    float * const       value = scratch + padded(op.d_k);
    float maximum = -INFINITY, sum = 0.0f;
    memset(out, 0, op.d_v*sizeof(float));
    const auto add = [&](float score, const float * of) {
        const bool  is_top = score > maximum;
        const float shrink = is_top ? expf(maximum - score) : 1.0f;
        const float weight = is_top ? 1.0f : expf(score - maximum);
        maximum            = is_top ? score : maximum;
        for (int64_t d = 0; d < op.d_v; d++) {
            out[d] = out[d]*shrink + (of ? of[d]*weight : 0.0f);
        }
        sum = sum*shrink + weight;
    };
    for (int64_t j = 0; j < op.n_kv; j++) {
        const float hidden = mask ? from_half(load_as<uint16_t>(mask + j*sizeof(uint16_t)))*slope : 0.0f;
        if (hidden == -INFINITY) {
            continue;
        }
        codecs[(int) op.k_type].decode(stored_rows::one(op.k.at(j, head/op.group(), stream)), key, op.d_k, 0);
        codecs[(int) op.v_type].decode(stored_rows::one(op.v.at(j, head/op.group(), stream)), value, op.d_v, 0);
        double product = 0; // of many dimensions a float would lose what several sums do not
        for (int64_t d = 0; d < op.d_k; d++) {
            product += (double) q[d]*key[d];
        }
        float score = (float) product;
        score = op.softcap != 0.0f ? op.softcap*tanhf(score*(op.scale/op.softcap)) : score*op.scale;
        add(score + hidden, value);
    }
    if (op.sinks) {
        add(op.sinks[head], nullptr);
    }
    for (int64_t d = 0; d < op.d_v; d++) {
        out[d] = sum == 0.0f ? 0.0f : out[d]/sum;
    }
}

// Writes a row of the result: its weighted values over the sum of weights, a sink among them.
inline void finish_row(
        const operands & op, int64_t token, int64_t head, int64_t stream, const float * acc, float maximum, float sum, float * scratch) {
    float factor = 1.0f;
    if (op.sinks) {
        const float sink = op.sinks[head];
        factor = sink > maximum ? expf(maximum - sink) : 1.0f;
        sum    = sum*factor + (sink > maximum ? 1.0f : expf(sink - maximum));
    }
    factor = sum == 0.0f ? 0.0f : factor/sum;
    float * const out = op.out_row(token, head, stream);
    bool finite = true;
    for (int64_t d = 0; d < op.d_v; d++) {
        out[d] = acc[d]*factor;
        finite = finite & (out[d] - out[d] == 0.0f);
    }
    if (!finite) {
        attend_plainly(op, token, head, stream, scratch, out);
    }
}

size_t scratch_floats(const operands & op, int64_t n_tokens, int64_t n_kv_heads) {
    const item what = { 0, 0, n_tokens, 0, n_kv_heads, 0, 1, 1 };
    return desk(op, what, nullptr).size;
}

void attend(const operands & op, const item & what, float * scratch, const partials & parts) {
    desk d(op, what, scratch);
    d.start();
    const int64_t n_tiles = op.n_tiles();
    const auto    is_ours = [&](int64_t tile) { return tile/what.tiles_per_turn%what.n_parts == what.part; };
    for (int64_t tile = 0; tile < n_tiles;) {
        if (!is_ours(tile)) {
            tile += what.tiles_per_turn;
            continue;
        }
        const int64_t first  = tile*tile_keys;
        const int     n_keys = (int) smaller(tile_keys, op.n_kv - first);
        // the tile after this one, so that its bytes are on their way
        int64_t next = tile + 1;
        if (!is_ours(next)) {
            next += (what.n_parts - 1)*what.tiles_per_turn;
        }
        if (d.look(first, n_keys)) {
            for (int64_t i = 0; i < what.n_kv_heads; i++) {
                d.attend(i, first, n_keys, next < n_tiles ? (next - tile)*tile_keys : 0);
            }
        }
        tile++;
    }
    for (int64_t i = 0; i < what.n_kv_heads; i++) {
        for (int64_t r = 0; r < d.n_rows; r++) {
            const int64_t at = i*d.n_rows + r, token = what.first_token + d.token(r), head = d.head(i, r);
            if (what.n_parts == 1) {
                finish_row(op, token, head, what.stream, d.acc + at*d.width_v, d.maxima[at], d.weights[at], scratch);
            } else {
                float * const part = parts.at(op, what.part, (what.stream*op.n_tokens + token)*op.n_heads + head);
                part[0] = d.maxima[at];
                part[1] = d.weights[at];
                memcpy(part + 2, d.acc + at*d.width_v, op.d_v*sizeof(float));
            }
        }
    }
}

void merge(const operands & op, int64_t row, int64_t n_parts, float * scratch, const partials & parts) {
    float maximum = -INFINITY, sum = 0.0f;
    for (int64_t p = 0; p < n_parts; p++) {
        const float * const part = parts.at(op, p, row);
        maximum = part[0] > maximum ? part[0] : maximum;
    }
    float * const acc = scratch + padded(op.d_k) + padded(op.d_v); // finish_row() may need what lies before
    memset(acc, 0, op.d_v*sizeof(float));
    for (int64_t p = 0; p < n_parts; p++) {
        const float * const part   = parts.at(op, p, row);
        const float         factor = part[0] == maximum ? 1.0f : expf(part[0] - maximum);
        for (int64_t d = 0; d < op.d_v; d++) {
            acc[d] += part[2 + d]*factor;
        }
        sum += part[1]*factor;
    }
    const int64_t head = row%op.n_heads, token = row/op.n_heads%op.n_tokens, stream = row/op.n_heads/op.n_tokens;
    finish_row(op, token, head, stream, acc, maximum, sum, scratch);
}

} // namespace
} // namespace kvfold::attention
