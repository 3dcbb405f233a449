// Products of few or many rows with a matrix in any of its kinds. Every row's sums are made in one order, however many rows there are:
// an answer does not depend, to the bit, on what is computed beside it.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstddef>

#include "model.h"
#include "vectors.h"

namespace danlu {

constexpr int GROUP = 32;        // columns that share a weight's scale
constexpr int FINE = 16;         // columns that share an activation's scale
constexpr int MOST_ROWS = 16;    // rows computed at once: as many as registers hold
constexpr int AHEAD = 4096;      // bytes between what is computed with and what is asked of memory
constexpr int BLOCK_ROWS = 128;  // rows that walk over some panels while these are in the cache

// Rows as a product reads them. Integers: signed bytes with a scale for each 16 columns.
struct Rows {
    int32_t kind, columns;  // padded to GROUP
    uint8_t* values;        // (rows, columns) float32, bfloat16 or signed bytes
    float* scales;          // (rows, columns / FINE)
    int32_t* starts;        // (rows, columns / FINE): what a sum begins with, -zero point * sum of the bytes
    float* lows;            // (rows, columns / GROUP): sum of what the bytes stand for, for weights with minimums

    int fine() const { return columns / FINE; }
    int groups() const { return columns / GROUP; }
    static int width(int32_t kind) { return kind == FLOAT32 ? 4 : kind == BFLOAT16 ? 2 : 1; }
};

inline int zero_point(int32_t kind) { return kind == INT8 ? 128 : 8; }

// One row of `count` numbers as products of this kind want it.
inline void put_row(const Rows& to, int row, const float* x, int count) {
    uint8_t* values = to.values + (size_t)row * to.columns * Rows::width(to.kind);
    if (to.kind == FLOAT32) {
        std::memcpy(values, x, count * sizeof(float));
        std::memset(values + count * sizeof(float), 0, (to.columns - count) * sizeof(float));
        return;
    }
    if (to.kind == BFLOAT16) {
        auto* halves = (uint16_t*)values;
        for (int i = 0; i < to.columns; i++) halves[i] = i < count ? bfloat_of(x[i]) : 0;
        return;
    }
    float* scales = to.scales + (size_t)row * to.fine();
    int32_t* starts = to.starts + (size_t)row * to.fine();
    float* lows = to.lows + (size_t)row * to.groups();
    const int zero = zero_point(to.kind);
    auto put = [zero](const float* from, int8_t* bytes, float* scale, int32_t* start, float* low) {  // 64 columns
        Floats part[4];
        for (int i = 0; i < 4; i++) part[i] = load<Floats>(from + i * FINE);
        float fine[4];
        int32_t totals[4];
        bytes_of(part, bytes, fine, totals);
        std::memcpy(scale, fine, sizeof fine);
        for (int i = 0; i < 4; i++) start[i] = -zero * totals[i];
        for (int i = 0; i < 2; i++) low[i] = fine[2 * i] * (float)totals[2 * i] + fine[2 * i + 1] * (float)totals[2 * i + 1];
    };
    int column = 0;
    for (; column + 4 * FINE <= count; column += 4 * FINE)
        put(x + column, (int8_t*)values + column, scales + column / FINE, starts + column / FINE, lows + column / GROUP);
    if (column == to.columns) return;
    float padded[4 * FINE] = {}, scale[4], low[2];
    int8_t bytes[4 * FINE];
    int32_t start[4];
    std::memcpy(padded, x + column, (count - column) * sizeof(float));
    put(padded, bytes, scale, start, low);
    const int left = to.columns - column;  // 32 or 64: rows are padded to 32
    std::memcpy(values + column, bytes, left);
    std::memcpy(scales + column / FINE, scale, left / FINE * sizeof(float));
    std::memcpy(starts + column / FINE, start, left / FINE * sizeof(int32_t));
    std::memcpy(lows + column / GROUP, low, left / GROUP * sizeof(float));
}

#if defined(DANLU_WIDE)
constexpr int AT_ONCE = 16;  // rows whose sums stay in registers
#else
constexpr int AT_ONCE = 4;
#endif

// Where rows begin, every fourth of them: the three behind it are reached from there in one instruction's address, so that pointers of all
// rows need not take turns in the few registers that there are.
template <int T, class Number>
struct Fours {
    const Number* start[(T + 3) / 4];
    std::ptrdiff_t stride;

    Fours(const Number* first, std::ptrdiff_t stride) : stride(stride) {
        for (int i = 0; i < (T + 3) / 4; i++) start[i] = first + 4 * i * stride;
    }
    const Number* row(int t) const { return start[t / 4] + t % 4 * stride; }
    void advance(int columns) {
        for (auto& one : start) one += columns;
    }
};

template <int T>
inline void tile_floats(const uint8_t* panel, const Matrix& m, const Rows& x, int row, Floats* totals) {
    if constexpr (T > AT_ONCE) {
        for (int t = 0; t < T; t += AT_ONCE) tile_floats<AT_ONCE>(panel, m, x, row + t, totals + t);
        return;
    }
    Floats total[T] = {};
    Fours<T, float> from((const float*)x.values + (size_t)row * x.columns, x.columns);
    for (int k = 0; k < x.columns; k++, from.advance(1)) {
        __builtin_prefetch(panel + AHEAD + k * 64);
        Floats w = load<Floats>(panel + k * 64);
        UNROLLED
        for (int t = 0; t < T; t++) total[t] = multiply_add(w, all(*from.row(t)), total[t]);
    }
    UNROLLED
    for (int t = 0; t < T; t++) totals[t] = total[t];
}

template <int T>
inline void tile_bfloats(const uint8_t* panel, const Matrix& m, const Rows& x, int row, Floats* totals) {
    if constexpr (T > AT_ONCE) {
        for (int t = 0; t < T; t += AT_ONCE) tile_bfloats<AT_ONCE>(panel, m, x, row + t, totals + t);
        return;
    }
    Floats total[T] = {};
    Fours<T, uint16_t> from((const uint16_t*)x.values + (size_t)row * x.columns, x.columns);
    for (int k = 0; k < x.columns; k += 2, from.advance(2)) {
        __builtin_prefetch(panel + AHEAD + k * 32);
        Ints w = load<Ints>(panel + k * 32);
        UNROLLED
        for (int t = 0; t < T; t++) total[t] = dot2(total[t], w, all(load<int32_t>(from.row(t))));
    }
    UNROLLED
    for (int t = 0; t < T; t++) totals[t] = total[t];
}

#if defined(DANLU_WIDE)

template <int T, int BITS, bool MINIMUMS>
inline void tile_bytes(const uint8_t* panel, const Matrix&, const Rows& x, int row, Floats* totals) {
    constexpr int BYTES = BITS * 64, SIZE = BYTES + (MINIMUMS ? 64 : 32);  // of one group's weights, and of all that belongs to it
    const int groups = x.groups();
    Fours<T, int8_t> bytes((const int8_t*)x.values + (size_t)row * x.columns, x.columns);
    Fours<T, float> fine(x.scales + (size_t)row * x.fine(), x.fine()), lows(x.lows + (size_t)row * groups, groups);
    Fours<T, int32_t> starts(x.starts + (size_t)row * x.fine(), x.fine());
    Floats total[T] = {};
    for (int g = 0; g < groups; g++, panel += SIZE, bytes.advance(GROUP), fine.advance(2), lows.advance(1), starts.advance(2)) {
        for (int line = 0; line < SIZE; line += 64) __builtin_prefetch(panel + AHEAD + line);
        Ints w[8];
        for (int j = 0; j < BITS; j++) w[j] = load<Ints>(panel + 64 * j);
        if constexpr (BITS == 4)
            for (int j = 0; j < 4; j++) {
                w[j + 4] = (w[j] >> 4) & 0x0f0f0f0f;
                w[j] = w[j] & 0x0f0f0f0f;
            }
        const auto* numbers = (const uint16_t*)(panel + BYTES);
        const Floats scale = load_halves(numbers);
        Floats minimum = {};
        if constexpr (MINIMUMS) minimum = load_halves(numbers + LANES);
        constexpr int SIDE = T > 1 ? 2 : 1;  // rows side by side: four sums at once, since the next of one waits four cycles for the last
        UNROLLED
        for (int t = 0; t < T; t += SIDE) {
            Ints sums[2 * SIDE];
            UNROLLED
            for (int s = 0; s < 2 * SIDE; s++) sums[s] = MINIMUMS ? Ints{} : all(starts.row(t + s / 2)[s % 2]);
            UNROLLED
            for (int j = 0; j < 4; j++) {
                UNROLLED
                for (int s = 0; s < 2 * SIDE; s++) sums[s] = dot4(sums[s], w[j + s % 2 * 4], bytes.row(t + s / 2) + s % 2 * FINE + 4 * j);
            }
            UNROLLED
            for (int s = 0; s < SIDE; s++) {
                Floats both = floats_of(sums[2 * s]) * all(fine.row(t + s)[0]);
                both = multiply_add(floats_of(sums[2 * s + 1]), all(fine.row(t + s)[1]), both);
                total[t + s] = multiply_add(both, scale, total[t + s]);
                if constexpr (MINIMUMS) total[t + s] = multiply_add(minimum, all(*lows.row(t + s)), total[t + s]);
            }
        }
    }
    UNROLLED
    for (int t = 0; t < T; t++) totals[t] = total[t];
}

#else

// With half the registers, or a quarter: 16 columns of weights are kept in them while the rows' sums come from memory and go back to it.
template <int T, int BITS, bool MINIMUMS>
inline void tile_bytes(const uint8_t* panel, const Matrix&, const Rows& x, int row, Floats* totals) {
    constexpr int BYTES = BITS * 64, SIZE = BYTES + (MINIMUMS ? 64 : 32);  // as above
    const int groups = x.groups();
    const int8_t* bytes = (const int8_t*)x.values + (size_t)row * x.columns;
    const float* fine = x.scales + (size_t)row * x.fine();
    const int32_t* starts = x.starts + (size_t)row * x.fine();
    const float* lows = x.lows + (size_t)row * groups;
    for (int t = 0; t < T; t++) totals[t] = Floats{};
    for (int g = 0; g < groups; g++, panel += SIZE) {
        for (int line = 0; line < SIZE; line += 64) __builtin_prefetch(panel + AHEAD + line);
        const auto* numbers = (const uint16_t*)(panel + BYTES);
        const Floats scale = load_halves(numbers);
        for (int half = 0; half < 2; half++) {
            Ints w[4];
            UNROLLED
            for (int j = 0; j < 4; j++) {
                if constexpr (BITS == 4) w[j] = (load<Ints>(panel + 64 * j) >> (4 * half)) & 0x0f0f0f0f;
                else w[j] = load<Ints>(panel + 64 * (4 * half + j));
            }
            for (int t = 0; t < T; t++) {
                const int8_t* a = bytes + t * x.columns + g * GROUP + half * FINE;
                const int f = t * x.fine() + 2 * g + half, start = MINIMUMS ? 0 : starts[f];
                // Weights of 8 bits with minimums were 4 bits once (native/model.h).
                const Ints dots = BITS == 4 || MINIMUMS ? dot16_small(w, a, start) : dot16(w, a, start);
                totals[t] = multiply_add(floats_of(dots), scale * all(fine[f]), totals[t]);
            }
        }
        if constexpr (MINIMUMS) {
            const Floats minimum = load_halves(numbers + LANES);
            for (int t = 0; t < T; t++) totals[t] = multiply_add(minimum, all(lows[t * groups + g]), totals[t]);
        }
    }
}

#endif

template <int T>
inline void tile(const uint8_t* panel, const Matrix& m, const Rows& x, int row, Floats* totals) {
    if (m.kind == FLOAT32) tile_floats<T>(panel, m, x, row, totals);
    else if (m.kind == BFLOAT16) tile_bfloats<T>(panel, m, x, row, totals);
    else if (m.kind == INT8 && m.minimums) tile_bytes<T, 8, true>(panel, m, x, row, totals);
    else if (m.kind == INT8) tile_bytes<T, 8, false>(panel, m, x, row, totals);
    else if (m.minimums) tile_bytes<T, 4, true>(panel, m, x, row, totals);
    else tile_bytes<T, 4, false>(panel, m, x, row, totals);
}

// Rows `row` and following, as many as fit a tile, times one panel: (returned, 16) numbers with the bias.
inline int multiply_panel(const Matrix& m, int panel, const Rows& x, int row, int rows, Floats* totals) {
    const uint8_t* from = m.panels + (size_t)panel * m.panel_bytes;
    const int left = rows - row, count = left >= 16 ? 16 : left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    switch (count) {
        case 16:
            tile<16>(from, m, x, row, totals);
            break;
        case 8:
            tile<8>(from, m, x, row, totals);
            break;
        case 4:
            tile<4>(from, m, x, row, totals);
            break;
        case 2:
            tile<2>(from, m, x, row, totals);
            break;
        default:
            tile<1>(from, m, x, row, totals);
    }
    if (m.bias)
        for (int t = 0; t < count; t++) totals[t] += load<Floats>(m.bias + panel * LANES);
    return count;
}

// This thread's share of x W^T: `sink(panel, row, numbers)` takes 16 of a row; of pairs, `sink(pair, row, numbers of both)`.
template <class Sink>
void multiply(const Matrix& m, const Rows& x, int rows, int threads, std::atomic<int>& next, Sink sink) {
    const int step = m.pairs ? 2 : 1, units = (m.rows + LANES - 1) / LANES / step, chunk = std::max(1, units / (threads * 6));
    Floats totals[2][MOST_ROWS];
    for (int begin; (begin = next.fetch_add(chunk, std::memory_order_relaxed)) < units;)
        for (int block = 0; block < rows; block += BLOCK_ROWS)
            for (int unit = begin; unit < std::min(units, begin + chunk); unit++)
                for (int row = block, end = std::min(rows, block + BLOCK_ROWS), count; row < end; row += count) {
                    count = multiply_panel(m, unit * step, x, row, end, totals[0]);
                    if (m.pairs) multiply_panel(m, unit * step + 1, x, row, end, totals[1]);
                    for (int t = 0; t < count; t++) sink(unit, row + t, totals[0][t], totals[1][t]);
                }
}

// Row `index` of a matrix as numbers: an embedding.
inline void read_row(const Matrix& m, int index, float* to, int count) {
    const uint8_t* panel = m.panels + (size_t)(index / LANES) * m.panel_bytes;
    const int lane = index % LANES, columns = (m.columns + GROUP - 1) / GROUP * GROUP, groups = columns / GROUP;
    const int bytes = m.kind == INT8 ? 512 : 256, size = bytes + (m.minimums ? 64 : 32);
    for (int k = 0; k < count; k++) {
        if (m.kind == FLOAT32) to[k] = ((const float*)panel)[k * LANES + lane];
        else if (m.kind == BFLOAT16) to[k] = float_of(((const uint16_t*)panel)[(k / 2 * LANES + lane) * 2 + k % 2]);
    }
    if (m.kind == FLOAT32 || m.kind == BFLOAT16) return;
    for (int g = 0; g < groups; g++, panel += size) {
        const auto* numbers = (const uint16_t*)(panel + bytes);
        float scales[LANES], minimums[LANES];
        store(scales, load_halves(numbers));
        if (m.minimums) store(minimums, load_halves(numbers + LANES));
        const float scale = scales[lane], minimum = m.minimums ? minimums[lane] : -(float)zero_point(m.kind) * scale;
        for (int i = 0; i < GROUP && g * GROUP + i < count; i++) {
            const int quad = i / 4 % (m.kind == INT8 ? 8 : 4);
            int byte = panel[quad * 64 + lane * 4 + i % 4];
            if (m.kind == INT4) byte = i < 16 ? byte & 15 : byte >> 4;
            to[g * GROUP + i] = scale * (float)byte + minimum;
        }
    }
}

}  // namespace danlu
