// How each type of the KV cache is brought into F32: one small struct per type, which turns a part of a block, 16 values, into
// vectors. What a type takes beside it is a line in `codecs` (kernel.h) and in storage_of() (attention.cpp).
#pragma once

#include "vec.h"

#define GGML_COMMON_DECL_C
#define GGML_COMMON_IMPL_C
#include "ggml-common.h"

namespace kvfold::attention {
namespace {

// The values of one part.
using sixteen = vec[16/lanes];

// Plain numbers: blocks of 16 of them, which are one part.
template <typename number> struct plain_codec {
    static constexpr size_t block_bytes = 16*sizeof(number);
    static constexpr int    parts       = 1;

    static constexpr size_t size(int64_t n) { return n*sizeof(number); }
};

struct f32_codec : plain_codec<float> {
    template <int part> static void decode(const char * block, sixteen & to) { memcpy(&to, block, sizeof(to)); }

    static float decode_one(const char * from) { return load_as<float>(from); }
};

struct f16_codec : plain_codec<uint16_t> {
    template <int part> static void decode(const char * block, sixteen & to) {
        for (int i = 0; i < 16/lanes; i++) {
            to[i] = from_half(block + 2*i*lanes);
        }
    }

    static float decode_one(const char * from) { return from_half(load_as<uint16_t>(from)); }
};

struct bf16_codec : plain_codec<uint16_t> {
    template <int part> static void decode(const char * block, sixteen & to) {
        uint32_t bits[16];
        for (int i = 0; i < 16; i++) {
            bits[i] = (uint32_t) load_as<uint16_t>(block + 2*i) << 16;
        }
        memcpy(&to, bits, sizeof(to));
    }

    static float decode_one(const char * from) {
        const uint32_t bits = (uint32_t) load_as<uint16_t>(from) << 16;
        return load_as<float>(&bits);
    }
};

// Blocks of 32 values of which the quantised types have 16 in each part.
template <typename block> struct quantised_codec {
    static constexpr size_t block_bytes = sizeof(block);
    static constexpr int    parts       = 2;

    static constexpr size_t size(int64_t n) { return n/32*sizeof(block); }
};

// The fifth bits of 16 values, from bit 0 of `from` on, where the fifth bit of a byte is.
inline bytes fifth_bits(const uint8_t * from) {
    const bytes each = { 1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128 };
    const uint8_t a = from[0], b = from[1];
    const bytes   of = { a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b };
    return (bytes) ((of & each) == each) & 16;
}

// To x*d + m.
inline void scale(bytes x, uint16_t d, sixteen & to) {
    widen(x, to);
    for (vec & each : to) {
        each = each*all_from_half(d);
    }
}
inline void scale(bytes x, uint16_t d, uint16_t m, sixteen & to) {
    widen(x, to);
    for (vec & each : to) {
        each = each*all_from_half(d) + all_from_half(m);
    }
}

struct q8_0_codec : quantised_codec<block_q8_0> {
    template <int part> static void decode(const char * block, sixteen & to) {
        const auto & b = *(const block_q8_0 *) block;
        scale(load_as<bytes>(b.qs + 16*part), b.d, to);
    }
};

// The low halves of the bytes are the first 16 values.
template <int part> inline bytes four_bits(const uint8_t * qs) { return part ? load_as<bytes>(qs) >> 4 : load_as<bytes>(qs) & 15; }

struct q4_0_codec : quantised_codec<block_q4_0> {
    template <int part> static void decode(const char * block, sixteen & to) {
        const auto & b = *(const block_q4_0 *) block;
        scale(four_bits<part>(b.qs) - 8, b.d, to);
    }
};

struct q4_1_codec : quantised_codec<block_q4_1> {
    template <int part> static void decode(const char * block, sixteen & to) {
        const auto & b = *(const block_q4_1 *) block;
        scale(four_bits<part>(b.qs), b.d, b.m, to);
    }
};

struct q5_0_codec : quantised_codec<block_q5_0> {
    template <int part> static void decode(const char * block, sixteen & to) {
        const auto & b = *(const block_q5_0 *) block;
        scale((four_bits<part>(b.qs) | fifth_bits(b.qh + 2*part)) - 16, b.d, to);
    }
};

struct q5_1_codec : quantised_codec<block_q5_1> {
    template <int part> static void decode(const char * block, sixteen & to) {
        const auto & b = *(const block_q5_1 *) block;
        scale(four_bits<part>(b.qs) | fifth_bits(b.qh + 2*part), b.d, b.m, to);
    }
};

struct iq4_nl_codec : quantised_codec<block_iq4_nl> {
    template <int part> static void decode(const char * block, sixteen & to) {
        const auto & b = *(const block_iq4_nl *) block;
        scale(look_up(load_as<bytes>(kvalues_iq4nl), four_bits<part>(b.qs)), b.d, to);
    }
};

} // namespace
} // namespace kvfold::attention
