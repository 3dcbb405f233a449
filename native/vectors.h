// Vectors of 16 numbers. GCC and Clang turn them into whatever the processor has; what AVX-512 does better is said by hand.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#define UNROLLED _Pragma("GCC unroll 16")  // so that sums stay in registers

namespace danlu {

constexpr int LANES = 16;
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));

template <class T>
inline T load(const void* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
inline void store(void* to, Floats value) { std::memcpy(to, &value, sizeof value); }
inline void store(void* to, Ints value) { std::memcpy(to, &value, sizeof value); }

inline Floats absolute(Floats x) { return (Floats)((Ints)x & 0x7fffffff); }

inline float sum(Floats x) {  // in one order everywhere
    float lanes[LANES];
    store(lanes, x);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}

#if defined(__AVX512F__) && defined(__AVX512VNNI__) && defined(__AVX512BW__)

inline Floats all(float value) { return (Floats)_mm512_set1_ps(value); }
inline Ints all(int32_t value) { return (Ints)_mm512_set1_epi32(value); }

inline Floats multiply_add(Floats a, Floats b, Floats c) { return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline Floats floats_of(Ints x) { return (Floats)_mm512_cvtepi32_ps((__m512i)x); }
inline Ints rounded(Floats x) { return (Ints)_mm512_cvtps_epi32((__m512)x); }
inline Floats larger(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)b, (__m512)a); }
inline float largest(Floats x) { return _mm512_reduce_max_ps((__m512)x); }

// accumulator[i] += sum over b of weights[4 i + b] (unsigned bytes) * four[b] (signed bytes)
inline Ints dot4(Ints accumulator, Ints weights, const int8_t* four) {
    // By hand, since compilers broadcast to a register first: half again as many instructions in the innermost loop.
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(accumulator) : "v"(weights), "m"(*(const int8_t (*)[4])four));
    return accumulator;
}

// 64 numbers as signed bytes, whole numbers to 127 times a scale for each 16 of them; and the sums of each 16 bytes. Bytes cannot say that
// a number is not finite: the scales do.
inline void bytes_of(const Floats* x, int8_t* bytes, float* scales, int32_t* sums) {
    auto both = [](Floats a, Floats b) {
        return _mm512_castps_pd(_mm512_max_ps(_mm512_unpacklo_ps((__m512)a, (__m512)b), _mm512_unpackhi_ps((__m512)a, (__m512)b)));
    };
    __m512d ab = both(absolute(x[0]), absolute(x[1])), cd = both(absolute(x[2]), absolute(x[3]));
    __m512 most = _mm512_max_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    most = _mm512_max_ps(most, _mm512_shuffle_f32x4(most, most, 0x4e));
    most = _mm512_max_ps(most, _mm512_shuffle_f32x4(most, most, 0xb1));  // the four, in every quarter
    __m512 times = _mm512_div_ps(_mm512_set1_ps(127.0f), _mm512_max_ps(most, _mm512_set1_ps(1e-30f)));
    _mm_storeu_ps(scales, _mm512_castps512_ps128(_mm512_div_ps(most, _mm512_set1_ps(127.0f))));
    const Floats nothing = (x[0] + x[1] + x[2] + x[3]) * 0.0f;
    if (_mm512_cmp_ps_mask((__m512)nothing, (__m512)nothing, _CMP_UNORD_Q)) scales[0] = scales[1] = scales[2] = scales[3] = NAN;
    auto part = [](Floats a, __m512 by) { return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps((__m512)a, by))); };
    __m512i all = _mm512_castsi128_si512(part(x[0], _mm512_shuffle_ps(times, times, 0x00)));
    all = _mm512_inserti32x4(all, part(x[1], _mm512_shuffle_ps(times, times, 0x55)), 1);
    all = _mm512_inserti32x4(all, part(x[2], _mm512_shuffle_ps(times, times, 0xaa)), 2);
    all = _mm512_inserti32x4(all, part(x[3], _mm512_shuffle_ps(times, times, 0xff)), 3);
    std::memcpy(bytes, &all, sizeof all);
    __m512i eights = _mm512_sad_epu8(_mm512_xor_si512(all, _mm512_set1_epi8(-128)), _mm512_setzero_si512());
    eights = _mm512_sub_epi64(_mm512_add_epi64(eights, _mm512_shuffle_epi32(eights, (_MM_PERM_ENUM)0x4e)), _mm512_set1_epi64(16 * 128));
    const __m512i quarters = _mm512_castsi128_si512(_mm_setr_epi32(0, 4, 8, 12));
    _mm_storeu_si128((__m128i*)sums, _mm512_castsi512_si128(_mm512_permutexvar_epi32(quarters, eights)));
}

// accumulator[i] += sum over b of four[b] (from 0 to 127) * bytes[4 i + b] (signed)
inline Ints dot4_signed(Ints accumulator, Ints bytes, const int8_t* four) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)accumulator, _mm512_set1_epi32(load<int32_t>(four)), (__m512i)bytes);
}

inline Floats load_halves(const uint16_t* from) { return (Floats)_mm512_cvtph_ps(load<__m256i>(from)); }  // IEEE float16

#else

inline Floats all(float value) { return Floats{} + value; }
inline Ints all(int32_t value) { return Ints{} + value; }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }
inline Floats floats_of(Ints x) { return __builtin_convertvector(x, Floats); }
inline Ints rounded(Floats x) {  // to the nearest, halves to even: adding 1.5 * 2^23 leaves the whole number in the last bits
    return (Ints)(x + 12582912.0f) - (Ints)all(12582912.0f);
}
inline Floats larger(Floats a, Floats b) {
    Ints second = b > a;  // a NaN in a stays
    return (Floats)((second & (Ints)b) | (~second & (Ints)a));
}
inline float largest(Floats x) {
    float most = x[0];
    for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
    return most;
}

inline Ints dot4(Ints accumulator, Ints weights, const int8_t* four) {
    return accumulator + (weights & 255) * four[0] + ((weights >> 8) & 255) * four[1] + ((weights >> 16) & 255) * four[2] +
           ((weights >> 24) & 255) * four[3];
}

inline Ints dot4_signed(Ints accumulator, Ints bytes, const int8_t* four) {
    return accumulator + ((bytes << 24) >> 24) * four[0] + ((bytes << 16) >> 24) * four[1] + ((bytes << 8) >> 24) * four[2] +
           (bytes >> 24) * four[3];
}

inline void bytes_of(const Floats* x, int8_t* bytes, float* scales, int32_t* sums) {
    for (int i = 0; i < 4; i++) {
        const float most = largest(absolute(x[i]));
        const Ints whole = rounded(x[i] * (127.0f / (most > 1e-30f ? most : 1e-30f)));
        scales[i] = most / 127.0f;
        sums[i] = 0;
        for (int j = 0; j < LANES; j++) sums[i] += bytes[i * LANES + j] = (int8_t)whole[j];
    }
    if (!std::isfinite(sum(x[0] + x[1] + x[2] + x[3]))) scales[0] = scales[1] = scales[2] = scales[3] = NAN;
}

inline float half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    uint32_t bits = rest >= 0x7c00 ? (rest << 13) + 0x70000000 : (rest << 13) + 0x38000000;  // infinities and NaN, normal numbers
    float value;
    if (rest < 0x0400) value = (float)rest * 5.9604644775390625e-8f;  // below the normal ones: multiples of 2^-24
    else std::memcpy(&value, &bits, 4);
    std::memcpy(&bits, &value, 4);
    bits |= sign;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline Floats load_halves(const uint16_t* from) {
    Floats x;
    for (int i = 0; i < LANES; i++) x[i] = half_to_float(from[i]);
    return x;
}

#endif

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
    typedef uint32_t Words __attribute__((vector_size(64)));
    typedef uint16_t Halves __attribute__((vector_size(32)));
    Words bits = (Words)x;
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    Halves halves = __builtin_convertvector(bits, Halves);
    std::memcpy(to, &halves, sizeof halves);
    return (Floats)(bits << 16);
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
    x = larger(x, all(-87.0f));
    x = -larger(-x, all(-88.0f));
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

}  // namespace danlu
