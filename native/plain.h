// The same in plain C++, in vectors of four, which compilers find instructions for: Arm, and old or unknown processors.
// Part of vectors.h.
#pragma once
#include "two.h"

namespace danlu {

typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef Two<Two<Float4>> Floats;
typedef Two<Two<Int4>> Ints;

inline Floats all(float value) {
    const Float4 four{value, value, value, value};
    return {{four, four}, {four, four}};
}
inline Ints all(int32_t value) {
    const Int4 four{value, value, value, value};
    return {{four, four}, {four, four}};
}
inline Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }

inline Float4 floats_of(Int4 x) { return __builtin_convertvector(x, Float4); }
template <class V>
inline auto floats_of(Two<V> x) -> Two<decltype(floats_of(x.low))> {
    return {floats_of(x.low), floats_of(x.high)};
}
inline Ints rounded(Floats x) {  // to the nearest, halves to even: adding 1.5 * 2^23 leaves the whole number in the last bits
    return (Ints)(x + 12582912.0f) - (Ints)all(12582912.0f);
}
inline Float4 larger(Float4 a, Float4 b) {
    const Int4 second = b > a;  // a NaN in a stays
    return (Float4)((second & (Int4)b) | (~second & (Int4)a));
}
template <class V>
inline Two<V> larger(Two<V> a, Two<V> b) {
    return {larger(a.low, b.low), larger(a.high, b.high)};
}
inline float largest(Floats x) {
    const Float4 four = larger(larger(x.low.low, x.low.high), larger(x.high.low, x.high.high));
    float most = four[0];
    for (int i = 1; i < 4; i++) most = four[i] > most ? four[i] : most;
    return most;
}

// accumulator[i] += sum over b of weights[4 i + b] (unsigned bytes) * four[b] (signed bytes)
inline Ints dot4(Ints accumulator, Ints weights, const int8_t* four) {
    return accumulator + (weights & 255) * (int32_t)four[0] + ((weights >> 8) & 255) * (int32_t)four[1] +
           ((weights >> 16) & 255) * (int32_t)four[2] + ((weights >> 24) & 255) * (int32_t)four[3];
}

// accumulator[i] += sum over b of four[b] (from 0 to 127) * bytes[4 i + b] (signed)
inline Ints dot4_signed(Ints accumulator, Ints bytes, const int8_t* four) {
    return accumulator + ((bytes << 24) >> 24) * (int32_t)four[0] + ((bytes << 16) >> 24) * (int32_t)four[1] +
           ((bytes << 8) >> 24) * (int32_t)four[2] + (bytes >> 24) * (int32_t)four[3];
}

// Sums of 16 columns: start + sum over j, b of w[j][4 i + b] * a[4 j + b]. As numbers: few processors multiply 32 bits as quickly, and up
// to 2^24 whole numbers are exact.
inline Ints dot16(const Ints* w, const int8_t* a, int32_t start) {
    Floats total{};
    UNROLLED
    for (int j = 0; j < 4; j++) UNROLLED
    for (int b = 0; b < 4; b++) total = multiply_add(floats_of((w[j] >> (8 * b)) & 255), all((float)a[4 * j + b]), total);
    return rounded(total) + start;
}
inline Ints dot16_small(const Ints* w, const int8_t* a, int32_t start) { return dot16(w, a, start); }

// 64 numbers as signed bytes, whole numbers to 127 times a scale for each 16 of them; and the sums of each 16 bytes. Bytes cannot say that
// a number is not finite: the scales do.
inline void bytes_of(const Floats* x, int8_t* bytes, float* scales, int32_t* sums) {
    for (int i = 0; i < 4; i++) {
        const float most = largest((Floats)((Ints)x[i] & 0x7fffffff));
        const Ints whole = rounded(x[i] * (127.0f / (most > 1e-30f ? most : 1e-30f)));
        int32_t lanes[LANES];
        Memory<Ints>::store(lanes, whole);
        scales[i] = most / 127.0f;
        sums[i] = 0;
        for (int j = 0; j < LANES; j++) sums[i] += bytes[i * LANES + j] = (int8_t)lanes[j];
    }
    const Floats nothing = (x[0] + x[1] + x[2] + x[3]) * 0.0f;
    const Float4 four = nothing.low.low + nothing.low.high + nothing.high.low + nothing.high.high;
    if (!(four[0] + four[1] + four[2] + four[3] == 0)) scales[0] = scales[1] = scales[2] = scales[3] = NAN;
}

inline Floats load_halves(const uint16_t* from) {  // IEEE float16
    float lanes[LANES];
    for (int i = 0; i < LANES; i++) {
        const uint32_t rest = from[i] & 0x7fff, shifted = rest << 13;
        float value;
        std::memcpy(&value, &shifted, 4);
        value *= 0x1p112f;  // exponents of float16 count from 15, of float32 from 127; exact below the normal numbers too
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        bits |= (uint32_t)(from[i] & 0x8000) << 16 | (rest >= 0x7c00 ? 0x7f800000 : 0);  // infinities and NaN
        std::memcpy(lanes + i, &bits, 4);
    }
    return Memory<Floats>::load(lanes);
}

// Rows of words become columns.
inline void turn(uint32_t (&square)[16][16]) {
    for (int row = 0; row < 16; row++)
        for (int column = 0; column < row; column++) std::swap(square[row][column], square[column][row]);
}

}  // namespace danlu
