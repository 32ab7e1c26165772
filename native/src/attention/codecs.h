// How each type of the KV cache is brought into F32: one small struct per type, which turns n values at `from` into floats.
// What a type takes beside it is a line in `codecs` (kernel.h) and in storage_of() (cpu_attention.cpp).
#pragma once

#include "vec.h"

#define GGML_COMMON_DECL_C
#define GGML_COMMON_IMPL_C
#include "ggml-common.h"

namespace kvfold::attention {
namespace {

struct f32_codec {
    static constexpr size_t size(int64_t n) { return n*sizeof(float); }

    static void decode(const char * from, float * to, int64_t n) { memcpy(to, from, n*sizeof(float)); }
};

struct f16_codec {
    static constexpr size_t size(int64_t n) { return n*sizeof(uint16_t); }

    static void decode(const char * from, float * to, int64_t n) {
        int64_t i = 0;
        for (; i + lanes <= n; i += lanes) {
            store(to + i, from_half(from + 2*i));
        }
        for (; i < n; i++) {
            to[i] = from_half(load_as<uint16_t>(from + 2*i));
        }
    }
};

struct bf16_codec {
    static constexpr size_t size(int64_t n) { return n*sizeof(uint16_t); }

    static void decode(const char * from, float * to, int64_t n) {
        for (int64_t i = 0; i < n; i++) {
            store_as(to + i, (uint32_t) load_as<uint16_t>(from + 2*i) << 16);
        }
    }
};

// The quantised types: blocks of 32 values, which decode_block() turns into floats.
template <typename block> struct blocks_of_32 {
    static constexpr size_t size(int64_t n) { return n/32*sizeof(block); }

    template <typename codec> static void decode_all(const char * from, float * to, int64_t n) {
        for (; n >= 32; n -= 32, from += sizeof(block), to += 32) {
            codec::decode_block(*(const block *) from, to);
        }
    }
};

// The fifth bits of 16 values, from bit 0 of `from` on, where the fifth bit of a byte is.
inline bytes fifth_bits(const uint8_t * from) {
    const bytes each = { 1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128 };
    const uint8_t a = from[0], b = from[1];
    const bytes   of = { a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b };
    return (bytes) ((of & each) == each) & 16;
}

struct q8_0_codec : blocks_of_32<block_q8_0> {
    static void decode(const char * from, float * to, int64_t n) { decode_all<q8_0_codec>(from, to, n); }

    static void decode_block(const block_q8_0 & b, float * to) {
        const float d = from_half(b.d);
        write_scaled(to, load_as<bytes>(b.qs), d, 0.0f);
        write_scaled(to + 16, load_as<bytes>(b.qs + 16), d, 0.0f);
    }
};

struct q4_0_codec : blocks_of_32<block_q4_0> {
    static void decode(const char * from, float * to, int64_t n) { decode_all<q4_0_codec>(from, to, n); }

    static void decode_block(const block_q4_0 & b, float * to) {
        const float d  = from_half(b.d);
        const auto  qs = load_as<bytes>(b.qs);
        write_scaled(to, qs & 15, d, -8*d);
        write_scaled(to + 16, qs >> 4, d, -8*d);
    }
};

struct q4_1_codec : blocks_of_32<block_q4_1> {
    static void decode(const char * from, float * to, int64_t n) { decode_all<q4_1_codec>(from, to, n); }

    static void decode_block(const block_q4_1 & b, float * to) {
        const float d = from_half(b.d), m = from_half(b.m);
        const auto  qs = load_as<bytes>(b.qs);
        write_scaled(to, qs & 15, d, m);
        write_scaled(to + 16, qs >> 4, d, m);
    }
};

struct q5_0_codec : blocks_of_32<block_q5_0> {
    static void decode(const char * from, float * to, int64_t n) { decode_all<q5_0_codec>(from, to, n); }

    static void decode_block(const block_q5_0 & b, float * to) {
        const float d  = from_half(b.d);
        const auto  qs = load_as<bytes>(b.qs);
        write_scaled(to, (qs & 15) | fifth_bits(b.qh), d, -16*d);
        write_scaled(to + 16, qs >> 4 | fifth_bits(b.qh + 2), d, -16*d);
    }
};

struct q5_1_codec : blocks_of_32<block_q5_1> {
    static void decode(const char * from, float * to, int64_t n) { decode_all<q5_1_codec>(from, to, n); }

    static void decode_block(const block_q5_1 & b, float * to) {
        const float d = from_half(b.d), m = from_half(b.m);
        const auto  qs = load_as<bytes>(b.qs);
        write_scaled(to, (qs & 15) | fifth_bits(b.qh), d, m);
        write_scaled(to + 16, qs >> 4 | fifth_bits(b.qh + 2), d, m);
    }
};

struct iq4_nl_codec : blocks_of_32<block_iq4_nl> {
    static void decode(const char * from, float * to, int64_t n) { decode_all<iq4_nl_codec>(from, to, n); }

    static void decode_block(const block_iq4_nl & b, float * to) {
        const float d  = from_half(b.d);
        const auto  qs = load_as<bytes>(b.qs), values = load_as<bytes>(kvalues_iq4nl);
        write_scaled(to, look_up(values, qs & 15), d, 0.0f);
        write_scaled(to + 16, look_up(values, qs >> 4), d, 0.0f);
    }
};

} // namespace
} // namespace kvfold::attention
