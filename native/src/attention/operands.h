// One flash_attn_ext of ggml as the kernels of this room see it, and what one of them is asked to do of it.
#pragma once

#include <cstddef>
#include <cstdint>

// Inlined even where nothing is optimized: the linker must not choose among copies for several instruction sets.
#define KVFOLD_ALWAYS_INLINE inline __attribute__((always_inline))

namespace kvfold::attention {

// Keys of a tile: what is brought into F32, looked up in the mask and skipped as one.
constexpr int tile_keys = 64;

// How ggml names a type that is read and how to bring rows of it into F32; indices of `codecs` in kernel.h.
enum class storage { f32, f16, bf16, q8_0, q5_1, q5_0, q4_1, q4_0, iq4_nl };

// Rows of one tensor: element 0 of (row, head, stream) is at data + row*row_bytes + head*head_bytes + stream*stream_bytes.
struct rows {
    const char * data;
    size_t       row_bytes;
    size_t       head_bytes;
    size_t       stream_bytes;

    KVFOLD_ALWAYS_INLINE const char * at(int64_t row, int64_t head, int64_t stream) const {
        return data + row*row_bytes + head*head_bytes + stream*stream_bytes;
    }
};

struct operands {
    rows q;    // F32 [d_k], n_tokens, n_heads, n_streams
    rows k;    // k_type [d_k], n_kv, n_kv_heads, n_streams
    rows v;    // v_type [d_v], n_kv, n_kv_heads, n_streams
    rows mask; // F16 [n_kv], n_tokens, n_masks, n_mask_streams; data is null if every row sees every key

    const float * sinks; // [n_heads], or null
    float *       out;   // [d_v], n_heads, n_tokens, n_streams, contiguous

    storage k_type;
    storage v_type;

    int64_t d_k;
    int64_t d_v;
    int64_t n_tokens;
    int64_t n_kv;
    int64_t n_heads;
    int64_t n_kv_heads;
    int64_t n_streams;
    int64_t n_masks;
    int64_t n_mask_streams;

    float scale;    // of a product of query and key
    float softcap;  // 0: none
    float max_bias; // ALiBi; 0: none

    KVFOLD_ALWAYS_INLINE int64_t group() const { return n_heads/n_kv_heads; }
    KVFOLD_ALWAYS_INLINE int64_t n_tiles() const { return (n_kv + tile_keys - 1)/tile_keys; }

    KVFOLD_ALWAYS_INLINE float * out_row(int64_t token, int64_t head, int64_t stream) const {
        return out + ((stream*n_tokens + token)*n_heads + head)*d_v;
    }

    // What ALiBi multiplies the mask of a head with.
    float slope(int64_t head) const;
};

// A part of an operation: some query rows against every `n_parts`-th turn of tiles.
struct item {
    int64_t stream;
    int64_t first_token, n_tokens;
    int64_t first_kv_head, n_kv_heads;
    int64_t part, n_parts;
    int64_t tiles_per_turn;
};

// Where the parts of rows go whose tiles were divided: per part and row of `out` the maximum, the sum and d_v weighted values.
struct partials {
    float * data;

    KVFOLD_ALWAYS_INLINE float * at(const operands & op, int64_t part, int64_t row) const {
        return data + (part*op.n_streams*op.n_tokens*op.n_heads + row)*(2 + op.d_v);
    }

    static KVFOLD_ALWAYS_INLINE size_t floats(const operands & op, int64_t n_parts) {
        return n_parts > 1 ? (size_t) (n_parts*op.n_streams*op.n_tokens*op.n_heads*(2 + op.d_v)) : 0;
    }
};

// The code of this room for one instruction set.
struct kernel {
    const char * name;

    // floats of scratch that attend() takes for an item of so many rows
    size_t (*scratch_floats)(const operands & op, int64_t n_tokens, int64_t n_kv_heads);

    // With n_parts == 1 writes rows of op.out, else rows of `parts`, which merge() makes rows of op.out of.
    void (*attend)(const operands & op, const item & what, float * scratch, const partials & parts);
    void (*merge)(const operands & op, int64_t row, int64_t n_parts, float * scratch, const partials & parts);
};

// Those of them that are compiled; which of them this processor runs is a matter of usable_kernels().
extern const kernel portable_kernel;
extern const kernel avx2_kernel;
extern const kernel avx512_kernel;
extern const kernel neon_kernel;

} // namespace kvfold::attention
