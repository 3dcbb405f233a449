// What AVX-512 with VNNI does by instructions of its own.
// Part of vectors.h.
#pragma once

namespace danlu {

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));

inline Floats absolute(Floats x) { return (Floats)((Ints)x & 0x7fffffff); }
inline Floats all(float value) { return (Floats)_mm512_set1_ps(value); }
inline Ints all(int32_t value) { return (Ints)_mm512_set1_epi32(value); }

inline Floats multiply_add(Floats a, Floats b, Floats c) { return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline Floats near_reciprocal(Floats x) { return (Floats)_mm512_rcp14_ps((__m512)x); }  // 1 / x to 6e-5
inline Floats floats_of(Ints x) { return (Floats)_mm512_cvtepi32_ps((__m512i)x); }
inline Ints rounded(Floats x) { return (Ints)_mm512_cvtps_epi32((__m512)x); }
inline Floats larger(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)b, (__m512)a); }
inline Floats smaller(Floats a, Floats b) { return (Floats)_mm512_min_ps((__m512)b, (__m512)a); }
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
    const __m128 four = _mm512_castps512_ps128(most), largest_byte = _mm_set1_ps(127.0f);
    _mm_storeu_ps(scales, _mm_div_ps(four, largest_byte));
    const __m512 times = _mm512_broadcast_f32x4(_mm_div_ps(largest_byte, _mm_max_ps(four, _mm_set1_ps(1e-30f))));
    const Floats nothing = (x[0] + x[1] + x[2] + x[3]) * 0.0f;
    if (_mm512_cmp_ps_mask((__m512)nothing, (__m512)nothing, _CMP_UNORD_Q)) scales[0] = scales[1] = scales[2] = scales[3] = NAN;
    auto part = [](Floats a, __m512 by) { return _mm512_cvtps_epi32(_mm512_mul_ps((__m512)a, by)); };
    const __m512i ab_words =
        _mm512_packs_epi32(part(x[0], _mm512_shuffle_ps(times, times, 0x00)), part(x[1], _mm512_shuffle_ps(times, times, 0x55)));
    const __m512i cd_words =
        _mm512_packs_epi32(part(x[2], _mm512_shuffle_ps(times, times, 0xaa)), part(x[3], _mm512_shuffle_ps(times, times, 0xff)));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i all = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(ab_words, cd_words));
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

// Rows of words become columns.
inline void turn(uint32_t (&square)[16][16]) {
    __m512i x[16], y[16];
    for (int i = 0; i < 16; i++) x[i] = _mm512_loadu_si512(square[i]);
    for (int i = 0; i < 16; i += 2) y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]), y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; k++)
            x[i + 2 * k] = _mm512_unpacklo_epi64(y[i + k], y[i + k + 2]), x[i + 2 * k + 1] = _mm512_unpackhi_epi64(y[i + k], y[i + k + 2]);
    for (int i = 0; i < 16; i += 8)  // x[i + k]: column k of each quarter of rows i to i + 3
        for (int k = 0; k < 4; k++) {
            y[i + k] = _mm512_shuffle_i32x4(x[i + k], x[i + k + 4], 0x88);
            y[i + k + 4] = _mm512_shuffle_i32x4(x[i + k], x[i + k + 4], 0xdd);
        }
    for (int k = 0; k < 8; k++) {
        _mm512_storeu_si512(square[k], _mm512_shuffle_i32x4(y[k], y[k + 8], 0x88));
        _mm512_storeu_si512(square[k + 8], _mm512_shuffle_i32x4(y[k], y[k + 8], 0xdd));
    }
}

inline Floats load_halves(const uint16_t* from) { return (Floats)_mm512_cvtph_ps(load<__m256i>(from)); }  // IEEE float16

}  // namespace danlu
