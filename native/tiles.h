// Products by tiles (AMX): 16 rows times 16 weights over 32 columns in one instruction, of bfloat16. They serve the rows of prompts, which
// are many: weights of 8 or 4 bits are widened once for all of them. Answers' rows keep to products.h, so that what a row gets hangs on
// what it is, and not on what is beside it.
#pragma once
#include "amx.h"
#include "products.h"

namespace danlu {

constexpr int READ_ROWS = 32;  // rows of prompts are padded to so many: two tiles

#if defined(__AMX_BF16__)

constexpr int READ_BLOCK = 512;  // rows that walk over widened weights while these are in the cache

// Room for two panels of weights as bfloat16 and for four tiles of sums, in floats.
inline size_t tiles_room(int columns) { return (size_t)(columns + GROUP) * LANES + 4 * TILE * LANES; }

inline void put_read_row(uint16_t* to, const float* x, int count, int columns) {
    for (int i = 0; i < columns; i += LANES) {
        float part[LANES] = {};
        if (i + LANES > count) std::memcpy(part, x + i, std::max(0, count - i) * sizeof(float));
        store_bfloats(to + i, load<Floats>(i + LANES > count ? part : x + i));
    }
}

// One NaN for all: others would become numbers when they are rounded.
inline Floats plain_nan(Floats x) {
    return (Floats)_mm512_mask_mov_ps((__m512)x, _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q), _mm512_set1_ps(NAN));
}

// A panel of 8 or 4 bits as bfloat16: pairs of columns, 16 weights each, as tiles read them.
inline void widen(const Matrix& m, const uint8_t* panel, int groups, uint16_t* to) {
    const int quads = m.kind == INT8 ? 8 : 4, bytes = quads * 64;
    // The bits of q in a float's fraction: 1 + q / 16, or 1 + q / 256.
    const int32_t place = m.kind == INT8 ? 15 : 19;
    const Ints one = all((int32_t)0x3f800000), mask = all((m.kind == INT8 ? 255 : 15) << place);
    const float steps = m.kind == INT8 ? 256.0f : 16.0f;
    auto two = [&](Ints first, Ints second, Floats scale, Floats low, uint16_t* pair) {
        const Floats a = multiply_add((Floats)((first & mask) | one), scale, low),
                     b = multiply_add((Floats)((second & mask) | one), scale, low);
        const Ints even = (Ints)a + 0x8000, odd = (Ints)b + 0x8000;  // to the nearest
        store(pair, (Ints)_mm512_or_si512(_mm512_srli_epi32((__m512i)even, 16), (__m512i)(odd & (int32_t)0xffff0000)));
    };
    for (int g = 0; g < groups; g++, to += GROUP * LANES, panel += bytes + (m.minimums ? 64 : 32)) {
        const auto* numbers = (const uint16_t*)(panel + bytes);
        const Floats scale = plain_nan(load_halves(numbers)) * steps;
        const Floats low = (m.minimums ? plain_nan(load_halves(numbers + LANES)) : scale * (-(float)zero_point(m.kind) / steps)) - scale;
        for (int j = 0; j < quads; j++) {
            const Ints w = load<Ints>(panel + 64 * j);
            uint16_t* pair = to + 4 * j * LANES;
            if (m.kind == INT8) {
                two(w << 15, w << 7, scale, low, pair);
                two((Ints)_mm512_srli_epi32((__m512i)w, 1), (Ints)_mm512_srli_epi32((__m512i)w, 9), scale, low, pair + 2 * LANES);
                continue;
            }
            two(w << 19, w << 11, scale, low, pair);
            two(w << 3, (Ints)_mm512_srli_epi32((__m512i)w, 5), scale, low, pair + 2 * LANES);
            uint16_t* later = pair + GROUP / 2 * LANES;  // high halves: columns 16 to 31
            two(w << 15, w << 7, scale, low, later);
            two((Ints)_mm512_srli_epi32((__m512i)w, 1), (Ints)_mm512_srli_epi32((__m512i)w, 9), scale, low, later + 2 * LANES);
        }
    }
}

// Sums of 32 rows, or of 16, with two panels: (panels, rows / 16, 16, 16) numbers.
template <int TILES>
inline void tile_sums(const uint16_t* rows, int columns, const uint16_t* first, const uint16_t* second, float* sums) {
    memory_is_read();
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (int k = 0; k < columns; k += GROUP) {
        _tile_loadd(0, rows + k, columns * 2);
        _tile_loadd(2, first + k * LANES, 64);
        _tile_dpbf16ps(4, 0, 2);
        _tile_loadd(3, second + k * LANES, 64);
        _tile_dpbf16ps(6, 0, 3);
        if constexpr (TILES == 2) {
            _tile_loadd(1, rows + (size_t)TILE * columns + k, columns * 2);
            _tile_dpbf16ps(5, 1, 2);
            _tile_dpbf16ps(7, 1, 3);
        }
    }
    _tile_stored(4, sums, 64);
    _tile_stored(6, sums + 2 * TILE * LANES, 64);
    if constexpr (TILES == 2) {
        _tile_stored(5, sums + TILE * LANES, 64);
        _tile_stored(7, sums + 3 * TILE * LANES, 64);
    }
}

// This thread's share of x W^T for rows of prompts; `sink` as in multiply. Shapes: x (rows padded to READ_ROWS, columns padded to GROUP).
template <class Sink>
void multiply_read(const Matrix& m, const uint16_t* x, int rows, int threads, std::atomic<int>& next, float* room, Sink sink) {
    const int columns = (m.columns + GROUP - 1) / GROUP * GROUP, panels = (m.rows + LANES - 1) / LANES;
    const int units = (panels + 1) / 2, chunk = std::max(1, units / (threads * 6));
    float* sums = room;
    auto* widened = (uint16_t*)(room + 4 * TILE * LANES);
    shape_tiles();
    for (int begin; (begin = next.fetch_add(chunk, std::memory_order_relaxed)) < units;)
        for (int block = 0; block < rows; block += READ_BLOCK)
            for (int unit = begin; unit < std::min(units, begin + chunk); unit++) {
                const uint16_t* weights[2];
                for (int side = 0; side < 2; side++) {
                    const int panel = std::min(2 * unit + side, panels - 1);
                    const uint8_t* from = m.panels + (size_t)panel * m.panel_bytes;
                    weights[side] = m.kind == BFLOAT16 ? (const uint16_t*)from : widened + (size_t)side * columns * LANES;
                    if (m.kind != BFLOAT16) widen(m, from, columns / GROUP, widened + (size_t)side * columns * LANES);
                }
                for (int row = block, end = std::min(rows, block + READ_BLOCK); row < end; row += READ_ROWS) {
                    const int count = std::min(READ_ROWS, end - row);
                    (count > TILE ? tile_sums<2> : tile_sums<1>)(x + (size_t)row * columns, columns, weights[0], weights[1], sums);
                    for (int t = 0; t < count; t++) {
                        Floats total[2];
                        for (int side = 0; side < 2; side++) {
                            total[side] = load<Floats>(sums + (side * 2 * TILE + t) * LANES);
                            if (m.bias && 2 * unit + side < panels) total[side] += load<Floats>(m.bias + (2 * unit + side) * LANES);
                        }
                        if (m.pairs) {
                            sink(unit, row + t, total[0], total[1]);
                            continue;
                        }
                        sink(2 * unit, row + t, total[0], total[1]);
                        if (2 * unit + 1 < panels) sink(2 * unit + 1, row + t, total[1], total[1]);
                    }
                }
            }
    _tile_release();
}

#else

inline size_t tiles_room(int) { return 0; }
inline void put_read_row(uint16_t*, const float*, int, int) {}
template <class Sink>
void multiply_read(const Matrix&, const uint16_t*, int, int, std::atomic<int>&, float*, Sink) {}

#endif

}  // namespace danlu
