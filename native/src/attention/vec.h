// Vectors of floats through the vector extensions of GCC and Clang, which compile to whatever instruction set the file that
// includes this is compiled for. Everything has internal linkage: the linker must not merge the copies of several sets.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__F16C__)
#    include <immintrin.h>
#elif defined(__aarch64__)
#    include <arm_neon.h>
#endif

namespace kvfold::attention {
namespace {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

// vectors that the instruction set has registers for, beside those that a product needs for its operands
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int accumulators = 16;
#else
constexpr int accumulators = 8;
#endif

template <typename T, int n> struct vector_of {
    typedef T type __attribute__((vector_size(sizeof(T)*n)));
};
template <typename T, int n> using vector_type = typename vector_of<T, n>::type;

using vec  = vector_type<float, lanes>;
using ivec = vector_type<int32_t, lanes>;

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

using bytes = vector_type<uint8_t, 16>; // half of a quantised block

template <typename V> inline V load_as(const void * from) {
    V v;
    memcpy(&v, from, sizeof(v));
    return v;
}
template <typename V> inline void store_as(void * to, const V & v) { memcpy(to, &v, sizeof(v)); }

inline vec  load(const float * from) { return load_as<vec>(from); }
inline void store(float * to, vec v) { store_as(to, v); }
inline vec  all(float x) { return x - vec{}; }
inline ivec all_bits(int32_t x) { return x - ivec{}; }

inline vec larger(vec a, vec b) { return a > b ? a : b; }

template <int... index> inline vec pick(vec a, vec b, std::integer_sequence<int, index...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, index...);
#else
    return __builtin_shuffle(a, b, ivec{ index... });
#endif
}

// How two vectors are put together in segments of 2*h lanes; an index of `lanes` and more is a lane of b.
struct low_halves  { static constexpr int index(int l, int h) { return l & h ? lanes + l - h : l; } };
struct high_halves { static constexpr int index(int l, int h) { return l & h ? lanes + l : l + h; } };
struct outer       { static constexpr int index(int l, int h) { return l & h ? lanes + l : l; } };
struct inner       { static constexpr int index(int l, int h) { return l & h ? lanes + l - h : l + h; } };

template <typename how, int h, int... l> inline vec combine(vec a, vec b, std::integer_sequence<int, l...>) {
    return pick(a, b, std::integer_sequence<int, how::index(l, h)...>{});
}
template <typename how, int h> inline vec combine(vec a, vec b) {
    return combine<how, h>(a, b, std::make_integer_sequence<int, lanes>{});
}

// Lane i of the result is the sum of v[i].
template <int h = lanes/2> inline vec sums(vec * v) {
    for (int i = 0; i < h; i++) {
        v[i] = combine<outer, h>(v[i], v[i + h]) + combine<inner, h>(v[i], v[i + h]);
    }
    if constexpr (h > 1) {
        return sums<h/2>(v);
    } else {
        return v[0];
    }
}

// Rows become columns.
template <int h = lanes/2> inline void transpose(vec * v) {
    for (int i = 0; i < lanes; i++) {
        if (!(i & h)) {
            const vec a = v[i], b = v[i + h];
            v[i]     = combine<low_halves, h>(a, b);
            v[i + h] = combine<high_halves, h>(a, b);
        }
    }
    if constexpr (h > 1) {
        transpose<h/2>(v);
    }
}

template <int h = lanes/2> inline float largest(vec v) {
    v = larger(v, combine<inner, h>(v, v));
    if constexpr (h > 1) {
        return largest<h/2>(v);
    } else {
        return v[0];
    }
}

template <int h = lanes/2> inline float sum(vec v) {
    v = v + combine<inner, h>(v, v);
    if constexpr (h > 1) {
        return sum<h/2>(v);
    } else {
        return v[0];
    }
}

// e^x to two units in the last place for x <= 88; 0 below -87. After expf() of Moshier's Cephes library.
inline vec exponential(vec x) {
    const float rounder = 12582912.0f; // 1.5*2^23: adding it leaves a whole number in the low bits
    const vec   shifted = x*1.44269504088896341f + rounder;
    const vec   n       = shifted - rounder;
    vec r = x - n*0.693359375f;
    r     = r + n*2.12194440e-4f;
    vec y = r*1.9875691500e-4f + 1.3981999507e-3f;
    y     = y*r + 8.3334519073e-3f;
    y     = y*r + 4.1665795894e-2f;
    y     = y*r + 1.6666665459e-1f;
    y     = y*r + 5.0000001201e-1f;
    y     = y*(r*r) + r + 1.0f;
    y     = y*(vec) (((ivec) shifted + 127) << 23);
    return x < -87.0f ? vec{} : y;
}

inline vec hyperbolic_tangent(vec x) {
    const vec size = x < 0.0f ? -x : x;
    const vec far  = 1.0f - 2.0f/(exponential(2.0f*(size > 20.0f ? all(20.0f) : size)) + 1.0f);
    // the difference from 1 loses what a small x has
    const vec square = x*x;
    vec near = square*-5.70498872745e-3f + 2.06390887954e-2f;
    near     = near*square - 5.37397155531e-2f;
    near     = near*square + 1.33314422036e-1f;
    near     = near*square - 3.33332819422e-1f;
    near     = near*square*x + x;
    return size < 0.625f ? near : x < 0.0f ? -far : far;
}

inline bytes look_up(bytes table, bytes index) {
#if defined(__SSSE3__)
    return (bytes) _mm_shuffle_epi8((__m128i) table, (__m128i) index);
#elif defined(__aarch64__)
    return (bytes) vqtbl1q_u8((uint8x16_t) table, (uint8x16_t) index);
#else
    for (int i = 0; i < 16; i++) {
        index[i] = table[index[i]];
    }
    return index;
#endif
}

// 16 signed bytes as numbers. GCC makes scalar code of __builtin_convertvector() here.
inline void widen(bytes x, vec * to) {
#if defined(__AVX512F__)
    to[0] = (vec) _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i) x));
#elif defined(__AVX2__)
    to[0] = (vec) _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32((__m128i) x));
    to[1] = (vec) _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128((__m128i) x, 8)));
#elif defined(__aarch64__)
    const int16x8_t halves[2] = { vmovl_s8(vget_low_s8((int8x16_t) x)), vmovl_high_s8((int8x16_t) x) };
    for (int i = 0; i < 2; i++) {
        to[2*i]     = (vec) vcvtq_f32_s32(vmovl_s16(vget_low_s16(halves[i])));
        to[2*i + 1] = (vec) vcvtq_f32_s32(vmovl_high_s16(halves[i]));
    }
#else
    for (int i = 0; i < 16; i++) {
        to[i/lanes][i%lanes] = (float) (int8_t) x[i];
    }
#endif
}

// `lanes` values in F16.
inline vec from_half(const char * from) {
#if defined(__AVX512F__)
    return (vec) _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i *) from));
#elif defined(__F16C__)
    return (vec) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) from));
#elif defined(__aarch64__)
    return (vec) vcvt_f32_f16(load_as<float16x4_t>(from));
#else
    ivec half = {};
    for (int i = 0; i < lanes; i++) {
        half[i] = load_as<uint16_t>(from + 2*i);
    }
    const ivec exponent = half & 0x7c00;
    const ivec bits     = (half & 0x7fff) << 13;
    const ivec finite   = (ivec) ((vec) bits*0x1p112f);
    return (vec) ((exponent == 0x7c00 ? bits | 0x7f800000 : finite) | (half & 0x8000) << 16);
#endif
}

inline float from_half(uint16_t half) {
#if defined(__F16C__)
    return _cvtsh_ss(half);
#elif defined(__aarch64__)
    return load_as<__fp16>(&half);
#else
    const uint16_t some[lanes] = { half };
    return from_half((const char *) some)[0];
#endif
}

// The same in all lanes.
inline vec all_from_half(uint16_t half) {
#if defined(__AVX512F__)
    return (vec) _mm512_maskz_cvtph_ps(0xffff, _mm256_set1_epi16((short) half));
#else
    return all(from_half(half));
#endif
}

} // namespace
} // namespace kvfold::attention
