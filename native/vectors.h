// Vectors of 16 numbers. GCC and Clang turn them into whatever the processor has; what compilers do not find is said by hand, for each
// kind of processor in a file of its own.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define UNROLLED _Pragma("GCC unroll 16")  // so that sums stay in registers

namespace danlu {

constexpr int LANES = 16;

template <class T>
struct Memory {
    static T load(const void* from) {
        T value;
        std::memcpy(&value, from, sizeof value);
        return value;
    }
    static void store(void* to, T value) { std::memcpy(to, &value, sizeof value); }
};
template <class T>
inline T load(const void* from) {
    return Memory<T>::load(from);
}

}  // namespace danlu

#if defined(__AVX512F__) && defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define DANLU_WIDE  // 32 registers of 16 numbers
#include "avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "avx2.h"
#else
#include "plain.h"
#endif

namespace danlu {

#if !defined(DANLU_WIDE)
inline Floats smaller(Floats a, Floats b) { return -larger(-a, -b); }
inline Floats near_reciprocal(Floats x) { return 1.0f / x; }
#endif
inline Floats reciprocal(Floats x) { return 1.0f / x; }

inline void store(void* to, Floats value) { Memory<Floats>::store(to, value); }
inline void store(void* to, Ints value) { Memory<Ints>::store(to, value); }

inline float sum(Floats x) {  // in one order everywhere
#if defined(DANLU_WIDE)
    const __m512 upper = _mm512_shuffle_f32x4((__m512)x, (__m512)x, 0xee);
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256((__m512)x), _mm512_castps512_ps256(upper));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
#else
    float lanes[LANES];
    store(lanes, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
#endif
}

// The first `count` numbers, which may be none or more than there are; in the others' place `rest`.
inline Floats first_lanes(Floats x, int count, float rest) {
#if defined(DANLU_WIDE)
    const auto kept = (__mmask16)(count >= LANES ? 0xffff : count > 0 ? (1 << count) - 1 : 0);
    return (Floats)_mm512_mask_mov_ps((__m512)all(rest), kept, (__m512)x);
#else
    float lanes[LANES];
    store(lanes, x);
    for (int i = 0; i < LANES; i++) lanes[i] = i < count ? lanes[i] : rest;
    return load<Floats>(lanes);
#endif
}

// Two bfloat16 in a word: the upper halves of two float32. Rounded to the nearest, halves to even; NaN stays NaN.
inline uint16_t bfloat_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
// Store finite numbers as bfloat16; returns what was stored.
inline Floats store_bfloats(uint16_t* to, Floats x) {
#if defined(__AVX512BF16__)
    __m256i halves = (__m256i)_mm512_cvtneps_pbh((__m512)x);
    std::memcpy(to, &halves, sizeof halves);
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
#else
    Ints bits = (Ints)x;
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    int32_t lanes[LANES];
    store(lanes, bits);
    for (int i = 0; i < LANES; i++) to[i] = (uint16_t)lanes[i];
    return (Floats)(bits << 16);
#endif
}
inline Floats rounded_to_bfloats(Floats x) {
    uint16_t halves[LANES];
    return store_bfloats(halves, x);
}
inline Floats load_bfloats(const uint16_t* from) {
#if defined(DANLU_WIDE)
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(load<__m256i>(from)), 16);
#else
    uint32_t lanes[LANES];
    for (int i = 0; i < LANES; i++) lanes[i] = (uint32_t)from[i] << 16;
    return load<Floats>(lanes);
#endif
}
inline float float_of(uint16_t bfloat) {
    uint32_t bits = (uint32_t)bfloat << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// accumulator[i] += a[2 i] b[2 i] + a[2 i + 1] b[2 i + 1], pairs of bfloat16
inline Floats dot2(Floats accumulator, Ints a, Ints b) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)accumulator, (__m512bh)a, (__m512bh)b);
#else
    accumulator = multiply_add((Floats)(a << 16), (Floats)(b << 16), accumulator);
    return multiply_add((Floats)(a & (int32_t)0xffff0000), (Floats)(b & (int32_t)0xffff0000), accumulator);
#endif
}

// e^x to a relative error of 2e-7. Source: the series of 2^f around 0 for f in [-1/2, 1/2] (Cody & Waite 1980, chapter 6).
inline Floats exponential(Floats x) {
    x = smaller(larger(x, all(-87.0f)), all(88.0f));
    Ints whole = rounded(x * 1.44269504f);
    Floats n = floats_of(whole);
    Floats r = multiply_add(n, all(-0.693359375f), x);
    r = multiply_add(n, all(2.12194440e-4f), r);
    Floats p = all(1.9875691500e-4f);
    p = multiply_add(p, r, all(1.3981999507e-3f));
    p = multiply_add(p, r, all(8.3334519073e-3f));
    p = multiply_add(p, r, all(4.1665795894e-2f));
    p = multiply_add(p, r, all(1.6666665459e-1f));
    p = multiply_add(p, r, all(5.0000001201e-1f));
    p = multiply_add(p, r * r, r + 1.0f);
    return (Floats)((Ints)p + (whole << 23));
}

// e^x to a relative error of 8e-5, for x from -87.3 to 88 or NaN: for what is rounded to bfloat16 (2e-3) next. 2^f for f in [-1/2, 1/2] by
// the polynomial of third degree whose largest relative error is smallest, fitted here.
inline Floats near_exponential(Floats x) {
    const Floats power = x * 1.44269504f;
    const Ints whole = rounded(power);
    const Floats f = power - floats_of(whole);
    Floats p = multiply_add(all(0.0551716307f), f, all(0.242611167f));
    p = multiply_add(p, f, all(0.693260997f));
    p = multiply_add(p, f, all(0.999928071f));
    return (Floats)((Ints)p + (whole << 23));
}

// A row of float32 or bfloat16, 16 numbers at a time.
template <bool HALF>
struct Numbers {
    static Floats load(const void* from, int64_t i) {
        if constexpr (!HALF) return danlu::load<Floats>((const float*)from + i);
        else return load_bfloats((const uint16_t*)from + i);
    }
    static void store(void* to, int64_t i, Floats x) {
        if constexpr (!HALF) danlu::store((float*)to + i, x);
        else store_bfloats((uint16_t*)to + i, x);
    }
    static constexpr int64_t width = HALF ? 2 : 4;
};

}  // namespace danlu
