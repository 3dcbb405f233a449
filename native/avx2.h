// What AVX2 does by instructions of its own: a vector of 16 is two registers.
// Part of vectors.h.
#pragma once
#include "two.h"

namespace danlu {

typedef float Float8 __attribute__((vector_size(32)));
typedef int32_t Int8 __attribute__((vector_size(32)));
typedef Two<Float8> Floats;
typedef Two<Int8> Ints;

inline Floats all(float value) { return {(Float8)_mm256_set1_ps(value), (Float8)_mm256_set1_ps(value)}; }
inline Ints all(int32_t value) { return {(Int8)_mm256_set1_epi32(value), (Int8)_mm256_set1_epi32(value)}; }
inline Floats multiply_add(Floats a, Floats b, Floats c) {
    return {(Float8)_mm256_fmadd_ps(a.low, b.low, c.low), (Float8)_mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Floats floats_of(Ints x) { return {(Float8)_mm256_cvtepi32_ps((__m256i)x.low), (Float8)_mm256_cvtepi32_ps((__m256i)x.high)}; }
inline Ints rounded(Floats x) { return {(Int8)_mm256_cvtps_epi32(x.low), (Int8)_mm256_cvtps_epi32(x.high)}; }
inline Floats larger(Floats a, Floats b) {  // a NaN in a stays
    return {(Float8)_mm256_max_ps(b.low, a.low), (Float8)_mm256_max_ps(b.high, a.high)};
}
inline float largest(Floats x) {
    const __m256 eight = _mm256_max_ps(x.low, x.high);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

// accumulator[i] += sum over b of weights[4 i + b] (unsigned bytes) * four[b] (signed bytes). The processor's sums of two products have 16
// bits, which 255 * 127 twice would overflow: so even and odd bytes are widened and multiplied apart.
inline Ints dot4(Ints accumulator, Ints weights, const int8_t* four) {
    const __m256i x = _mm256_set1_epi32(load<int32_t>(four)), odd = _mm256_srai_epi16(x, 8);
    const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), bytes = _mm256_set1_epi16(255);
    auto dots = [&](Int8 from, Int8 w) {
        return from + (Int8)_mm256_madd_epi16(_mm256_and_si256((__m256i)w, bytes), even) +
               (Int8)_mm256_madd_epi16(_mm256_srli_epi16((__m256i)w, 8), odd);
    };
    return {dots(accumulator.low, weights.low), dots(accumulator.high, weights.high)};
}

// accumulator[i] += sum over b of four[b] (from 0 to 127) * bytes[4 i + b] (signed)
inline Ints dot4_signed(Ints accumulator, Ints bytes, const int8_t* four) {
    const __m256i x = _mm256_set1_epi32(load<int32_t>(four)), ones = _mm256_set1_epi16(1);
    auto dots = [&](Int8 from, Int8 b) { return from + (Int8)_mm256_madd_epi16(_mm256_maddubs_epi16(x, (__m256i)b), ones); };
    return {dots(accumulator.low, bytes.low), dots(accumulator.high, bytes.high)};
}

// Sums of 16 columns: start + sum over j, b of w[j][4 i + b] * a[4 j + b], weights from 0 to 15: four times two products of at most
// 15 * 127 fit 16 bits.
inline Ints dot16_small(const Ints* w, const int8_t* a, int32_t start) {
    __m256i low = _mm256_setzero_si256(), high = low;
    UNROLLED
    for (int j = 0; j < 4; j++) {
        const __m256i x = _mm256_set1_epi32(load<int32_t>(a + 4 * j));
        low = _mm256_add_epi16(low, _mm256_maddubs_epi16((__m256i)w[j].low, x));
        high = _mm256_add_epi16(high, _mm256_maddubs_epi16((__m256i)w[j].high, x));
        asm("" : "+x"(low), "+x"(high));  // or compilers sum in another order, for which registers do not suffice
    }
    const __m256i ones = _mm256_set1_epi16(1);
    return Ints{(Int8)_mm256_madd_epi16(low, ones), (Int8)_mm256_madd_epi16(high, ones)} + all(start);
}

// The same of weights from 0 to 255 that stand for themselves less 128, which is what a start of -128 * sum of a would give: their signs go
// to the activations, so that two products of at most 128 * 127 fit 16 bits.
inline Ints dot16(const Ints* w, const int8_t* a, int32_t) {
    Ints total{};
    const __m256i ones = _mm256_set1_epi16(1), middle = _mm256_set1_epi8(-128);
    auto dots = [&](Int8 from, Int8 bytes, __m256i x) {
        const __m256i w = _mm256_xor_si256((__m256i)bytes, middle);
        return from + (Int8)_mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)), ones);
    };
    UNROLLED
    for (int j = 0; j < 4; j++) {
        const __m256i x = _mm256_set1_epi32(load<int32_t>(a + 4 * j));
        total = {dots(total.low, w[j].low, x), dots(total.high, w[j].high, x)};
    }
    return total;
}

// 64 numbers as signed bytes, whole numbers to 127 times a scale for each 16 of them; and the sums of each 16 bytes. Bytes cannot say that
// a number is not finite: the scales do.
inline void bytes_of(const Floats* x, int8_t* bytes, float* scales, int32_t* sums) {
    for (int i = 0; i < 4; i++) {
        const float most = largest((Floats)((Ints)x[i] & 0x7fffffff));
        const Ints whole = rounded(x[i] * (127.0f / (most > 1e-30f ? most : 1e-30f)));
        scales[i] = most / 127.0f;
        // Packing works within halves of a register: a permutation puts the quarters back in their order.
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32((__m256i)whole.low, (__m256i)whole.high), 0xd8);
        const __m128i packed = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        std::memcpy(bytes + i * LANES, &packed, sizeof packed);
        const __m128i eights = _mm_sad_epu8(_mm_xor_si128(packed, _mm_set1_epi8(-128)), _mm_setzero_si128());
        sums[i] = _mm_cvtsi128_si32(eights) + _mm_extract_epi32(eights, 2) - LANES * 128;
    }
    const Floats nothing = (x[0] + x[1] + x[2] + x[3]) * 0.0f;
    const __m256 both = nothing.low + nothing.high;
    if (_mm256_movemask_ps(_mm256_cmp_ps(both, both, _CMP_UNORD_Q))) scales[0] = scales[1] = scales[2] = scales[3] = NAN;
}

// Rows of words become columns.
inline void turn(uint32_t (&square)[16][16]) {
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < row; column++) std::swap(square[row][column], square[column][row]);
}

inline Floats load_halves(const uint16_t* from) {  // IEEE float16
    return {(Float8)_mm256_cvtph_ps(load<__m128i>(from)), (Float8)_mm256_cvtph_ps(load<__m128i>(from + 8))};
}

}  // namespace danlu
