// Products of words, for attention: some rows at a time with 16, 32 or 64 columns, pairs by tiles where there are any, all else by vectors;
// and how rows are laid for them. A word of 32 bits holds two bfloat16, which are multiplied as a pair, or one float32.
#pragma once
#include <algorithm>
#include <type_traits>

#include "amx.h"
#include "vectors.h"

namespace danlu {

constexpr int round_up(int count, int whole) { return (count + whole - 1) / whole * whole; }

struct Pairs {
    using Number = uint16_t;
    static constexpr int IN_WORD = 2;
    static Floats load(const Number* from) { return load_bfloats(from); }
    static Floats store(Number* to, Floats x) { return store_bfloats(to, x); }  // what was stored
    static Floats rounded(Floats x) { return rounded_to_bfloats(x); }
    static Floats exponential(Floats x) { return near_exponential(x); }
    static Floats add(Floats total, Ints left, Ints right) { return dot2(total, left, right); }
};

struct Singles {
    using Number = float;
    static constexpr int IN_WORD = 1;
    static Floats load(const Number* from) { return danlu::load<Floats>(from); }
    static Floats store(Number* to, Floats x) {
        danlu::store(to, x);
        return x;
    }
    static Floats rounded(Floats x) { return x; }
    static Floats exponential(Floats x) { return danlu::exponential(x); }
    static Floats add(Floats total, Ints left, Ints right) { return multiply_add((Floats)left, (Floats)right, total); }
};

#if defined(__AMX_BF16__)

constexpr int ROWS = TILE;    // that are multiplied at a time
constexpr int DEPTH = LANES;  // words that are added up at a time
constexpr int WIDE = 4;       // vectors of columns at a time, at most
struct Multiplying {          // what a thread keeps while it multiplies
    Multiplying() { shape_tiles(); }
    ~Multiplying() { _tile_release(); }
};

// sums[r][c] = sum over k of words left[r * row + k * step] . right[k * next + c * side], in 16 lanes. Either row or step is 1.
template <class Word, int C>
inline void multiply_words(const uint32_t* left, int64_t row, int64_t step, const uint32_t* right, int64_t next, int64_t side, int count,
                           Floats (&sums)[ROWS][C]) {
    static_assert(Word::IN_WORD == 2);
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

#if defined(DANLU_WIDE)
constexpr int ROWS = 8;  // that are multiplied at a time: their sums stay in registers
constexpr int WIDE = 2;  // vectors of columns at a time, at most
#else
constexpr int ROWS = 4;
constexpr int WIDE = 1;
#endif
constexpr int DEPTH = 1;  // words that are added up at a time
struct Multiplying {};    // what a thread keeps while it multiplies

// sums[r][c] = sum over k of words left[r * row + k * step] . right[k * next + c * side], in 16 lanes.
template <class Word, int C>
inline void multiply_words(const uint32_t* left, int64_t row, int64_t step, const uint32_t* right, int64_t next, int64_t side, int count,
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
            for (int c = 0; c < C; c++) total[r][c] = Word::add(total[r][c], column[c], both);
        }
    }
    UNROLLED
    for (int r = 0; r < ROWS; r++) UNROLLED
    for (int c = 0; c < C; c++) sums[r][c] = total[r][c];
}

#endif

constexpr int BLOCK = std::max(ROWS, 2 * DEPTH);  // rows come in so many where words of them are added up

// Calls sink(r, vector, sums) with all rows' sums of words (see multiply_words) for so many vectors of columns.
template <class Word, class Sink>
inline void take_words(const uint32_t* left, int64_t row, int64_t step, const uint32_t* right, int64_t next, int64_t side, int vectors,
                       int count, Sink sink) {
    int vector = 0;
    auto part = [&](auto& sums, auto many) {
        for (; vector + many <= vectors; vector += many) {
            multiply_words<Word, many>(left, row, step, right + vector * side, next, side, count, sums);
            for (int r = 0; r < ROWS; r++)
                for (int c = 0; c < many; c++) sink(r, vector + c, sums[r][c]);
        }
    };
    Floats most[ROWS][WIDE], two[ROWS][2], one[ROWS][1];
    part(most, std::integral_constant<int, WIDE>());
    if constexpr (WIDE > 2) part(two, std::integral_constant<int, 2>());
    part(one, std::integral_constant<int, 1>());
}

// Rows as 16 of them side by side: for each 16 rows, for each word of channels, 16 words. Rows beyond `length` and what is beyond the
// channels are 0. Shape: (whole / 16, width, 16) words, `width` of them for all channels.
template <class Word>
inline void lay_lanes(const typename Word::Number* rows, int64_t stride, int length, int whole, int channels, int width, uint32_t* to) {
    for (int begin = 0; begin < whole; begin += LANES)
        for (int word = 0; word < width; word += LANES) {
            uint32_t square[LANES][LANES] = {};
            const int words = std::min(LANES, width - word), there = std::min(words, channels / Word::IN_WORD - word);
            for (int row = 0; row < std::min(LANES, length - begin); row++) {
                const auto* from = rows + (begin + row) * stride + Word::IN_WORD * word;
                if (there == LANES) store(square[row], danlu::load<Ints>(from));
                else std::memcpy(square[row], from, there * sizeof(uint32_t));
            }
            turn(square);
            std::memcpy(to, square, words * sizeof square[0]);
            to += words * LANES;
        }
}

// Numbers of two rows, each of which is a bfloat16, as pairs.
inline Ints paired(Floats even, Floats odd) { return (((Ints)even >> 16) & 0xffff) | ((Ints)odd & (int32_t)0xffff0000); }

// Numbers of neighbouring rows as words of one column each: `row` is the first of ROWS, `to` where the words of row 0 begin.
template <class Word>
inline void put_columns(const Floats (&numbers)[ROWS], int row, int64_t stride, uint32_t* to) {
    for (int r = 0; r < ROWS; r += Word::IN_WORD) {
        const Ints words = Word::IN_WORD == 2 ? paired(numbers[r], numbers[r + Word::IN_WORD - 1]) : (Ints)numbers[r];
        store(to + (row + r) / Word::IN_WORD * stride, words);
    }
}

// Rows as words of one column each: for each two rows, or each row, a word a channel. Rows beyond `length` are 0.
template <class Word>
inline void lay_columns(const typename Word::Number* rows, int64_t stride, int length, int whole, int channels, uint32_t* to) {
    auto numbers = [&](int row, int e) { return row < length ? Word::load(rows + row * stride + e) : Floats{}; };
    for (int row = 0; row < whole; row += Word::IN_WORD, to += channels)
        for (int e = 0; e < channels; e += LANES)
            store(to + e, Word::IN_WORD == 2 ? paired(numbers(row, e), numbers(row + 1, e)) : (Ints)numbers(row, e));
}

// Some rows side by side, each of `width` words; those beyond `count` and what is beyond the channels are 0.
template <class Word>
inline void lay_rows(const typename Word::Number* rows, int64_t stride, int count, int channels, int64_t width, uint32_t* to) {
    struct Eight {  // words: channels come in so many
        uint32_t words[8];
    };
    for (int r = 0; r < ROWS; r++)
        for (int64_t word = 0; word < width; word += 8, to += 8) {
            const bool there = r < count && Word::IN_WORD * word < channels;
            Memory<Eight>::store(to, there ? danlu::load<Eight>(rows + r * stride + Word::IN_WORD * word) : Eight{});
        }
}

}  // namespace danlu
