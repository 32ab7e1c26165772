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
    static constexpr size_t bytes(int64_t n) { return n*sizeof(float); }

    static void decode(const char * from, float * to, int64_t n) { memcpy(to, from, n*sizeof(float)); }
};

struct f16_codec {
    static constexpr size_t bytes(int64_t n) { return n*sizeof(uint16_t); }

    static void decode(const char * from, float * to, int64_t n) {
        int64_t i = 0;
        for (; i + 16 <= n; i += 16) {
            store_as(to + i, from_half(from + 2*i));
        }
        for (; i < n; i++) {
            to[i] = from_half(load_as<uint16_t>(from + 2*i));
        }
    }
};

struct bf16_codec {
    static constexpr size_t bytes(int64_t n) { return n*sizeof(uint16_t); }

    static void decode(const char * from, float * to, int64_t n) {
        for (int64_t i = 0; i < n; i++) {
            store_as(to + i, (uint32_t) load_as<uint16_t>(from + 2*i) << 16);
        }
    }
};

// The quantised types: blocks of 32 values, of which decode_block() brings the lower and the upper half into floats.
template <typename block> struct blocks_of_32 {
    static constexpr size_t bytes(int64_t n) { return n/32*sizeof(block); }

    template <typename codec> static void decode_all(const char * from, float * to, int64_t n) {
        for (; n >= 32; n -= 32, from += sizeof(block), to += 32) {
            float16x low, high;
            codec::decode_block(*(const block *) from, low, high);
            store_as(to, low);
            store_as(to + 16, high);
        }
    }
};

inline float16x floats(byte16x x) { return __builtin_convertvector((sbyte16x) x, float16x); }

// The fifth bits of 16 values, from bit `first` on.
inline float16x with_fifth_bit(byte16x low, const uint8_t * bits, int first) {
    const int16x shifts = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    const int16x fifth  = (int32_t) (load_as<uint32_t>(bits) >> first) - int16x{};
    return __builtin_convertvector(__builtin_convertvector(low, int16x) | (fifth >> shifts & 1) << 4, float16x);
}

struct q8_0_codec : blocks_of_32<block_q8_0> {
    static void decode(const char * from, float * to, int64_t n) { decode_all<q8_0_codec>(from, to, n); }

    static void decode_block(const block_q8_0 & b, float16x & low, float16x & high) {
        const float d = from_half(b.d);
        low           = floats(load_as<byte16x>(b.qs))*d;
        high          = floats(load_as<byte16x>(b.qs + 16))*d;
    }
};

struct q4_0_codec : blocks_of_32<block_q4_0> {
    static void decode(const char * from, float * to, int64_t n) { decode_all<q4_0_codec>(from, to, n); }

    static void decode_block(const block_q4_0 & b, float16x & low, float16x & high) {
        const float   d  = from_half(b.d);
        const byte16x qs = load_as<byte16x>(b.qs);
        low              = floats((qs & 15) - 8)*d;
        high             = floats((qs >> 4) - 8)*d;
    }
};

struct q4_1_codec : blocks_of_32<block_q4_1> {
    static void decode(const char * from, float * to, int64_t n) { decode_all<q4_1_codec>(from, to, n); }

    static void decode_block(const block_q4_1 & b, float16x & low, float16x & high) {
        const float   d = from_half(b.d), m = from_half(b.m);
        const byte16x qs = load_as<byte16x>(b.qs);
        low              = floats(qs & 15)*d + m;
        high             = floats(qs >> 4)*d + m;
    }
};

struct q5_0_codec : blocks_of_32<block_q5_0> {
    static void decode(const char * from, float * to, int64_t n) { decode_all<q5_0_codec>(from, to, n); }

    static void decode_block(const block_q5_0 & b, float16x & low, float16x & high) {
        const float   d  = from_half(b.d);
        const byte16x qs = load_as<byte16x>(b.qs);
        low              = (with_fifth_bit(qs & 15, b.qh, 0) - 16.0f)*d;
        high             = (with_fifth_bit(qs >> 4, b.qh, 16) - 16.0f)*d;
    }
};

struct q5_1_codec : blocks_of_32<block_q5_1> {
    static void decode(const char * from, float * to, int64_t n) { decode_all<q5_1_codec>(from, to, n); }

    static void decode_block(const block_q5_1 & b, float16x & low, float16x & high) {
        const float   d = from_half(b.d), m = from_half(b.m);
        const byte16x qs = load_as<byte16x>(b.qs);
        low              = with_fifth_bit(qs & 15, b.qh, 0)*d + m;
        high             = with_fifth_bit(qs >> 4, b.qh, 16)*d + m;
    }
};

struct iq4_nl_codec : blocks_of_32<block_iq4_nl> {
    static void decode(const char * from, float * to, int64_t n) { decode_all<iq4_nl_codec>(from, to, n); }

    static void decode_block(const block_iq4_nl & b, float16x & low, float16x & high) {
        const float   d  = from_half(b.d);
        const byte16x qs = load_as<byte16x>(b.qs), values = load_as<byte16x>(kvalues_iq4nl);
        low              = floats(look_up(values, qs & 15))*d;
        high             = floats(look_up(values, qs >> 4))*d;
    }
};

} // namespace
} // namespace kvfold::attention
