// Products of pairs of bfloat16, for attention: some rows at a time with 16, 32 or 64 columns, by tiles where there are any, else by
// vectors; and how rows are laid for them.
#pragma once
#include <algorithm>

#include "amx.h"
#include "vectors.h"

namespace danlu {

constexpr int round_up(int count, int whole) { return (count + whole - 1) / whole * whole; }

#if defined(__AMX_BF16__)

constexpr int ROWS = TILE;    // that are multiplied at a time
constexpr int DEPTH = LANES;  // pairs that are added up at a time
constexpr int WIDE = 4;       // vectors of columns at a time, at most
struct Multiplying {          // what a thread keeps while it multiplies
    Multiplying() { shape_tiles(); }
    ~Multiplying() { _tile_release(); }
};

// sums[r][c] = sum over k of pairs left[r * row + k * step] . right[k * next + c * side], in 16 lanes. Either row or step is 1.
template <int C>
inline void multiply_pairs(const uint32_t* left, int64_t row, int64_t step, const uint32_t* right, int64_t next, int64_t side, int count,
                           Floats (&sums)[ROWS][C]) {
    constexpr int WORD = sizeof(uint32_t), VECTOR = sizeof(Floats);
    uint32_t square[LANES][LANES];
    _tile_zero(4);
    if constexpr (C > 1) {
        _tile_zero(5);
    }
    if constexpr (C > 2) {
        _tile_zero(6);
        _tile_zero(7);
    }
    for (int k = 0; k < count; k += DEPTH, left += DEPTH * step, right += DEPTH * next) {
        if (step == 1) {
            memory_is_read();
            _tile_loadd(0, left, row * WORD);
        } else {
            for (int i = 0; i < DEPTH; i++) std::memcpy(square[i], left + i * step, sizeof square[i]);
            turn(square);
            memory_is_read();
            _tile_loadd(0, square, VECTOR);
        }
        _tile_loadd(1, right, next * WORD);
        _tile_dpbf16ps(4, 0, 1);
        if constexpr (C > 1) {
            _tile_loadd(2, right + side, next * WORD);
            _tile_dpbf16ps(5, 0, 2);
        }
        if constexpr (C > 2) {
            _tile_loadd(3, right + 2 * side, next * WORD);
            _tile_dpbf16ps(6, 0, 3);
            _tile_loadd(1, right + 3 * side, next * WORD);
            _tile_dpbf16ps(7, 0, 1);
        }
    }
    _tile_stored(4, &sums[0][0], C * VECTOR);
    if constexpr (C > 1) {
        _tile_stored(5, &sums[0][1], C * VECTOR);
    }
    if constexpr (C > 2) {
        _tile_stored(6, &sums[0][2], C * VECTOR);
        _tile_stored(7, &sums[0][3], C * VECTOR);
    }
}

#else

constexpr int ROWS = 8;   // that are multiplied at a time: their sums stay in registers
constexpr int DEPTH = 1;  // pairs that are added up at a time
constexpr int WIDE = 2;   // vectors of columns at a time, at most
struct Multiplying {};    // what a thread keeps while it multiplies

// sums[r][c] = sum over k of pairs left[r * row + k * step] . right[k * next + c * side], in 16 lanes.
template <int C>
inline void multiply_pairs(const uint32_t* left, int64_t row, int64_t step, const uint32_t* right, int64_t next, int64_t side, int count,
                           Floats (&sums)[ROWS][C]) {
    Floats total[ROWS][C] = {};
    const uint32_t* later = left + 4 * row;
    for (int k = 0; k < count; k++, left += step, later += step, right += next) {
        Ints column[C];
        UNROLLED
        for (int c = 0; c < C; c++) column[c] = load<Ints>(right + c * side);
        UNROLLED
        for (int r = 0; r < ROWS; r++) {
            const Ints both = all(load<int32_t>((r < 4 ? left : later) + r % 4 * row));
            UNROLLED
            for (int c = 0; c < C; c++) total[r][c] = dot2(total[r][c], column[c], both);
        }
    }
    UNROLLED
    for (int r = 0; r < ROWS; r++) UNROLLED
    for (int c = 0; c < C; c++) sums[r][c] = total[r][c];
}

#endif

constexpr int BLOCK = std::max(ROWS, 2 * DEPTH);  // rows come in so many where pairs of them are added up

// Calls sink(r, vector, sums) with all rows' sums of pairs (see multiply_pairs) for so many vectors of columns.
template <class Sink>
inline void take_pairs(const uint32_t* left, int64_t row, int64_t step, const uint32_t* right, int64_t next, int64_t side, int vectors,
                       int count, Sink sink) {
    int vector = 0;
    auto part = [&](auto& sums, int many) {
        for (; vector + many <= vectors; vector += many) {
            multiply_pairs(left, row, step, right + vector * side, next, side, count, sums);
            for (int r = 0; r < ROWS; r++)
                for (int c = 0; c < many; c++) sink(r, vector + c, sums[r][c]);
        }
    };
    Floats most[ROWS][WIDE], two[ROWS][2], one[ROWS][1];
    part(most, WIDE);
    if constexpr (WIDE > 2) part(two, 2);
    part(one, 1);
}

// Rows of bfloat16 as 16 of them side by side: for each 16 rows, for each two channels, 16 pairs. Rows beyond `length` and what is beyond
// the channels are 0. Shape: (whole / 16, half, 16) words.
inline void lay_lanes(const uint16_t* rows, int64_t stride, int length, int whole, int channels, int half, uint32_t* to) {
    for (int begin = 0; begin < whole; begin += LANES)
        for (int pair = 0; pair < half; pair += LANES) {
            uint32_t square[LANES][LANES] = {};
            const int words = std::min(LANES, half - pair), there = std::min(words, channels / 2 - pair);
            for (int row = 0; row < std::min(LANES, length - begin); row++) {
                const uint16_t* from = rows + (begin + row) * stride + 2 * pair;
                if (there == LANES) store(square[row], load<Ints>(from));
                else std::memcpy(square[row], from, there * sizeof(uint32_t));
            }
            turn(square);
            std::memcpy(to, square, words * sizeof square[0]);
            to += words * LANES;
        }
}

// Numbers of two rows, each of which is a bfloat16, as pairs.
inline Ints paired(Floats even, Floats odd) { return (((Ints)even >> 16) & 0xffff) | ((Ints)odd & (int32_t)0xffff0000); }

// Rows of bfloat16 as pairs of neighbours: for each two rows, for each channel, its two numbers. Rows beyond `length` are 0.
inline void lay_pairs(const uint16_t* rows, int64_t stride, int length, int whole, int channels, uint32_t* to) {
    auto numbers = [&](int row, int e) { return row < length ? load_bfloats(rows + row * stride + e) : Floats{}; };
    for (int row = 0; row < whole; row += 2, to += channels)
        for (int e = 0; e < channels; e += LANES) store(to + e, paired(numbers(row, e), numbers(row + 1, e)));
}

// Some rows side by side, each of `half` pairs; those beyond `count` and what is beyond the channels are 0.
inline void lay_rows(const uint16_t* rows, int64_t stride, int count, int channels, int64_t half, uint32_t* to) {
    struct Eight {  // pairs: channels come in so many
        uint32_t pairs[8];
    };
    for (int r = 0; r < ROWS; r++)
        for (int64_t pair = 0; pair < half; pair += 8, to += 8) {
            const bool there = r < count && 2 * pair < channels;
            Memory<Eight>::store(to, there ? load<Eight>(rows + r * stride + 2 * pair) : Eight{});
        }
}

}  // namespace danlu
