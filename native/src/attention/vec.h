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

// vectors of blocks, which the compiler divides into as many registers as it takes
using float16x = vector_type<float, 16>;
using int16x   = vector_type<int32_t, 16>;
using byte16x  = vector_type<uint8_t, 16>;
using sbyte16x = vector_type<int8_t, 16>;
using half16x  = vector_type<uint16_t, 16>;

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

inline byte16x look_up(byte16x table, byte16x index) {
#if defined(__SSSE3__)
    return (byte16x) _mm_shuffle_epi8((__m128i) table, (__m128i) index);
#elif defined(__aarch64__)
    return (byte16x) vqtbl1q_u8((uint8x16_t) table, (uint8x16_t) index);
#else
    for (int i = 0; i < 16; i++) {
        index[i] = table[index[i]];
    }
    return index;
#endif
}

inline float16x from_half(const void * from) {
#if defined(__AVX512F__)
    return (float16x) _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256((const __m256i *) from));
#elif defined(__F16C__)
    float16x x;
    store_as(&x, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) from)));
    store_as((char *) &x + 32, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) from + 1)));
    return x;
#elif defined(__aarch64__)
    float16x x;
    for (int i = 0; i < 4; i++) {
        store_as((char *) &x + 16*i, vcvt_f32_f16(load_as<float16x4_t>((const char *) from + 8*i)));
    }
    return x;
#else
    const int16x half     = __builtin_convertvector(load_as<half16x>(from), int16x);
    const int16x exponent = half & 0x7c00;
    const int16x bits     = (half & 0x7fff) << 13;
    const int16x finite   = (int16x) ((float16x) bits*0x1p112f);
    return (float16x) ((exponent == 0x7c00 ? bits | 0x7f800000 : finite) | (half & 0x8000) << 16);
#endif
}

inline float from_half(uint16_t half) {
#if defined(__F16C__)
    return _cvtsh_ss(half);
#elif defined(__aarch64__)
    return load_as<__fp16>(&half);
#else
    uint16_t some[16] = { half };
    return from_half(some)[0];
#endif
}

} // namespace
} // namespace kvfold::attention
