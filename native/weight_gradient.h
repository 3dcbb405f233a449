// The gradient of a product's weights, by tiles: y_back^T x in float32, and the sums of y_back's rows, of which the biases' gradient is
// made, on the way. A thread computes 32 rows of the gradient at a time; of both arrays it lays some rows as pairs of neighbours, which
// tiles add up.
#pragma once
#include <algorithm>

#include "words.h"

namespace danlu {

// danlu/nn/native.py has the same. back (rows, outs) and x (rows, ins), bfloat16, rows by strides; weight (outs, ins) and bias (outs),
// float32, are made. outs and ins are multiples of 32; no bias: NULL.
struct WeightGradient {
    const uint16_t *back, *x;
    float *weight, *bias;
    int64_t rows, outs, ins, back_stride, x_stride;
};

constexpr int LAID_ROWS = 512, LAID_COLUMNS = 512;  // that are laid at a time: what stays in a core's second cache
constexpr int GRADIENT_BLOCK = 32;                  // rows and columns of the gradient that are summed at a time
constexpr int64_t GRADIENT_ROOM = LAID_ROWS / 2 * (LAID_COLUMNS + GRADIENT_BLOCK);  // words that a thread needs

#if defined(__AMX_BF16__)

constexpr int TILE_WORDS = TILE * LANES;

// 32 columns of `count` rows, turned, as tiles that lie whole: for each 32 rows two tiles, a column's pairs of neighbouring rows in each
// of their rows, zeros behind the last; and each column's sum.
inline void lay_turned(const uint16_t* from, int64_t stride, int count, int pairs, uint32_t* to, Floats (&sums)[2]) {
    for (int first = 0; first < pairs; first += DEPTH)
        for (int half = 0; half < 2; half++, to += TILE_WORDS) {
            uint32_t square[LANES][LANES];
            for (int i = 0; i < DEPTH; i++) {
                const int row = 2 * (first + i);
                auto numbers = [&](int r) { return r < count ? load_bfloats(from + r * stride + half * LANES) : Floats{}; };
                const Floats even = numbers(row), odd = numbers(row + 1);
                sums[half] += even + odd;
                store(square[i], paired(even, odd));
            }
            turn(square);
            std::memcpy(to, square, sizeof square);
        }
}

// Columns of `count` rows as pairs of neighbouring rows, so that tiles lie whole: (columns / 16, pairs, 16) words.
inline void lay_straight(const uint16_t* from, int64_t stride, int count, int pairs, int columns, uint32_t* to) {
    for (int pair = 0; pair < pairs; pair++)
        for (int column = 0; column < columns; column += LANES) {
            auto numbers = [&](int r) { return r < count ? load_bfloats(from + r * stride + column) : Floats{}; };
            store(to + ((int64_t)column * pairs + pair * LANES), paired(numbers(2 * pair), numbers(2 * pair + 1)));
        }
}

// 32 x 32 numbers of the gradient: what is there, unless these are the first rows, and left^T right.
inline void add_product(const uint32_t* left, const uint32_t* right, int pairs, float* to, int64_t ins, bool first) {
    constexpr int LINE = LANES * sizeof(uint32_t);
    const int64_t width = ins * sizeof(float);
    const uint32_t* beside = right + (int64_t)pairs * LANES;
    float* below = to + TILE * ins;
    if (first) {
        _tile_zero(4);
        _tile_zero(5);
        _tile_zero(6);
        _tile_zero(7);
    } else {
        _tile_loadd(4, to, width);
        _tile_loadd(5, to + LANES, width);
        _tile_loadd(6, below, width);
        _tile_loadd(7, below + LANES, width);
    }
    for (int k = 0; k < pairs; k += DEPTH, left += 2 * TILE_WORDS, right += TILE_WORDS, beside += TILE_WORDS) {
        _tile_loadd(0, left, LINE);
        _tile_loadd(1, left + TILE_WORDS, LINE);
        _tile_loadd(2, right, LINE);
        _tile_loadd(3, beside, LINE);
        _tile_dpbf16ps(4, 0, 2);
        _tile_dpbf16ps(5, 0, 3);
        _tile_dpbf16ps(6, 1, 2);
        _tile_dpbf16ps(7, 1, 3);
    }
    _tile_stored(4, to, width);
    _tile_stored(5, to + LANES, width);
    _tile_stored(6, below, width);
    _tile_stored(7, below + LANES, width);
}

// The gradient's rows from `begin` up to `end`, multiples of 32.
inline void gradient_part(const WeightGradient& s, int64_t begin, int64_t end, uint32_t* room) {
    const Multiplying multiplying;
    uint32_t *x_pairs = room, *backs = x_pairs + LAID_ROWS / 2 * LAID_COLUMNS;
    for (int64_t row = 0; row < s.rows; row += LAID_ROWS) {
        const int count = (int)std::min<int64_t>(LAID_ROWS, s.rows - row), pairs = round_up(count, 2 * DEPTH) / 2;
        for (int64_t column = 0; column < s.ins; column += LAID_COLUMNS) {
            const int wide = (int)std::min<int64_t>(LAID_COLUMNS, s.ins - column);
            lay_straight(s.x + row * s.x_stride + column, s.x_stride, count, pairs, wide, x_pairs);
            for (int64_t out = begin; out < end; out += GRADIENT_BLOCK) {
                Floats sums[2] = {};
                lay_turned(s.back + row * s.back_stride + out, s.back_stride, count, pairs, backs, sums);
                for (int half = 0; s.bias && column == 0 && half < 2; half++) {
                    float* bias = s.bias + out + half * LANES;
                    store(bias, row ? load<Floats>(bias) + sums[half] : sums[half]);
                }
                memory_is_read();
                for (int in = 0; in < wide; in += GRADIENT_BLOCK)
                    add_product(backs, x_pairs + (int64_t)in * pairs, pairs, s.weight + out * s.ins + column + in, s.ins, row == 0);
            }
        }
    }
}

#else

inline void gradient_part(const WeightGradient&, int64_t, int64_t, uint32_t*) {}

#endif

}  // namespace danlu
